"""Which point comes next: a sweep's search as ask and tell. Knows no tracker, and not who trains what it proposes.

The study is in memory and is a fold over the trials so far: `adopt` what was asked before, `tell` what is known, `ask`
for the next. So resuming needs nothing of its own (law 10). A search that doesn't learn only counts them.

Optuna and SciPy take 0.7 s to load, and a grid needs neither, so they are where they are used.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from sweeps.search.points import known_points, too_narrow
from sweeps.search.studies import new_study, suggested_setting, trial_content
from sweeps.spec.searches import LEARNING, MOST_REFUSED, TPE_STARTUP_TRIALS
from sweeps.spec.space import Setting
from sweeps.spec.sweep import Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler


class TrialSearch:
    """The sequence of a sweep's trials. Trial k depends on trials 0 … k-1 and the values of 0 … k-concurrency only."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._points = known_points(sweep)
        self._study = new_study(_sampler(sweep, 0)) if learns(sweep) else None
        self._places: list[int] = []  # in the study, which holds what was refused too
        self.num_asked = 0

    def ask(self) -> Setting:
        """The setting of the next trial."""
        number = self.num_asked
        if number < len(self._points):
            self.adopt(self._points[number])
            return self._points[number]
        if self._study is None:  # what was asked before plays no part
            setting = self._proposed(new_study(_sampler(self._sweep, number)))
        else:
            self._study.sampler = _sampler(self._sweep, number)
            setting = self._proposed(self._study)
        self.adopt(setting)
        return setting

    def adopt(self, setting: Setting) -> None:
        """A trial that needs no proposal, asked in an earlier start or listed: RUNNING, without a value, until told."""
        if self._study is not None:
            from optuna.trial import TrialState, create_trial

            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    **trial_content(self._sweep.space, setting),
                )
            )
            self._places.append(len(self._study.get_trials(deepcopy=False)) - 1)
        self.num_asked += 1

    def tell(self, number: int, value: float | None) -> None:
        """The objective of a trial; None where it failed."""
        assert number < self.num_asked
        if self._study is None:
            return
        if value is None:
            from optuna.trial import TrialState

            self._study.tell(self._places[number], state=TrialState.FAIL)
        else:
            self._study.tell(self._places[number], value)

    def _proposed(self, study: "Study") -> Setting:
        """The sampler's first proposal that is allowed. ValueError where it makes too many that are not."""
        from optuna.exceptions import ExperimentalWarning
        from optuna.trial import TrialState

        for _ in range(MOST_REFUSED):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                trial = study.ask()
                setting = suggested_setting(trial, self._sweep.space, self._sweep.base)
            # Failed, it plays no part. What is allowed is adopted, so that a restart leaves the same study.
            study.tell(trial, state=TrialState.FAIL)
            if self._sweep.allows(setting):
                return setting
        raise too_narrow(self._sweep, self.num_asked)


def learns(sweep: Sweep) -> bool:
    """Whether a proposal depends on the values told before it; without that all trials are known from the start."""
    return sweep.search in LEARNING


def _sampler(sweep: Sweep, number: int) -> "BaseSampler":
    import optuna

    # Seeded anew for every ask: the sampler keeps no state between trials that a restart could lose.
    seed = int(np.random.SeedSequence((sweep.search_seed, number)).generate_state(1)[0])
    if sweep.search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    assert sweep.search == "tpe", sweep.search
    # Optuna's group: fields that are varied under a condition are modelled together where they are varied.
    group = any(dimension.when for dimension in sweep.space.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=TPE_STARTUP_TRIALS, multivariate=True, group=group, constant_liar=True
        )
