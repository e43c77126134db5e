"""A space in Optuna's terms: studies, trials, distributions. Knows neither sweeps nor the order in which they ask.

Optuna takes 0.7 s to load, and a grid needs none: the functions that need it load it.
"""

from typing import TYPE_CHECKING, Any

from sweeps.spec.settings import is_varied
from sweeps.spec.space import Choice, Range, Setting, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial


def new_study(sampler: "BaseSampler | None") -> "Study":
    """An empty study in memory, minimized, which says nothing and prunes nothing; without a sampler it is Optuna's."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner())


def suggested_setting(trial: "Trial", space: Space, base: object) -> Setting:
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


def trial_content(space: Space, setting: Setting) -> dict[str, Any]:
    """The parameters of a trial and their distributions, as Optuna takes them."""
    varied = {name: dimension for name, dimension in space.items() if is_varied(dimension, setting)}
    return {
        "params": {
            name: dimension.position(setting[name]) if isinstance(dimension, Choice) else setting[name]
            for name, dimension in varied.items()
        },
        "distributions": {name: _distribution(dimension) for name, dimension in varied.items()},
    }


def range_distribution(dimension: Range) -> "BaseDistribution":
    """What Optuna calls a Range."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if dimension.is_integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _distribution(dimension: Choice | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    if isinstance(dimension, Choice):
        # By position, so that any value that JSON can hold may be a choice.
        return CategoricalDistribution(range(len(dimension.values)))
    return range_distribution(dimension)
