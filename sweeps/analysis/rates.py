"""The learning rate: where its optimum lies, how much a wrong one costs, how it grows with the batch. Pure functions.

Losses are means over the other swept parameters, on a full grid, or within what the fit says; NaN counts nowhere.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.analysis.distributions import normal_isf, standard_error, t_isf
from sweeps.analysis.ranking import SIGNIFICANCE, noisy_settings, residual_noise
from sweeps.analysis.settings import (
    MAX_VALUES,
    Floats,
    Plan,
    ends_of,
    is_number,
    is_sampled,
    objectives,
    ordered_values,
    unconditional,
)
from sweeps.space import short

RATE = "learning_rate"
LEAST_SPAN = 3.0  # the fit takes in the rates within this factor of the best, and a neighbour on each side at least
MOST_DECADES = 1.0  # an interval that goes further beyond the rates says nothing
NEARBY = 4.0  # of a range's points, those within this factor of the best
LEAST_BATCHES = 3
LEAST_POINTS = 6  # of a range, for a parabola through them


@dataclass(frozen=True)
class Noise:
    """The residual variance of one run and its degrees of freedom; 0 degrees: unknown."""

    variance: float
    degrees: int


def rate_table(plan: Plan, runs: pd.DataFrame, initial_loss: float) -> pd.DataFrame:
    """The learning rate's optimum and sensitivity, one row for the whole sweep and one a value of each other field.

    `initial_loss` is that before the first update, in nats per token. Columns:

    - parameter, value: the field that is held and its label; "" for the whole sweep.
    - num_rates, best_rate (the swept rate with the lowest mean loss), edge ("low" or "high" where that is the end of
      the space, of which --confirm leaves a part; else "").
    - optimum, optimum_low, optimum_high: of a parabola in log rate through the best rate and its neighbours, a mean a
      seed of its own; the interval is Fieller's (1954), 95 %, with the sweep's residual noise. NaN where the best rate
      is an end, where training is unstable within the fit (a run diverged, or the setting is noisy), where the
      parabola has no minimum, or where rates were drawn and another parameter differs from one to the next; the
      interval is NaN with one seed or where the curvature can't be told from none.
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
    order = [trial["trial"] for trial in plan["trials"]]
    objective_TS = objectives(runs, order)
    noise = Noise(*residual_noise(runs))
    diverged = (runs["state"] == "DIVERGED").groupby(runs["trial"]).any()
    unstable_T = diverged.reindex(order).to_numpy(dtype=np.bool_) | np.isin(order, noisy_settings(runs))
    rate_T = np.array([trial["setting"][RATE] for trial in plan["trials"]], dtype=np.float64)
    groups = [("", "", np.full(len(order), True))]
    for field in unconditional(plan):
        if field == RATE or is_sampled(plan, field) or len(ordered_values(plan, field)) > MAX_VALUES:
            continue
        for value in ordered_values(plan, field):
            inside = np.array([repr(trial["setting"][field]) == repr(value) for trial in plan["trials"]])
            groups.append((field, short(value), inside))
    listed = not is_sampled(plan, RATE)
    ends = ends_of(plan, RATE)
    rows = []
    for field, label, inside in groups:
        if listed and not _is_balanced(plan, inside):
            continue
        is_alone = set(plan["swept"]) <= {RATE, field}
        found = _rate_row(
            rate_T[inside], objective_TS[inside], unstable_T[inside], noise, initial_loss,
            listed=listed, is_alone=is_alone, ends=ends,
        )  # fmt: skip
        if found:
            rows.append({"parameter": field, "value": label, **found})
    return pd.DataFrame(rows, columns=columns)


def _is_balanced(plan: Plan, inside: NDArray[np.bool_]) -> bool:
    """Whether every rate meets the same values of the other fields: else its mean is not the rate's alone."""
    rest: dict[float, set[str]] = {}
    for trial, is_in in zip(plan["trials"], inside, strict=True):
        if is_in:
            others = {field: value for field, value in trial["setting"].items() if field != RATE}
            rest.setdefault(trial["setting"][RATE], set()).add(repr(others))
    return len(set(map(frozenset, rest.values()))) <= 1


def _rate_row(
    rate_T: Floats,
    objective_TS: Floats,
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
        num_rest = min(int(inside.sum()) for inside in same)
        loss_RS = np.array([objective_TS[inside].mean(0) for inside in same])
    else:  # every point has a rate of its own
        if done.sum() < 2:
            return None
        rates, loss_RS, num_rest = rate_T[done], objective_TS[done], 1
        ascending = np.argsort(rates)
        rates, loss_RS = rates[ascending], loss_RS[ascending]
    mean_R = loss_RS.mean(1)
    best = int(mean_R.argmin())
    is_inside = 0 < best < len(rates) - 1
    edge = ""
    if not is_inside and (not listed or rates[best] in ends):
        edge = "low" if best == 0 else "high"
    its_noise = Noise(noise.variance / num_rest, noise.degrees)
    optimum = (math.nan,) * 3
    unstable = set(rate_T[unstable_T])
    window = _window(rates, best)
    if listed and is_inside and not unstable & set(rates[window]):
        optimum = parabola_optimum(np.log10(rates[window]), loss_RS[window], its_noise)
    elif is_alone and not listed:
        window = np.abs(np.log(rates / rates[best])) <= math.log(NEARBY)
        if window.sum() >= LEAST_POINTS:
            optimum = parabola_optimum(np.log10(rates[window]), loss_RS[window].mean(1, keepdims=True), None)
    capped_RS = np.fmin(loss_RS, initial_loss)
    by_seed = capped_RS.mean(0) - capped_RS[best] if listed or is_alone else np.full(loss_RS.shape[1], np.nan)
    return {
        "num_rates": len(rates),
        "best_rate": float(rates[best]),
        "edge": edge,
        "optimum": optimum[0],
        "optimum_low": optimum[1],
        "optimum_high": optimum[2],
        "sensitivity": float(by_seed.mean()),
        "sensitivity_error": standard_error(by_seed) if len(by_seed) > 1 else math.nan,
        "best_loss": float(mean_R[best]),
    }


def _window(rates: Floats, best: int) -> slice:
    """The best rate, a neighbour on each side, and all others within the least span."""
    near = np.flatnonzero(np.abs(np.log(rates / rates[best])) <= math.log(LEAST_SPAN) + 1e-9)
    return slice(min(best - 1, int(near[0])), max(best + 1, int(near[-1])) + 1)


def parabola_optimum(log_rate_R: Floats, loss_RS: Floats, noise: Noise | None) -> tuple[float, float, float]:
    """The rate at the minimum of loss = a x² + b x + c_seed over x = log10(rate), with its 95 % interval (Fieller).

    Least squares; `noise` is the residual variance of a loss, None or 0 degrees: that of the fit. The interval holds
    every rate at which the slope can't be told from zero. NaN where no minimum lies between the rates, or where the
    interval goes on for more than a decade beyond them.
    """
    R, S = loss_RS.shape
    centre = log_rate_R.mean()
    x = np.repeat(log_rate_R - centre, S)
    design = np.column_stack([x**2, x, np.tile(np.eye(S), (R, 1))])
    y = loss_RS.ravel()
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    a, b = float(solution[0]), float(solution[1])
    if rank < design.shape[1] or a <= 0 or not x.min() <= -b / (2 * a) <= x.max():
        return (math.nan,) * 3
    optimum = float(10 ** (centre - b / (2 * a)))
    degrees = len(y) - design.shape[1]
    residual = float(((y - design @ solution) ** 2).sum())
    if noise is not None and noise.degrees:
        variance, degrees = noise.variance, noise.degrees
    elif degrees > 0:
        variance = residual / degrees
    else:
        return optimum, math.nan, math.nan
    covariance = variance * np.linalg.inv(design.T @ design)[:2, :2]
    t = float(t_isf(SIGNIFICANCE / 2, degrees))
    # Zero slope at x: (b + 2 a x)² <= t² (var b + 4 x cov + 4 x² var a).
    quadratic = 4 * (a**2 - t**2 * covariance[0, 0])
    linear = 4 * (a * b - t**2 * covariance[0, 1])
    constant = b**2 - t**2 * covariance[1, 1]
    discriminant = linear**2 - 4 * quadratic * constant
    if quadratic <= 0 or discriminant < 0:
        return optimum, math.nan, math.nan
    low, high = ((-linear + sign * math.sqrt(discriminant)) / (2 * quadratic) for sign in (-1, 1))
    if low < x.min() - MOST_DECADES or high > x.max() + MOST_DECADES:
        return optimum, math.nan, math.nan
    return optimum, float(10 ** (centre + low)), float(10 ** (centre + high))


@dataclass(frozen=True)
class BatchGrowth:
    """How the best rate grows with the effective batch: as batch**exponent."""

    field: str
    exponent: float
    low: float  # 95 %
    high: float
    num_batches: int


def batch_growth(table: pd.DataFrame) -> BatchGrowth | None:
    """The exponent of the best rate in the batch, by weighted least squares in logarithms over a `rate_table`.

    Linear scaling (Goyal et al. 2017) is 1, square-root scaling 0.5. Takes gradient accumulation or the batch size,
    whichever was swept, and the batches whose optimum has an interval; None with fewer than three.
    """
    for field in ("gradient_accumulation_steps", "batch_size"):
        rows = table[(table["parameter"] == field) & table["optimum_low"].notna()]
        if len(rows) < LEAST_BATCHES:
            continue
        x = np.log(rows["value"].astype(float).to_numpy())
        y = np.log(rows["optimum"].to_numpy(dtype=np.float64))
        width = np.log((rows["optimum_high"] / rows["optimum_low"]).to_numpy(dtype=np.float64))
        error = width / (2 * normal_isf(SIGNIFICANCE / 2))
        exponent, half = _weighted_slope(x, y, error)
        return BatchGrowth(field, exponent, exponent - half, exponent + half, len(rows))
    return None


def _weighted_slope(x: Floats, y: Floats, error: Floats) -> tuple[float, float]:
    """Slope and the half width of its 95 % interval; wider where the points scatter more than their errors."""
    weight = 1 / error**2
    centred = x - np.average(x, weights=weight)
    precision = float((weight * centred**2).sum())
    slope = float((weight * centred * y).sum() / precision)
    residual = y - np.average(y, weights=weight) - slope * centred
    degrees = len(x) - 2
    excess = max(1.0, float((weight * residual**2).sum()) / degrees) if degrees else 1.0
    return slope, normal_isf(SIGNIFICANCE / 2) * math.sqrt(excess / precision)
