"""What each swept parameter does: the gap by its values, its main effect, and interactions of two. Pure functions.

A full grid is decomposed exactly, as an analysis of variance. Of other searches a random forest is fitted to the
settings and its predictions are decomposed in the same way: functional ANOVA (Hutter, Hoos, Leyton-Brown 2014).
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweeps.analysis.distributions import f_sf, t_isf
from sweeps.analysis.noise import SIGNIFICANCE, Noise, all_complete, residual_variance
from sweeps.analysis.ranking import holm, told_from_first
from sweeps.analysis.settings import (
    Floats,
    Plan,
    comparable_objectives,
    is_full_grid,
    is_log,
    is_number,
    objectives,
    ordered_values,
    unconditional,
    value_groups,
    where_varied,
)
from sweeps.space import MAX_VALUES
from tinylm_core.records import RESULTS

LEAST_SETTINGS = 8  # of fewer no forest is grown
LEAST_EXPLAINED = 0.1  # of the variance: of a forest that predicts less nothing is said
MOST_SETTINGS = 2000  # of more the forest is grown on so many, evenly spread
MOST_CELLS = 20_000  # of the table that a forest fills
TREES = 64


def gaps(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Train against validation by swept parameter and value, over COMPLETE runs, in nats per token.

    Columns: parameter, value (label), num_runs, train_loss, val_loss, gap, gap_standard_error over those runs (which
    differ in the other parameters too; NaN with one), gap_low and gap_high, a 95 % t-interval of the mean.
    """
    complete = runs[runs["state"] == "COMPLETE"]
    tables = []
    for field in plan["swept"]:
        groups = complete.groupby(value_groups(plan, complete, field), observed=False)
        error, count = groups["final_gap"].sem(), groups.size()
        half = error * t_isf(SIGNIFICANCE / 2, np.maximum(count - 1, 1))
        mean = groups["final_gap"].mean()
        table = pd.DataFrame(
            {
                "num_runs": count,
                "train_loss": groups["final_train_loss"].mean(),
                "val_loss": groups["final_val_loss"].mean(),
                "gap": mean,
                "gap_standard_error": error,
                "gap_low": mean - half,
                "gap_high": mean + half,
            }
        )
        table.insert(0, "value", table.index.astype(str))
        table.insert(0, "parameter", field)
        tables.append(table)
    columns = ["parameter", "value", "num_runs", "train_loss", "val_loss", "gap", "gap_standard_error"]
    columns += ["gap_low", "gap_high"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def main_effects(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Each swept parameter's main effect on the objective: the spread of its marginal means, largest first.

    Columns: parameter, best and worst (value labels), spread (nats per token). On a full grid a marginal mean averages
    over all values of the others; on anything else it is only as balanced as the settings that finished. Of a
    field that is varied under a condition those settings count in which it is.
    """
    done = runs[runs["state"].isin(RESULTS)]
    objective = done["objective"].astype(float)
    means = {field: objective.groupby(value_groups(plan, done, field), observed=True).mean() for field in plan["swept"]}
    return _spreads(means)


def tuned_effects(plan: Plan, runs: pd.DataFrame, board: pd.DataFrame, noise: Noise) -> pd.DataFrame:
    """What each swept parameter does to somebody who tunes the others: `main_effects`, of the best setting at a value.

    Where parameters interact, means are of settings that nobody would choose. One more column, p_value: that the worst
    of these settings is no worse than the best (`told_from_first` of them all, Bonferroni over the parameters). `noise`
    is that of the board's settings.
    """
    tuned = {field: isolated(plan, board, field) for field in plan["swept"]}
    table = _spreads({field: one.set_index("value")["objective"].astype(float) for field, one in tuned.items()})
    p_values = []
    for field in table["parameter"]:
        trials = tuned[field].sort_values("objective")["trial"]
        rows = pd.Index(board["trial"]).get_indexer(pd.Index(trials))
        p_values.append(told_from_first(comparable_objectives(runs, trials), noise[rows])[-1] * len(table))
    return table.assign(p_value=np.minimum(p_values, 1.0))


def _spreads(losses: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Of losses by value (label) of each parameter, which has several: the best, the worst and what is between them."""
    rows = [
        {
            "parameter": field,
            "best": str(loss.idxmin()),
            "worst": str(loss.idxmax()),
            "spread": float(loss.max() - loss.min()),
        }
        for field, loss in losses.items()
        if len(loss) > 1
    ]
    table = pd.DataFrame(rows, columns=["parameter", "best", "worst", "spread"])
    return table.sort_values("spread", ascending=False, ignore_index=True)


def decompose(plan: Plan, runs: pd.DataFrame) -> pd.DataFrame:
    """Main effects and two-way interactions as shares of the variance of the objective between settings.

    One row a component, largest share first; a forest's are shares of what it predicts of settings that it was not
    grown on (out of bag R²). Columns: fields (a tuple of one or two), share (0…1), p_value (Holm over
    the components; NaN unless it is a full grid with two seeds or more, all COMPLETE), method ("exact" or "forest").
    What is missing from a sum of 1 are interactions of three and more, and fields that are varied under a condition.
    Empty where too little has finished.
    """
    order = [trial["trial"] for trial in plan["trials"]]
    columns = ["fields", "share", "p_value", "method"]
    if not plan["swept"] or runs.empty:
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


def _grid_table(plan: Plan, mean_T: Floats) -> Floats:
    """The settings' means as an array with an axis a swept field."""
    values = [[repr(value) for value in ordered_values(plan, field)] for field in plan["swept"]]
    table = np.empty([len(one) for one in values])
    for trial, mean in zip(plan["trials"], mean_T, strict=True):
        place = tuple(
            one.index(repr(trial["setting"][field])) for field, one in zip(plan["swept"], values, strict=True)
        )
        table[place] = mean
    return table


def _forest_table(plan: Plan, mean_T: Floats) -> tuple[Floats, float]:
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


def positions(plan: Plan, field: str) -> Floats:
    """Each setting's place on a field's axis: its number or the logarithm of it, else its rank in the space."""
    domain = ordered_values(plan, field)
    values = [trial["setting"][field] for trial in plan["trials"]]
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


def isolated(plan: Plan, board: pd.DataFrame, field: str) -> pd.DataFrame:
    """The best setting at each value of a field, whatever the others are: an isolation plot's points.

    Columns: value (label, in order; of a fine range its quarters), trial, objective, standard_error, and the field's
    own value.
    """
    done = where_varied(plan, board[board["objective"].notna()], field)
    if done.empty:
        return pd.DataFrame(columns=["value", "trial", "objective", "standard_error", field])
    groups = value_groups(plan, done, field)
    best = done.assign(value=groups).sort_values("objective").drop_duplicates("value").sort_values("value")
    return best[["value", "trial", "objective", "standard_error", field]].reset_index(drop=True)


def pair_table(plan: Plan, board: pd.DataFrame, fields: tuple[str, str]) -> pd.DataFrame:
    """Mean objective at each pair of values, rows the first field's, columns the second's; NaN where none finished."""
    done = board[board["objective"].notna()]
    first, second = (value_groups(plan, done, field) for field in fields)
    return done["objective"].astype(float).groupby([first, second], observed=False).mean().unstack()  # noqa: PD010 (a pivot table drops what is missing)


def interesting_pairs(plan: Plan, decomposition: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of fields with several values: those first that interact most, else in the order of the sweep."""
    varied = [field for field in unconditional(plan) if len(ordered_values(plan, field)) > 1]
    pairs: list[Any] = [fields for fields in decomposition["fields"] if len(fields) == 2 and set(fields) <= set(varied)]
    return pairs + [pair for pair in itertools.combinations(varied, 2) if pair not in pairs]
