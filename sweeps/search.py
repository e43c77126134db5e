"""Which point comes next. Imports optuna, as only `sweeps.study` does besides; knows no tracker.

The study is in memory and is a fold over the trials so far: `adopt` what was asked before, `tell` what is known, `ask`
for the next. So resuming needs nothing of its own (law 10).
"""

import warnings
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

from sweeps.plan import grid_settings
from sweeps.space import Choice, Range, Space, Value
from sweeps.sweep import Sweep

Setting = dict[str, Value]


class TrialSearch:
    """The sequence of a sweep's trials. Trial k depends on trials 0 … k-1 and the values of 0 … k-concurrency only."""

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._sweep = sweep
        self._distributions = {name: _distribution(dimension) for name, dimension in sweep.space.items()}
        self._cells = grid_settings(sweep.space) if sweep.search == "grid" else []
        self._study = optuna.create_study(sampler=_sampler(sweep, 0), pruner=optuna.pruners.NopPruner())
        self.num_asked = 0

    def ask(self) -> Setting:
        """The setting of the next trial."""
        number = self.num_asked
        self._study.sampler = _sampler(self._sweep, number)
        if (fixed := self._fixed_point(number)) is not None:
            self._study.enqueue_trial(_encode(self._sweep.space, fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        assert trial.number == number
        self.num_asked += 1
        return _decode(self._sweep.space, trial.params)

    def adopt(self, setting: Setting) -> None:
        """A trial that was asked in an earlier start: it stands as RUNNING, without a value, until it is told."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=_encode(self._sweep.space, setting),
                distributions=self._distributions,
            )
        )
        self.num_asked += 1

    def tell(self, number: int, value: float | None) -> None:
        """The objective of a trial; None where it failed."""
        if value is None:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, value)

    def _fixed_point(self, number: int) -> Setting | None:
        if self._sweep.search == "grid":
            return self._cells[number]
        if self._sweep.search == "sobol":
            return sobol_point(self._sweep.space, self._sweep.search_seed, number)
        return None


def learns(sweep: Sweep) -> bool:
    """Whether a proposal depends on the values told before it; without that all trials are known from the start."""
    return sweep.search == "tpe"


def _sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    # Seeded anew for every ask: the sampler keeps no state between trials that a restart could lose.
    seed = int(np.random.SeedSequence((sweep.search_seed, number)).generate_state(1)[0])
    if sweep.search != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def sobol_point(space: Space, seed: int, number: int) -> Setting:
    """Point `number` of one scrambled Sobol' sequence (Owen 1998), mapped onto the space."""
    if not space:
        return {}
    sequence = qmc.Sobol(d=len(space), scramble=True, rng=np.random.default_rng(seed))
    if number:
        sequence.fast_forward(number)
    with warnings.catch_warnings():
        # SciPy warns that one point is not balanced; the sequence as a whole is.
        warnings.simplefilter("ignore", UserWarning)
        point = sequence.random(1)[0]
    return {name: dimension.at(float(u)) for (name, dimension), u in zip(space.items(), point, strict=True)}


def _distribution(dimension: Choice | Range) -> BaseDistribution:
    if isinstance(dimension, Choice):
        # By position, so that any value that JSON can hold may be a choice.
        return CategoricalDistribution(range(len(dimension.values)))
    return range_distribution(dimension)


def range_distribution(dimension: Range) -> BaseDistribution:
    """What Optuna calls a Range."""
    if dimension.is_integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _encode(space: Space, setting: Setting) -> dict[str, Any]:
    return {
        name: dimension.position(setting[name]) if isinstance(dimension, Choice) else setting[name]
        for name, dimension in space.items()
    }


def _decode(space: Space, params: dict[str, Any]) -> Setting:
    return {
        name: dimension.values[params[name]] if isinstance(dimension, Choice) else params[name]
        for name, dimension in space.items()
    }
