"""What each swept parameter does: the gap by its values, its main effect, and interactions of two. Pure functions.

A full grid is decomposed exactly, as an analysis of variance. Of other searches a random forest is fitted to the
settings and its predictions are decomposed in the same way: functional ANOVA (Hutter, Hoos, Leyton-Brown 2014).
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweeps.analysis.distributions import t_isf
from sweeps.analysis.noise import SIGNIFICANCE, Noise
from sweeps.analysis.ranking import p_values_against_first
from sweeps.analysis.settings import (
    comparable_objectives,
    ordered_values,
    unconditional,
    value_groups,
    where_varied,
)
from sweeps.plan.record import PlanRecord
from tinylm_core.records import RESULTS


def gaps(plan: PlanRecord, runs: pd.DataFrame) -> pd.DataFrame:
    """Train against validation by swept parameter and value, over COMPLETE runs, in nats per token.

    Columns: parameter, value (label), num_runs, train_loss, val_loss, gap, gap_standard_error over those runs (which
    differ in the other parameters too; NaN with one), gap_low and gap_high, a 95 % t-interval of the mean.
    """
    complete = runs[runs["state"] == "COMPLETE"]
    tables = []
    for field in plan.swept:
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


def main_effects(plan: PlanRecord, runs: pd.DataFrame) -> pd.DataFrame:
    """Each swept parameter's main effect on the objective: the spread of its marginal means, largest first.

    Columns: parameter, best and worst (value labels), spread (nats per token). On a full grid a marginal mean averages
    over all values of the others; on anything else it is only as balanced as the settings that finished. Of a
    field that is varied under a condition those settings count in which it is.
    """
    done = runs[runs["state"].isin(RESULTS)]
    objective = done["objective"].astype(float)
    means = {field: objective.groupby(value_groups(plan, done, field), observed=True).mean() for field in plan.swept}
    return _spreads(means)


def tuned_effects(plan: PlanRecord, runs: pd.DataFrame, board: pd.DataFrame, noise: Noise) -> pd.DataFrame:
    """What each swept parameter does to somebody who tunes the others: `main_effects`, of the best setting at a value.

    Where parameters interact, means are of settings that nobody would choose. One more column, p_value: that the worst
    of these settings is no worse than the best (`p_values_against_first` of them all, Bonferroni over the parameters).
    `noise` is that of the board's settings.
    """
    tuned = {field: isolated(plan, board, field) for field in plan.swept}
    table = _spreads({field: one.set_index("value")["objective"].astype(float) for field, one in tuned.items()})
    p_values = []
    for field in table["parameter"]:
        trials = tuned[field].sort_values("objective")["trial"]
        rows = pd.Index(board["trial"]).get_indexer(pd.Index(trials))
        p_values.append(p_values_against_first(comparable_objectives(runs, trials), noise[rows])[-1] * len(table))
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


def isolated(plan: PlanRecord, board: pd.DataFrame, field: str) -> pd.DataFrame:
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


def pair_table(plan: PlanRecord, board: pd.DataFrame, fields: tuple[str, str]) -> pd.DataFrame:
    """Mean objective at each pair of values, rows the first field's, columns the second's; NaN where none finished."""
    done = board[board["objective"].notna()]
    first, second = (value_groups(plan, done, field) for field in fields)
    return done["objective"].astype(float).groupby([first, second], observed=False).mean().unstack()  # noqa: PD010 (a pivot table drops what is missing)


def interesting_pairs(plan: PlanRecord, decomposition: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of fields with several values: those first that interact most, else in the order of the sweep."""
    varied = [field for field in unconditional(plan) if len(ordered_values(plan, field)) > 1]
    pairs: list[Any] = [fields for fields in decomposition["fields"] if len(fields) == 2 and set(fields) <= set(varied)]
    return pairs + [pair for pair in itertools.combinations(varied, 2) if pair not in pairs]
