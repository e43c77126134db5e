"""A trainer of the user's own: `Sweep(run=…, version=…)`, where `run` has the signature of `tinylm_core.run`.

What it reads and how it trains only it knows, so its `version` stands for all of that in a run's identity.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeps.catalog import Experiment, executed
from sweeps.configs import Config, changed, dumped, loaded
from sweeps.space import Choice, Value
from sweeps.sweep import Sweep
from sweeps.trainers import Cost, Identified
from tinylm_core.records import EvalRecord, Metrics, StepRecord

BYTES_A_STEP = 500  # in history and database rows
FLUSH_STEPS = 20
FLUSH_SECONDS = 1.0


class OwnTrainer:
    """A plan's view of it: the config is its own, and so is what it costs."""

    def __init__(self, experiment: Experiment) -> None:
        self.file = trainer_file(experiment)
        self._version = experiment.sweep.version

    def fitting(self, sweep: Sweep) -> tuple[Sweep, list[str]]:
        tokens = {config.num_steps * config.tokens_per_step for config in _corners(sweep)}
        if len(tokens) == 1:
            return sweep, []
        low, high = min(tokens), max(tokens)
        return sweep, [f"not matched: settings train on different numbers of tokens, {low:,} to {high:,}"]

    def is_matched(self, sweep: Sweep) -> bool:
        return not self.fitting(sweep)[1]

    def identified(self, config: Config) -> Identified:
        content = dumped(config) | {"trainer.version": self._version}
        return Identified(config, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())

    def notes_on(self, _runs: Sequence[tuple[str, Config]]) -> list[str]:
        return []

    def work_bytes(self, _config: Config) -> int:
        return 0  # it knows, and we don't

    def disk_bytes(self, config: Config) -> int:
        return BYTES_A_STEP * config.num_steps

    def texts(self, _sweep: Sweep) -> Mapping[str, Path]:
        return {}

    def corpus_of(self, _config_json: str) -> None:
        return None

    def cost(self, _config: Config) -> Cost:
        return Cost(token=1.0)

    def pace(self, _config: Config) -> None:
        return None

    def facts(self, config: Config) -> list[tuple[str, str]]:
        budget = config.num_steps * config.tokens_per_step
        return [
            ("trainer", f"its own, version {self._version}"),
            ("budget", f"{budget:,} tokens a run: {config.num_steps:,} steps of {config.tokens_per_step:,}"),
        ]

    def details(self, _config: Config) -> dict[str, str]:
        return {}


def _corners(sweep: Sweep) -> list[Config]:
    """The base with each field in turn at each of its choices, or at the ends of its range."""
    values: list[dict[str, Value]] = [
        {name: value}
        for name, dimension in sweep.space.items()
        for value in (dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high))
    ]
    corners = [sweep.base]
    for setting in values:
        try:
            corner = changed(sweep.base, setting)
        except ValueError:
            continue  # fits with another value of another field; whole settings are checked one by one
        if sweep.allows(setting):
            corners.append(corner)
    return corners


@dataclass(frozen=True)
class TrainerFile:
    """An experiment file whose sweep has a trainer, as it was read: a worker is sent it and trains with it."""

    path: Path
    content: bytes

    @property
    def sha256(self) -> str:
        """Hex, of the content."""
        return hashlib.sha256(self.content).hexdigest()

    def __call__(self, config_json: str, **listeners: Any) -> Metrics:
        """`train` with the sweep that the file declares, whatever became of the file since."""
        sweep, _ = executed(self.content, self.path)
        return train(sweep, config_json, **listeners)


def trainer_file(experiment: Experiment) -> TrainerFile | None:
    """The file that workers train with; None where that is `tinylm_core`. ValueError where the sweep is in no file."""
    if experiment.sweep.run is None:
        return None
    if experiment.path is None:
        raise ValueError(f"sweep {experiment.name!r} has a trainer of its own, so it must stand in a file: sweeps.run")
    return TrainerFile(experiment.path, experiment.source)


def train(
    sweep: Sweep,
    config_json: str,
    *,
    on_steps: Callable[[list[StepRecord]], None],
    on_eval: Callable[[EvalRecord], None],
    should_stop: Callable[[], bool],
    **where: Any,
) -> Metrics:
    """What the sweep's own `run` makes of a config, held to what a run promises.

    A loss that is not finite ends it as DIVERGED, and nothing of that step or later is kept (law 11). `steps` and
    `evals` of the metrics are what it told. TypeError, ValueError where it breaks its promise.
    """
    assert sweep.run is not None
    config = loaded(type(sweep.base), json.loads(config_json))
    told = Told(on_steps, on_eval, should_stop)
    metrics = sweep.run(
        config, on_steps=told.steps_taken, on_eval=told.evaluated, should_stop=told.should_stop, **where
    )
    if not isinstance(metrics, Metrics):
        raise TypeError(f"run returned {type(metrics).__name__}, not Metrics")
    told.flush()
    if told.diverged_at is not None:
        metrics = replace(metrics, state="DIVERGED", diverged_at=told.diverged_at, weights_sha256=None)
    if metrics.state == "COMPLETE" and not told.evals:
        raise TypeError("run is complete and has told no evaluation (on_eval), so it has no objective")
    return replace(metrics, steps=told.steps, evals=told.evals)


@dataclass
class Told:
    """Between a trainer and who listens: keeps what it tells, up to where its loss is no number any more.

    A trainer may tell step by step; they are passed on together, every 20 or after a second.
    """

    on_steps: Callable[[list[StepRecord]], None]
    on_eval: Callable[[EvalRecord], None]
    asked_to_stop: Callable[[], bool]
    steps: list[StepRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)
    diverged_at: int | None = None
    _num_passed_on: int = 0
    _since: float = field(default_factory=time.monotonic)

    def steps_taken(self, records: Sequence[StepRecord]) -> None:
        """`on_steps` of the trainer. TypeError, ValueError for what are no steps in their order."""
        for record in records:
            if not isinstance(record, StepRecord):
                raise TypeError(f"on_steps takes a list of StepRecord, not of {type(record).__name__}")
            last = self.steps[-1].step if self.steps else 0
            if self.diverged_at is None and record.step != last + 1:
                raise ValueError(f"on_steps was told step {record.step} after step {last}")
            if self.diverged_at is None and not math.isfinite(record.loss):
                self.diverged_at = record.step
            if self.diverged_at is None:
                self.steps.append(record)
        waiting = len(self.steps) - self._num_passed_on
        if waiting >= FLUSH_STEPS or time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def evaluated(self, record: EvalRecord) -> None:
        """`on_eval` of the trainer. TypeError, ValueError as `steps_taken`."""
        self.flush()
        if self.diverged_at is not None:
            return
        if not isinstance(record, EvalRecord):
            raise TypeError(f"on_eval takes an EvalRecord, not {type(record).__name__}")
        if self.evals and record.step <= self.evals[-1].step:
            raise ValueError(f"on_eval was told step {record.step} after step {self.evals[-1].step}")
        if not math.isfinite(record.val_loss + record.train_loss):
            self.diverged_at = record.step
            return
        self.evals.append(record)
        self.on_eval(record)
        self._since = time.monotonic()

    def should_stop(self) -> bool:
        """`should_stop` of the trainer: also where going on can change nothing any more."""
        return self.diverged_at is not None or self.asked_to_stop()

    def flush(self) -> None:
        """Pass on the steps that wait; those that say no tokens per second have that of them all."""
        first = self._num_passed_on
        if len(self.steps) > first:
            tokens = self.steps[-1].tokens - (self.steps[first - 1].tokens if first else 0)
            pace = tokens / max(time.monotonic() - self._since, 1e-9)
            self.steps[first:] = [
                replace(record, tokens_per_second=pace) if math.isnan(record.tokens_per_second) else record
                for record in self.steps[first:]
            ]
            self.on_steps(self.steps[first:])
            self._num_passed_on = len(self.steps)
        self._since = time.monotonic()
