"""A trainer of the user's own: `Sweep(run=…, version=…)`, where `run` has the signature of `tinylm_core.run`.

What it reads and how it trains only it knows, so its `version` stands for all of that in a run's identity.
Knows no driver.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.spec.catalog import Experiment, executed
from sweeps.spec.config_type import Config, changed, dumped, train_tokens
from sweeps.spec.space import Choice, Value
from sweeps.spec.sweep import Sweep
from sweeps.trainers.contract import train
from sweeps.trainers.protocol import Cost, Identified
from sweeps.trainers.source import SourceCode, source_of
from tinylm_core.records import Metrics

BYTES_A_STEP = 500  # in history and database rows


class OwnTrainer:
    """A plan's view of it: the config is its own, and so is what it costs."""

    def __init__(self, experiment: Experiment) -> None:
        self.file = trainer_file(experiment)
        self._version = experiment.sweep.version

    def fitting(self, sweep: Sweep) -> tuple[Sweep, list[str]]:
        tokens = {train_tokens(config) for config in _corners(sweep)}
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
        return [
            ("trainer", f"its own, version {self._version}"),
            (
                "budget",
                f"{train_tokens(config):,} tokens a run: {config.num_steps:,} steps of {config.tokens_per_step:,}",
            ),
        ]

    def details(self, _config: Config) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class TrainerFile:
    """An experiment file whose sweep has a trainer, as it was read: a worker is sent it and trains with it."""

    version: str
    source: SourceCode

    def __call__(self, config_json: str, **listeners: Any) -> Metrics:
        """`train` with the sweep that the file declares, whatever became of the file, and of what it imports, since."""
        self.source.import_from_here()
        sweep, _ = executed(self.source.file.content, self.source.file.path)
        try:
            return train(sweep, config_json, **listeners)
        except Exception as error:
            error.add_note(self.source.place_in(error) or _place_of(sweep.run))
            raise


def trainer_file(experiment: Experiment) -> TrainerFile | None:
    """The file that workers train with; None where that is `tinylm_core`. ValueError where the sweep is in no file."""
    if experiment.sweep.run is None:
        return None
    if experiment.path is None:
        raise ValueError(f"sweep {experiment.name!r} has a trainer of its own, so it must stand in a file: sweeps.run")
    return TrainerFile(str(experiment.sweep.version), source_of(experiment.path, experiment.source))


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


def _place_of(run: Any) -> str:
    """Where a trainer is defined, as far as it says that."""
    code = getattr(inspect.unwrap(getattr(run, "func", run)), "__code__", None)
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}" if code else repr(run)
