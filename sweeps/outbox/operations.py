"""The operations that the tracker is sent, one frozen type each, checked where it is made.

Runs are known by the creation ID that the driver gave them, folders by their path inside the store's own, so that a
store may be moved while operations wait in it. What an operation does to the store is in `sweeps.outbox.sender`.
"""

from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, InstanceOf
from pydantic.dataclasses import dataclass

from sweeps.plan.record import PlanRecord, TrialRecord, plan_from_json, trial_from_json
from sweeps.store import schema
from sweeps.store.holder import Holder
from sweeps.store.layout import check_own
from tinylm_core.records import EvalRecord, StepRecord, UsageRecord

OwnFolder = Annotated[str, AfterValidator(check_own)]  # `work/NAME/…` or `reports/NAME/…`

_CHECKED = ConfigDict(extra="forbid")


def _as_plan(content: object) -> object:
    return plan_from_json(content) if isinstance(content, dict) else content


def _as_trial(content: object) -> object:
    return trial_from_json(content) if isinstance(content, dict) else content


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Hold:
    """Somebody drives the sweep: read from journals of earlier versions alone, as `Release` is."""

    holder: Holder
    op: Literal["hold"] = "hold"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Release:
    """Nobody drives the sweep any more."""

    op: Literal["release"] = "release"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Open:
    """A definition's summary run is made, or taken up again, with its plan."""

    run: str
    name: str
    note: str
    tags: dict[str, str]
    plan: Annotated[InstanceOf[PlanRecord], BeforeValidator(_as_plan)]
    op: Literal["open"] = "open"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Ask:
    """A trial that the search proposed enters its definition's plan."""

    summary: str
    trial: Annotated[InstanceOf[TrialRecord], BeforeValidator(_as_trial)]
    op: Literal["ask"] = "ask"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Dataset:
    """The data of a run as the tracker shows it."""

    name: str
    digest: str
    source: str  # where it is from


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Start:
    """A run's MLflow run is made, or taken up again after an interruption.

    `is_new`: nobody made it before this operation was put, so that a first sending need not look for it.
    """

    run: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    start_time_ms: int
    summary: str | None = None
    dataset: Dataset | None = None
    is_new: bool = False
    op: Literal["start"] = "start"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Reuse:
    """A run, by MLflow's ID, that another definition made counts in this one too."""

    run_id: str
    definition: str
    op: Literal["reuse"] = "reuse"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Records:
    """What a run has done: optimizer steps, evaluations, and at which step its process took what of its machine."""

    run: str
    steps: tuple[StepRecord, ...] = ()
    evals: tuple[EvalRecord, ...] = ()
    usage: tuple[tuple[int, UsageRecord], ...] = ()
    op: Literal["records"] = "records"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class End:
    """A run's end: its artifacts, then its numbers and state; then its work folder goes."""

    run: str
    state: schema.State
    end_time_ms: int
    metrics: dict[str, float] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    artifacts: OwnFolder | None = None
    workdir: OwnFolder | None = None
    op: Literal["end"] = "end"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class MarkDead:
    """A run, by MLflow's ID, says RUNNING and isn't: its driver is gone."""

    run_id: str
    end_time_ms: int
    op: Literal["mark_dead"] = "mark_dead"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class DropWeights:
    """The weights of a run that its sweep doesn't keep go; their digest stays."""

    run_id: str
    op: Literal["drop_weights"] = "drop_weights"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Publish:
    """A folder's files become artifacts of a run; a temporary folder goes once they are there."""

    run: str
    folder: OwnFolder
    artifact_path: str | None
    temporary: bool = False
    op: Literal["publish"] = "publish"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class RemoveRun:
    """A run that nobody wants any more goes, with its files here and there."""

    run_id: str
    workdir: OwnFolder | None = None
    op: Literal["remove_run"] = "remove_run"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class RemoveSweep:
    """What is left of a sweep without runs goes: its experiment, its report, its work."""

    op: Literal["remove_sweep"] = "remove_sweep"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Note:
    """The description of a definition's summary run, and of the experiment, becomes this one."""

    run: str
    note: str
    op: Literal["note"] = "note"


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class KeepModel:
    """The best run of a definition becomes its MLflow model."""

    run_id: str
    definition: str
    op: Literal["model"] = "model"


Operation = (
    Hold | Release | Open | Ask | Start | Reuse | Records | End | MarkDead | DropWeights | Publish | RemoveRun
    | RemoveSweep | Note | KeepModel
)  # fmt: skip


@dataclass(frozen=True)
class Unreadable:
    """A line that is an operation, and none of this version: it stays in its journal, and nothing overtakes it."""

    why: str


def coalesced(first: Operation, second: Operation) -> Operation | None:
    """One operation for two in a row that log what one run has done; None for others."""
    if not isinstance(first, Records) or not isinstance(second, Records) or first.run != second.run:
        return None
    return replace(
        first,
        steps=first.steps + second.steps,
        evals=first.evals + second.evals,
        usage=first.usage + second.usage,
    )


def summary_key(name: str, definition: str) -> str:
    """The creation ID of a definition's summary run."""
    return f"{name}-{definition}"


def dataset_of(source: str | None, fingerprint: str | None) -> Dataset | None:
    """The data by its source, a name or a path, and its digest; None where only the trainer knows them."""
    if fingerprint is None or source is None:
        return None
    return Dataset(name=PurePath(source).name, digest=fingerprint, source=source)
