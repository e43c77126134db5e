"""Which point comes next. Imports optuna, as only `sweeps.study` does besides; knows no tracker.

The study is in memory and is a fold over the trials so far: `adopt` what was asked before, `tell` what is known, `ask`
for the next. So resuming needs nothing of its own (law 10). A search that doesn't learn only counts them.

Optuna and SciPy take 0.7 s to load, and a grid needs neither, so they are where they are used.
"""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.space import Choice, Range, Setting, Space, dimension_from_json, is_varied, setting_at
from sweeps.sweep import COUNTED, MOST_REFUSED, TPE_STARTUP_TRIALS, Sweep, counted_settings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

SOBOL_BATCH = 256  # points that SciPy makes at a time; the sequence is the same however many
MOST_FOR_IMPORTANCE = 1000  # settings: Optuna's forest takes seconds with more


class TrialSearch:
    """The sequence of a sweep's trials. Trial k depends on trials 0 … k-1 and the values of 0 … k-concurrency only."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._points = known_points(sweep)
        self._study = _study(_sampler(sweep, 0)) if learns(sweep) else None
        self._places: list[int] = []  # in the study, which holds what was refused too
        self.num_asked = 0

    def ask(self) -> Setting:
        """The setting of the next trial."""
        number = self.num_asked
        if number < len(self._points):
            self.adopt(self._points[number])
            return self._points[number]
        if self._study is None:  # what was asked before plays no part
            setting = self._proposed(_study(_sampler(self._sweep, number)))
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
                    **_params(self._sweep.space, setting),
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
                setting = _suggested(trial, self._sweep.space, self._sweep.base)
            # Failed, it plays no part. What is allowed is adopted, so that a restart leaves the same study.
            study.tell(trial, state=TrialState.FAIL)
            if self._sweep.allows(setting):
                return setting
        raise too_narrow(self._sweep, self.num_asked)


def importances(
    space: Mapping[str, Mapping[str, Any]], settings: Sequence[Setting], values: Sequence[float]
) -> dict[str, float]:
    """Optuna's importance of each field (functional ANOVA, Hutter et al. 2014), shares of 1; `space` as in plan.json.

    Of many settings a thousand, evenly spread. A field that is varied under a condition has none. Empty where there are
    too few to say, or all values are equal.
    """
    dimensions: Space = {name: dimension_from_json(content) for name, content in space.items()}
    dimensions = {name: dimension for name, dimension in dimensions.items() if not dimension.when}
    if len(dimensions) < 2 or len(settings) < 2 or min(values) == max(values):
        return {}
    import optuna

    study = _study(None)
    places = np.unique(np.linspace(0, len(settings) - 1, MOST_FOR_IMPORTANCE).astype(int))
    study.add_trials(
        [
            optuna.trial.create_trial(
                **_params(dimensions, settings[place]),
                value=values[place],
            )
            for place in places
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def learns(sweep: Sweep) -> bool:
    """Whether a proposal depends on the values told before it; without that all trials are known from the start."""
    return sweep.search == "tpe"


def _study(sampler: "BaseSampler | None") -> "Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner())


def _sampler(sweep: Sweep, number: int) -> "BaseSampler":
    import optuna

    # Seeded anew for every ask: the sampler keeps no state between trials that a restart could lose.
    seed = int(np.random.SeedSequence((sweep.search_seed, number)).generate_state(1)[0])
    if sweep.search != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    # Optuna's group: fields that are varied under a condition are modelled together where they are varied.
    group = any(dimension.when for dimension in sweep.space.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=TPE_STARTUP_TRIALS, multivariate=True, group=group, constant_liar=True
        )


def known_points(sweep: Sweep) -> list[Setting]:
    """All settings of a grid; of others the points that are tried first, and of Sobol' the sequence after them."""
    if sweep.search in COUNTED:
        return counted_settings(sweep)
    points = [dict(point) for point in sweep.points]
    if sweep.search == "sobol":
        points += allowed_points(sweep, max(0, sweep.num_proposed - len(points)))
    return points


def allowed_points(sweep: Sweep, num_points: int) -> list[Setting]:
    """The first points of the sweep's Sobol' sequence that it allows. ValueError where it refuses too many in a row."""
    points: list[Setting] = []
    num_refused = 0
    for point in sobol_sequence(sweep.space, sweep.search_seed, sweep.base):
        if len(points) == num_points:
            break
        if sweep.allows(point):
            points.append(point)
            num_refused = 0
        elif (num_refused := num_refused + 1) == MOST_REFUSED:
            raise too_narrow(sweep, len(sweep.points) + len(points))
    return points


def sobol_sequence(space: Space, seed: int, base: object) -> Iterator[Setting]:
    """One scrambled Sobol' sequence (Owen 1998), mapped onto the space, without end."""
    if not space:
        yield from itertools.repeat({})
    from scipy.stats import qmc

    sequence = qmc.Sobol(d=len(space), scramble=True, rng=np.random.default_rng(seed))
    while True:
        for point in sequence.random(SOBOL_BATCH):
            yield setting_at(space, base, map(float, point))


def too_narrow(sweep: Sweep, number: int) -> ValueError:
    """What a user is told whose constraint leaves too little of the space to find trial `number`."""
    return ValueError(
        f"allowed: refuses {MOST_REFUSED:,} proposals of search={sweep.search!r} in a row for trial {number}; "
        "narrow the space to what it allows"
    )


def _suggested(trial: "Trial", space: Space, base: object) -> Setting:
    """What a trial proposes; a field whose condition doesn't hold is no parameter of it and has the base's value."""
    setting: Setting = {}
    for name, dimension in space.items():
        if not is_varied(dimension, setting):
            setting[name] = getattr(base, name)
        elif isinstance(dimension, Choice):
            setting[name] = dimension.values[trial.suggest_categorical(name, range(len(dimension.values)))]
        elif dimension.is_integer:
            setting[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            setting[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return setting


def _params(space: Space, setting: Setting) -> dict[str, Any]:
    """The parameters of a trial and their distributions, as Optuna takes them."""
    varied = {name: dimension for name, dimension in space.items() if is_varied(dimension, setting)}
    return {
        "params": {
            name: dimension.position(setting[name]) if isinstance(dimension, Choice) else setting[name]
            for name, dimension in varied.items()
        },
        "distributions": {name: _distribution(dimension) for name, dimension in varied.items()},
    }


def _distribution(dimension: Choice | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    if isinstance(dimension, Choice):
        # By position, so that any value that JSON can hold may be a choice.
        return CategoricalDistribution(range(len(dimension.values)))
    return range_distribution(dimension)


def range_distribution(dimension: Range) -> "BaseDistribution":
    """What Optuna calls a Range."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if dimension.is_integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
