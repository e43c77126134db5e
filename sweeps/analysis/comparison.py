"""Two sides of one question, held against each other: settings paired, seeds paired. Pure functions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sweeps.analysis.distributions import f_sf, t_isf, t_sf
from sweeps.analysis.noise import SIGNIFICANCE, outlying
from sweeps.analysis.ranking import holm
from sweeps.analysis.settings import Floats, diverged_alike


@dataclass(frozen=True)
class Difference:
    """A mean difference B - A in nats per token, with its 95 % t-interval; NaN where fewer than two seeds tell it."""

    mean: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True)
class Comparison:
    """What changed from A to B.

    cells: one row a setting that both have, in A's order: setting, a, b (mean objectives over the shared seeds),
    difference, low, high (95 %), p_value (Holm over the settings), num_seeds.
    mixed: the settings of which on a side only some seeds diverged, which is no seed noise: they have no interval, and
    count in no other.
    tuned: B at its best setting against A at its own, chosen among those that both have. overall: all cells, a mean
    over settings for each seed that all have, since what a seed does to one side it may do to all settings there.
    """

    cells: pd.DataFrame
    best_a: str
    best_b: str
    tuned: Difference
    overall: Difference
    mixed: list[str]


def hold_together(a: pd.DataFrame, b: pd.DataFrame) -> Comparison:
    """Pair two sides' runs, columns setting, seed, state and objective (nats per token), by setting and seed.

    A difference's noise is pooled over the settings that are not `noise.outlying`, which stand on their own; with one
    seed nothing has an interval. ValueError where no setting and seed is on both sides.
    """
    both = a.merge(b, on=["setting", "seed"], suffixes=("_a", "_b"), sort=False)
    if both.empty:
        raise ValueError(
            "the two have no setting with the same seed in common but what are the same runs, so nothing can be paired"
        )
    both = both.assign(difference=(both["objective_b"] - both["objective_a"]).astype(float))
    grouped = both.groupby("setting", sort=False)
    count, mean = grouped.size(), grouped["difference"].mean()
    within = both["difference"] - grouped["difference"].transform("mean")
    squares = (within**2).groupby(both["setting"], sort=False).sum()
    own: Floats = (squares / np.maximum(count - 1, 1)).to_numpy(dtype=np.float64)
    alike = diverged_alike(both["state_a"], both["setting"]) & diverged_alike(both["state_b"], both["setting"])
    is_mixed = ~alike.groupby(both["setting"], sort=False).all().to_numpy(dtype=np.bool_)
    alone = is_mixed.copy()
    alone[~is_mixed] = outlying(own[~is_mixed], int(count.min()) - 1)
    degrees = int((count - 1)[~alone].sum())
    variance = float(squares[~alone].sum() / degrees) if degrees else float("nan")
    error = np.sqrt(np.where(alone, own, variance) / count)
    its_degrees = np.where(alone, count - 1, max(degrees, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = 2 * t_sf(np.abs(mean / error), its_degrees)
    t = t_isf(SIGNIFICANCE / 2, its_degrees)
    tested = ~is_mixed & (degrees > 0)
    p_values = np.where(mean == 0, 1.0, p_values)
    p_values[tested] = holm(p_values[tested])
    half = np.where(tested, t * error, np.nan)
    cells = pd.DataFrame(
        {
            "a": grouped["objective_a"].mean(),
            "b": grouped["objective_b"].mean(),
            "difference": mean,
            "low": mean - half,
            "high": mean + half,
            "p_value": np.where(tested, p_values, np.nan),
            "num_seeds": count,
        }
    ).reset_index()
    best_a, best_b = (str(cells["setting"].iloc[int(cells[side].argmin())]) for side in ("a", "b"))
    mixed = [str(setting) for setting in cells["setting"][is_mixed]]
    tuned = _tuned(both, best_a, best_b, variance, degrees)
    if {best_a, best_b} & set(mixed):
        tuned = Difference(tuned.mean, float("nan"), float("nan"), tuned.num_seeds)
    comparable = both[~both["setting"].isin(mixed)]
    return Comparison(cells, best_a, best_b, tuned, _overall(both if comparable.empty else comparable), mixed)


def _tuned(both: pd.DataFrame, best_a: str, best_b: str, variance: float, degrees: int) -> Difference:
    a = both[both["setting"] == best_a].set_index("seed")["objective_a"]
    b = both[both["setting"] == best_b].set_index("seed")["objective_b"]
    pairs = (b - a).dropna().to_numpy(dtype=np.float64)
    if not len(pairs):
        return Difference(float(b.mean() - a.mean()), float("nan"), float("nan"), 0)
    its_variance, its_degrees = _noise_of_pair(pairs, variance, degrees)
    return _difference(pairs, its_variance, its_degrees)


def _noise_of_pair(diff_S: Floats, variance: float, degrees: int) -> tuple[float, int]:
    """Variance of one seed's difference, and its degrees of freedom; 0 degrees: unknown.

    The pool's, which are given, or the pair's own where it is clearly noisier (F test, 5 %) or there is no pool.
    """
    own_degrees = len(diff_S) - 1
    if own_degrees < 1:
        return variance, degrees
    own = float(diff_S.var(ddof=1))
    if not degrees or (own > 0 and (variance == 0 or f_sf(own / variance, own_degrees, degrees) < SIGNIFICANCE)):
        return own, own_degrees
    return variance, degrees


def _overall(both: pd.DataFrame) -> Difference:
    by_seed = both.pivot_table(index="setting", columns="seed", values="difference").dropna(axis="columns").mean()
    if len(by_seed) < 2:
        mean = float(both.groupby("setting")["difference"].mean().mean())
        return Difference(mean, float("nan"), float("nan"), len(by_seed))
    pairs = by_seed.to_numpy(dtype=np.float64)
    return _difference(pairs, float(pairs.var(ddof=1)), len(pairs) - 1)


def _difference(pairs: Floats, variance: float, degrees: int) -> Difference:
    mean = float(pairs.mean())
    half = float(t_isf(SIGNIFICANCE / 2, degrees) * np.sqrt(variance / len(pairs))) if degrees else float("nan")
    return Difference(mean, mean - half, mean + half, len(pairs))


def verdict(comparison: Comparison, a: str, b: str) -> list[str]:
    """Whether the change helped, at the tuned setting and over all; before that, where nothing could be tested."""
    same = comparison.best_a == comparison.best_b
    where = f"both at {comparison.best_a}" if same else f"{b} at {comparison.best_b}, {a} at {comparison.best_a}"
    number = len(comparison.cells) - len(comparison.mixed)
    sentences = []
    if comparison.mixed:
        settings = ", ".join(comparison.mixed)
        sentences.append(f"Only some seeds diverged of {settings}: that is no seed noise, so nothing is tested there.")
    sentences.append(f"Each at its best setting ({where}), {b} {_says(comparison.tuned, a)}.")
    if number:
        every = "the one setting" if number == 1 else f"all {number} settings"
        left_out = " without such a one" * bool(comparison.mixed)
        sentences.append(f"Over {every}{left_out} that both have, {b} {_says(comparison.overall, a)} on average.")
    return sentences


def _says(difference: Difference, a: str) -> str:
    size = f"{abs(difference.mean):.4f} nats per token"
    if difference.mean == 0:
        return f"ends at the same loss as {a}"
    side = "below" if difference.mean < 0 else "above"
    if np.isnan(difference.low):
        few = {0: "with no seed that all of them share", 1: "with one seed"}
        return (
            f"ends {size} {side} {a}; {few.get(difference.num_seeds, 'where some seeds diverged')} that can't be tested"
        )
    interval = f"95 % interval of the difference {difference.low:+.4f} to {difference.high:+.4f}, paired by seed"
    if difference.low <= 0 <= difference.high:
        return f"can't be told from {a}: it ends {size} {side} ({interval})"
    return f"ends {size} {side} {a} ({interval})"
