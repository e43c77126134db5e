"""How much of the differences each swept field explains: shares of variance, with their tests. Numbers only."""

import itertools
import math

import numpy as np
import pandas as pd

from sweeps.analysis.distributions import f_sf
from sweeps.analysis.noise import all_complete, residual_variance
from sweeps.analysis.ranking import holm
from sweeps.analysis.settings import (
    Floats,
    is_full_grid,
    is_log,
    is_number,
    objectives,
    ordered_values,
    unconditional,
)
from sweeps.plan.record import PlanRecord
from sweeps.spec.space import MAX_VALUES

LEAST_SETTINGS = 8  # of fewer no forest is grown
LEAST_EXPLAINED = 0.1  # of the variance: of a forest that predicts less nothing is said
MOST_SETTINGS = 2000  # of more the forest is grown on so many, evenly spread
MOST_CELLS = 20_000  # of the table that a forest fills
TREES = 64


def decompose(plan: PlanRecord, runs: pd.DataFrame) -> pd.DataFrame:
    """Main effects and two-way interactions as shares of the variance of the objective between settings.

    One row a component, largest share first; a forest's are shares of what it predicts of settings that it was not
    grown on (out of bag R²). Columns: fields (a tuple of one or two), share (0…1), p_value (Holm over
    the components; NaN unless it is a full grid with two seeds or more, all COMPLETE), method ("exact" or "forest").
    What is missing from a sum of 1 are interactions of three and more, and fields that are varied under a condition.
    Empty where too little has finished.
    """
    order = [trial.number for trial in plan.trials]
    columns = ["fields", "share", "p_value", "method"]
    if not plan.swept or runs.empty:
        return pd.DataFrame(columns=columns)
    objective_TS = objectives(runs, order)
    known_T = np.isfinite(objective_TS).any(1)
    mean_T = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in objective_TS])
    if is_full_grid(plan) and known_T.all():
        table, explained, method = _grid_table(plan, mean_T), 1.0, "exact"
    elif known_T.sum() >= LEAST_SETTINGS:
        table, explained = _forest_table(plan, mean_T)
        method = "forest"
    else:
        return pd.DataFrame(columns=columns)
    # A field with one value left, as after --confirm, is no component: it would only count among what is tested.
    components = {axes: effect for axes, effect in _components(table).items() if min(table.shape[a] for a in axes) > 1}
    total = float(table.var())
    if total == 0 or explained < LEAST_EXPLAINED:
        return pd.DataFrame(columns=columns)
    shares = {axes: explained * float((effect**2).mean()) / total for axes, effect in components.items()}
    complete = bool(all_complete(runs, pd.Series(order)).all())
    p_values = (
        _f_tests(table, shares, objective_TS) if method == "exact" and complete else dict.fromkeys(shares, np.nan)
    )
    rows = [
        {
            "fields": tuple(unconditional(plan)[axis] for axis in axes),
            "share": share,
            "p_value": p_values[axes],
            "method": method,
        }
        for axes, share in shares.items()
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False, ignore_index=True, kind="stable")


def _grid_table(plan: PlanRecord, mean_T: Floats) -> Floats:
    """The settings' means as an array with an axis a swept field."""
    values = [[repr(value) for value in ordered_values(plan, field)] for field in plan.swept]
    table = np.empty([len(one) for one in values])
    for trial, mean in zip(plan.trials, mean_T, strict=True):
        place = tuple(one.index(repr(trial.setting[field])) for field, one in zip(plan.swept, values, strict=True))
        table[place] = mean
    return table


def _forest_table(plan: PlanRecord, mean_T: Floats) -> tuple[Floats, float]:
    """What a random forest says of every combination of up to eight values a field (of a range, its quantiles).

    And how much of the variance of settings that a tree was not grown on the trees explain (R², out of bag).
    """
    from sklearn.ensemble import RandomForestRegressor  # slow to import, and a grid needs none

    known = np.flatnonzero(np.isfinite(mean_T))
    known = known[np.unique(np.linspace(0, len(known) - 1, MOST_SETTINGS).astype(int))]
    fields = unconditional(plan)
    place_TF = np.column_stack([positions(plan, field) for field in fields])[known]
    forest = RandomForestRegressor(TREES, random_state=0, n_jobs=1, oob_score=True).fit(place_TF, mean_T[known])
    most = max(2, int(MOST_CELLS ** (1 / len(fields))))
    levels = [_levels(column, min(most, MAX_VALUES)) for column in place_TF.T]
    cells = np.array(list(itertools.product(*levels)))
    table: Floats = forest.predict(cells).reshape([len(one) for one in levels])
    return table, float(forest.oob_score_)


def positions(plan: PlanRecord, field: str) -> Floats:
    """Each setting's place on a field's axis: its number or the logarithm of it, else its rank in the space."""
    domain = ordered_values(plan, field)
    values = [trial.setting[field] for trial in plan.trials]
    if not is_number(domain):
        ranks = {repr(value): float(rank) for rank, value in enumerate(domain)}
        return np.array([ranks[repr(value)] for value in values])
    return np.log(np.array(values, dtype=np.float64)) if is_log(plan, field) else np.array(values, dtype=np.float64)


def _levels(column: Floats, most: int) -> Floats:
    distinct = np.unique(column)
    return distinct if len(distinct) <= most else np.quantile(column, (np.arange(most) + 0.5) / most)


def _components(table: Floats) -> dict[tuple[int, ...], Floats]:
    """Main effects and two-way interactions of an array with an axis a field, each broadcast to the whole array."""
    axes = range(table.ndim)
    effects: dict[tuple[int, ...], Floats] = {}
    for kept in [*itertools.combinations(axes, 1), *itertools.combinations(axes, 2)]:
        rest = tuple(axis for axis in axes if axis not in kept)
        effect = table.mean(axis=rest, keepdims=True) - table.mean()
        for axis in kept if len(kept) == 2 else ():
            effect = effect - effects[(axis,)]
        effects[kept] = effect
    return effects


def _f_tests(table: Floats, shares: dict[tuple[int, ...], float], objective_TS: Floats) -> dict[tuple[int, ...], float]:
    """F tests of the components against the residual of setting + seed, Holm-adjusted; NaN with one seed."""
    variance, degrees = residual_variance(objective_TS)
    if not degrees or variance == 0:
        return dict.fromkeys(shares, math.nan)
    total = float(table.var()) * objective_TS.size
    p_values = []
    for axes, share in shares.items():
        its_degrees = math.prod(table.shape[axis] - 1 for axis in axes)
        f = share * total / max(its_degrees, 1) / variance
        p_values.append(float(f_sf(f, its_degrees, degrees)) if its_degrees else 1.0)
    return dict(zip(shares, map(float, holm(np.array(p_values))), strict=True))
