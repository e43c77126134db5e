"""A trainer of the user's own: `Sweep(run=…, version=…)`, where `run` has the signature of `tinylm_core.run`.

What it reads and how it trains only it knows, so its `version` stands for all of that in a run's identity.
Knows no driver.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sweeps.spec.catalog import Experiment
from sweeps.spec.config_type import Config, changed, dumped, train_tokens
from sweeps.spec.space import Choice, Value
from sweeps.spec.sweep import Sweep
from sweeps.trainers.protocol import Cost, Identified
from sweeps.trainers.trainer_file import trainer_file

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
