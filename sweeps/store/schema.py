"""What the store holds: the names of its tags and metrics, in one place for both sides, and a run as plain data.

Knows no MLflow call, only the names that MLflow's own pages read.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Literal

from sweeps.plan.record import PlanRecord
from sweeps.store.attempts import AttemptOrder, attempt_order
from tinylm_core.config import RunConfig
from tinylm_core.records import EvalRecord, Metrics, UsageRecord

Role = Literal["run", "summary", "reproduction"]
State = Literal["RUNNING", "COMPLETE", "DIVERGED", "FAILED", "INTERRUPTED"]

# Tags of a run
ROLE = "sweep.role"
SWEEP = "sweep.name"  # of an experiment too: it says that the experiment is ours
DEFINITION = "sweep.definition"  # the one that made the run first
MEMBER = "sweep.in."  # with a definition after it: the run counts in that one too; for MLflow's filters
SUMMARY_RUN = "sweep.summary_run"
SETTING = "sweep.setting"
FILE = "sweep.file"
CREATION = "sweep.creation_id"  # one a create call, so that a repeated call finds what the first one made
RETRY_OF = "sweep.retry_of"
REPRODUCTION_OF = "sweep.reproduction_of"
TRIAL = "trial.number"
STATE = "trial.state"
DIVERGED_AT = "trial.diverged_at"  # the first step whose loss or gradient norm was not finite
ERROR = "trial.error"  # what a failed run raised
IDENTITY = "run.identity"  # as the version that made the run computed it
FINGERPRINT = "data.fingerprint"
NUMERICS = "numerics.version"
TRAINER = "trainer.version"  # of a sweep with a trainer of its own
TRAINER_SOURCE = "trainer.sha256"  # of its code
HISTORY_DIGEST = "history.sha256"  # of history.parquet
WEIGHTS = "weights.sha256"
WEIGHTS_KEPT = "weights.kept"  # "false" where the sweep keeps only its best runs' weights
NUM_PARAMETERS = "model.num_parameters"
VOCAB_SIZE = "model.vocab_size"
DEVICE = "machine.device"
THREADS = "machine.threads"
VARIABLES = "machine.environment"  # variables that change bits; no tag where none is set
DIRTY = "code.dirty"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"
HOLDER = "sweep.holder"  # of an experiment: the driver at work, as JSON
LEASE = "sweep.lease"  # of an experiment that only stands for an epoch: the nonce of who has won it
EPOCH = "sweep.epoch"  # of a run on a server: that of the driver that made it
DATASET_CONTEXT = "mlflow.data.context"  # of a dataset input

# Without it the experiment's page asks what kind of project it is.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# What a list of sweeps needs of a run
LISTED_TAGS = (ROLE, DEFINITION, STATE, IDENTITY, SETTING, EPOCH)
LISTED_METRICS = ("objective",)

PLAN = "plan.json"  # artifact of the summary run
CONFIG = "config.json"  # artifact of a run: its config, typed as JSON has it
ENVIRONMENT = "environment.txt"  # artifact of a run
DIFF = "code.diff"  # artifact of a run whose checkout was dirty
CHECKPOINT = "checkpoint"  # artifact of a run: the folder with its final weights

STATUS: Mapping[State, str] = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "DIVERGED": "FINISHED",
    "FAILED": "FAILED",
    "INTERRUPTED": "KILLED",
}

# Metric → attribute of the record that has its value
STEP_METRICS = {
    "train/loss": "loss",
    "train/learning_rate": "learning_rate",
    "train/grad_norm": "grad_norm",
    "train/tokens": "tokens",
    "train/tokens_per_second": "tokens_per_second",
}
SKIPPED = "train/skipped"  # 1, only at the steps that were
TOKENS_AT_EVAL = "eval/train_tokens"  # an axis for what is evaluated, in MLflow's charts
EVAL_METRICS = {
    "val/loss": "val_loss",
    "val/loss_standard_error": "val_loss_standard_error",
    "val/perplexity": "val_perplexity",
    "eval/train_loss": "train_loss",
    "eval/train_loss_standard_error": "train_loss_standard_error",
    "eval/gap": "gap",
    TOKENS_AT_EVAL: "tokens",
}
HISTORY_METRICS = (*STEP_METRICS, SKIPPED, *EVAL_METRICS)

# As MLflow names them, whose page "System metrics" then has them; but of the run's process, not of the whole machine.
USAGE_METRICS = {
    "system/cpu_utilization_percentage": "cpu_percent",
    "system/system_memory_usage_megabytes": "memory_megabytes",
    "system/system_memory_usage_percentage": "memory_percent",
    "system/gpu_0_memory_usage_megabytes": "gpu_memory_megabytes",
    "system/gpu_0_memory_usage_percentage": "gpu_memory_percent",
    "system/gpu_0_utilization_percentage": "gpu_utilization_percent",
    "system/gpu_0_power_usage_watts": "gpu_power_watts",
}

_RESULTS = ("val_loss", "train_loss", "gap", "val_perplexity")
OBJECTIVE = "objective"
TOKENS_PER_SECOND = "final/tokens_per_second"
SUMMARY_METRICS = (
    *(f"final/{result}" for result in _RESULTS),
    *(f"best/{result}" for result in _RESULTS),
    OBJECTIVE,
    TOKENS_PER_SECOND,
)


@dataclass(frozen=True)
class RunRow:
    """One MLflow run of a sweep, as data."""

    run_id: str
    name: str
    experiment_id: str
    status: str  # MLflow's own
    state: str  # ours, finer
    role: str
    trial: int | None  # the number in the definition that made it
    seed: int | None
    params: dict[str, str]
    config: RunConfig | None  # None where today's RunConfig can't read the params, or a trainer of its own takes others
    identity: str | None  # of `config`, today; where that is None, what the run was tagged with
    tags: dict[str, str]
    metrics: dict[str, float]  # latest values
    start_time: datetime | None
    end_time: datetime | None  # None while it runs

    @property
    def attempt(self) -> AttemptOrder:
        """Where it stands among the attempts at one piece of science: `attempt_order`."""
        start = self.start_time.timestamp() if self.start_time else 0
        return attempt_order(self.state, start, self.run_id, self.tags.get(EPOCH))


@dataclass(frozen=True)
class Definition:
    """One definition of a sweep that the store knows."""

    definition: str
    run_id: str  # of its summary run
    plan: PlanRecord | None  # None where plan.json has not arrived yet, or can't be read
    problem: str = ""  # why it can't be read


def column(metric: str) -> str:
    """The DataFrame column of a metric: `final/val_loss` → `final_val_loss`."""
    return metric.replace("/", "_")


def finite_or_inf(value: float) -> float:
    """A metric's value as it was logged: a database holds no infinity, so MLflow stores the largest float for it."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def summary_metrics(metrics: Metrics) -> dict[str, float]:
    """What a run's end is logged with: `final/…`, `best/…` and objective, in nats per token, and its median speed."""
    summary: dict[str, float] = {}
    if metrics.evals:
        summary |= {f"final/{result}": getattr(metrics.final, result) for result in _RESULTS}
        summary |= {f"best/{result}": getattr(metrics.best, result) for result in _RESULTS}
    if metrics.evals or metrics.state == "DIVERGED":
        summary[OBJECTIVE] = metrics.objective
    if paces := [record.tokens_per_second for record in metrics.steps if not math.isnan(record.tokens_per_second)]:
        summary[TOKENS_PER_SECOND] = median(paces)
    return summary


def eval_metrics(record: EvalRecord) -> dict[str, float]:
    """The metrics of one evaluation by name."""
    return {metric: float(getattr(record, attribute)) for metric, attribute in EVAL_METRICS.items()}


def usage_metrics(record: UsageRecord) -> dict[str, float]:
    """The metrics of one look at a run's process, by name; a run has one GPU, whichever of the machine's it is."""
    values = {metric: getattr(record, attribute) for metric, attribute in USAGE_METRICS.items()}
    return {metric: float(value) for metric, value in values.items() if value is not None}


def identities_today(rows: Iterable[RunRow]) -> dict[str, str]:
    """What a plan made before a field was added calls a run → the run's identity today (law 7)."""
    return {row.tags[IDENTITY]: row.identity for row in rows if IDENTITY in row.tags and row.identity is not None}
