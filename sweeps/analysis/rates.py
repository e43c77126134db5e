"""The learning rate: where its optimum lies, how much a wrong one costs, how it grows with the batch. Pure functions.

Losses are means over the other swept parameters, on a full grid, or within what the fit says; NaN counts nowhere.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.analysis.distributions import standard_error, t_isf
from sweeps.analysis.noise import SIGNIFICANCE, Noise, noise_by_setting, noise_of, noisy_settings
from sweeps.analysis.ranking import p_values_against_first
from sweeps.analysis.settings import (
    Floats,
    comparable_objectives,
    ends_of,
    is_number,
    is_sampled,
    objectives,
    ordered_values,
    unconditional,
)
from sweeps.plan.record import PlanRecord
from sweeps.spec.naming import short
from sweeps.spec.space import MAX_VALUES, Value

RATE = "learning_rate"
LEAST_SPAN = 3.0  # the fit takes in the rates within this factor of the best, and a neighbour on each side at least
NEARBY = 4.0  # of a range's points, those within this factor of the best
LEAST_BATCHES = 3
LEAST_POINTS = 6  # of a range, for a parabola through them


def rate_table(plan: PlanRecord, runs: pd.DataFrame, initial_loss: float) -> pd.DataFrame:
    """The learning rate's optimum and sensitivity, one row for the whole sweep and one a value of each other field.

    `initial_loss` is that before the first update, in nats per token. Columns:

    - parameter, value: the field that is held and its label; "" for the whole sweep.
    - num_rates, best_rate (the swept rate with the lowest mean loss), edge ("low" or "high" where that is the end of
      the space, of which --confirm leaves a part; else "").
    - optimum: an estimate, the minimum of a parabola in log rate through the best rate and its neighbours. NaN where
      the best rate is an end, where training is unstable within the fit (a run diverged, or the setting is noisy),
      where the parabola has no minimum, or where rates were drawn and another parameter differs from one to the next.
    - optimum_low, optimum_high: between which the optimum lies (95 %, `p_values_against_first`): the nearest rate on
      each side that is distinguished as worse. The noise is the sweep's, or where a rate's loss is a mean over other
      settings that of the means: what a seed does at a rate it may do in all of those. It takes nothing of the curve
      but that it has one valley; an interval around a parabola's minimum misses most optima of a curve that is steeper
      on one side. NaN where no rate on that side is, with one seed, or where another parameter was drawn with the rate.
    - sensitivity, sensitivity_error: mean over the rates of min(loss, initial loss) - best loss (Wortsman et al. 2023,
      arXiv 2309.14322), and its standard error over seeds. Noise alone makes it positive. NaN where rates were drawn
      and another parameter with them, whose effect it would be too.
    - best_loss: the lowest mean loss over the rates.

    Of listed rates, only the rows in which every rate meets the same values of the other fields. Empty where no
    learning rate was swept or too little finished.
    """
    columns = ["parameter", "value", "num_rates", "best_rate", "edge", "optimum", "optimum_low", "optimum_high"]
    columns += ["sensitivity", "sensitivity_error", "best_loss"]
    if RATE not in unconditional(plan) or not is_number(ordered_values(plan, RATE)):
        return pd.DataFrame(columns=columns)
    order = [trial.number for trial in plan.trials]
    objective_TS = objectives(runs, order)
    comparable_TS = comparable_objectives(runs, order)
    noise = noise_of(runs, pd.Series(order))
    diverged = (runs["state"] == "DIVERGED").groupby(runs["trial"]).any()
    unstable_T = diverged.reindex(order).to_numpy(dtype=np.bool_) | np.isin(order, noisy_settings(runs))
    rate_T = np.array([trial.setting[RATE] for trial in plan.trials], dtype=np.float64)
    groups = [("", "", np.full(len(order), True))]
    for field in unconditional(plan):
        if field == RATE or is_sampled(plan, field) or len(ordered_values(plan, field)) > MAX_VALUES:
            continue
        for value in ordered_values(plan, field):
            inside = np.array([repr(trial.setting[field]) == repr(value) for trial in plan.trials])
            groups.append((field, short(value), inside))
    listed = not is_sampled(plan, RATE)
    ends = ends_of(plan, RATE)
    rows = []
    for field, label, inside in groups:
        if listed and not _is_balanced(plan, inside):
            continue
        is_alone = set(plan.swept) <= {RATE, field}
        found = _rate_row(
            rate_T[inside], objective_TS[inside], comparable_TS[inside], unstable_T[inside], noise[inside],
            initial_loss,
            listed=listed, is_alone=is_alone, ends=ends,
        )  # fmt: skip
        if found:
            rows.append({"parameter": field, "value": label, **found})
    return pd.DataFrame(rows, columns=columns)


def _is_balanced(plan: PlanRecord, inside: NDArray[np.bool_]) -> bool:
    """Whether every rate meets the same values of the other fields: else its mean is not the rate's alone."""
    rest: dict[Value, set[str]] = {}
    for trial, is_in in zip(plan.trials, inside, strict=True):
        if is_in:
            others = {field: value for field, value in trial.setting.items() if field != RATE}
            rest.setdefault(trial.setting[RATE], set()).add(repr(others))
    return len(set(map(frozenset, rest.values()))) <= 1


def _rate_row(
    rate_T: Floats,
    objective_TS: Floats,
    comparable_TS: Floats,
    unstable_T: NDArray[np.bool_],
    noise: Noise,
    initial_loss: float,
    *,
    listed: bool,
    is_alone: bool,
    ends: tuple[float, float],
) -> dict[str, object] | None:
    done = np.isfinite(objective_TS).all(1)
    rates = np.unique(rate_T[done])
    if listed:  # a table rates x seeds, balanced where the rest is
        if len(rates) < 2:
            return None
        same = [(rate_T == rate) & done for rate in rates]
        is_mean = max(int(inside.sum()) for inside in same) > 1
        loss_RS = np.array([objective_TS[inside].mean(0) for inside in same])
        comparable_RS = np.array([comparable_TS[inside].mean(0) for inside in same])
        noise = noise_by_setting(comparable_RS) if is_mean else noise[[int(inside.argmax()) for inside in same]]
    else:  # every point has a rate of its own
        if done.sum() < 2:
            return None
        is_mean, ascending = False, np.flatnonzero(done)[np.argsort(rate_T[done])]
        rates, loss_RS, comparable_RS = rate_T[ascending], objective_TS[ascending], comparable_TS[ascending]
        noise = noise[ascending]
    mean_R = loss_RS.mean(1)
    best = int(mean_R.argmin())
    is_inside = 0 < best < len(rates) - 1
    edge = ""
    if not is_inside and (not listed or rates[best] in ends):
        edge = "low" if best == 0 else "high"
    optimum, low, high = math.nan, math.nan, math.nan
    unstable = set(rate_T[unstable_T])
    window = _window(rates, best)
    if listed and is_inside and not unstable & set(rates[window]):
        optimum = parabola_minimum(rates[window], mean_R[window])
    elif is_alone and not listed:
        near = np.abs(np.log(rates / rates[best])) <= math.log(NEARBY)
        if near.sum() >= LEAST_POINTS:
            optimum = parabola_minimum(rates[near], mean_R[near])
    if listed or is_alone:
        low, high = valley(rates, comparable_RS, best, noise)
    capped_RS = np.fmin(loss_RS, initial_loss)
    by_seed = capped_RS.mean(0) - capped_RS[best] if listed or is_alone else np.full(loss_RS.shape[1], np.nan)
    return {
        "num_rates": len(rates),
        "best_rate": float(rates[best]),
        "edge": edge,
        "optimum": optimum,
        "optimum_low": low,
        "optimum_high": high,
        "sensitivity": float(by_seed.mean()),
        "sensitivity_error": standard_error(by_seed) if len(by_seed) > 1 else math.nan,
        "best_loss": float(mean_R[best]),
    }


def _window(rates: Floats, best: int) -> slice:
    """The best rate, a neighbour on each side, and all others within the least span."""
    near = np.flatnonzero(np.abs(np.log(rates / rates[best])) <= math.log(LEAST_SPAN) + 1e-9)
    return slice(min(best - 1, int(near[0])), max(best + 1, int(near[-1])) + 1)


def parabola_minimum(rates: Floats, loss_R: Floats) -> float:
    """The rate at the minimum of a least-squares parabola in log rate; NaN where none lies between the rates."""
    x = np.log(rates / rates[0])
    a, b, _ = np.polyfit(x, loss_R, 2)
    if a <= 0 or not 0 <= -b / (2 * a) <= x[-1]:
        return math.nan
    return float(rates[0] * math.exp(-b / (2 * a)))


def valley(rates: Floats, loss_RS: Floats, best: int, noise: Noise) -> tuple[float, float]:
    """The nearest rates below and above the best that are distinguished as worse; NaN where none is.

    If the loss falls towards its minimum over the rate from both sides, the minimum lies between them. `noise` is
    that of the rates.
    """
    order = np.argsort(np.arange(len(rates)) != best, kind="stable")
    p_R = np.empty(len(rates))
    p_R[order] = p_values_against_first(loss_RS[order], noise[order])
    worse = np.flatnonzero(p_R < SIGNIFICANCE)
    below, above = worse[worse < best], worse[worse > best]
    return (
        float(rates[below[-1]]) if len(below) else math.nan,
        float(rates[above[0]]) if len(above) else math.nan,
    )


@dataclass(frozen=True)
class BatchGrowth:
    """How the best rate grows with the effective batch: as batch**exponent."""

    field: str
    exponent: float
    low: float  # 95 %
    high: float
    num_batches: int


def batch_growth(table: pd.DataFrame) -> BatchGrowth | None:
    """The exponent of the best rate in the batch, by least squares in logarithms over the optima of a `rate_table`.

    Linear scaling (Goyal et al. 2017) is 1, square-root scaling 0.5. The interval is that of the slope, by the scatter
    of the optima around the line. Takes gradient accumulation or the batch size, whichever was swept; None with fewer
    than three optima.
    """
    for field in ("gradient_accumulation_steps", "batch_size"):
        rows = table[(table["parameter"] == field) & table["optimum"].notna()]
        if len(rows) < LEAST_BATCHES:
            continue
        x = np.log(rows["value"].astype(float).to_numpy())
        y = np.log(rows["optimum"].to_numpy(dtype=np.float64))
        centred, degrees = x - x.mean(), len(x) - 2
        exponent = float(centred @ y / (centred @ centred))
        residual = y - y.mean() - exponent * centred
        error = math.sqrt(float(residual @ residual) / degrees / float(centred @ centred))
        half = float(t_isf(SIGNIFICANCE / 2, degrees)) * error
        return BatchGrowth(field, exponent, exponent - half, exponent + half, len(rows))
    return None
