"""How much each field matters, by Optuna's evaluators. Knows no tracker, and not how the settings were chosen."""

from collections.abc import Sequence

import numpy as np

from sweeps.search.studies import new_study, trial_content
from sweeps.spec.space import Setting, Space

MOST_FOR_IMPORTANCE = 1000  # settings: Optuna's forest takes seconds with more


def importances(space: Space, settings: Sequence[Setting], values: Sequence[float]) -> dict[str, float]:
    """Optuna's importance of each field (functional ANOVA, Hutter et al. 2014), shares of 1.

    Of many settings a thousand, evenly spread. A field that is varied under a condition has none. Empty where there are
    too few to say, or all values are equal.
    """
    dimensions = {name: dimension for name, dimension in space.items() if not dimension.when}
    if len(dimensions) < 2 or len(settings) < 2 or min(values) == max(values):
        return {}
    import optuna  # which a sweep of one field, or of few settings, need not wait for

    study = new_study(None)
    places = np.unique(np.linspace(0, len(settings) - 1, MOST_FOR_IMPORTANCE).astype(int))
    study.add_trials(
        [
            optuna.trial.create_trial(
                **trial_content(dimensions, settings[place]),
                value=values[place],
            )
            for place in places
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
