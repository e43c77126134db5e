"""How much a seed alone changes a final loss: the noise that every test of a sweep is held against. Pure functions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.analysis.distributions import chi2_median, f_sf
from sweeps.analysis.settings import Floats, Plan, comparable_objectives, value_groups

SIGNIFICANCE = 0.05
OUTLYING = 0.01  # of sweeps without one name a setting noisy
LEAST_TO_OUTLIE = 5
LEAST_RATIO = 2.0  # of deviations, to be worth a word


def all_complete(runs: pd.DataFrame, order: pd.Series) -> NDArray[np.bool_]:
    """Whether all seeds of each setting are COMPLETE."""
    complete = (runs["state"] == "COMPLETE").groupby(runs["trial"]).all()
    return complete.reindex(order).to_numpy(dtype=np.bool_)


def residual_variance(objective_TS: Floats) -> tuple[float, int]:
    """Residual mean square of the two-way layout setting + seed, and its degrees of freedom (T-1)(S-1).

    It is the noise that is left of one run when what its seed does to all settings alike is taken away. NaN with 0
    degrees where there are fewer than two settings or seeds.
    """
    T, S = objective_TS.shape
    if T < 2 or S < 2:
        return float("nan"), 0
    residual_TS = objective_TS - objective_TS.mean(1, keepdims=True) - objective_TS.mean(0) + objective_TS.mean()
    degrees = (T - 1) * (S - 1)
    return float((residual_TS**2).sum() / degrees), degrees


def outlying(variance_T: Floats, degrees: int) -> NDArray[np.bool_]:
    """Which of independent variances, each of so many degrees of freedom, are far above the others.

    A training that fails with some seeds only scatters a hundred times more than the rest, and pooled with them would
    leave nothing to be told. Held against the median variance: beyond what chance gives the largest of T in 1 % of
    sweeps. None of fewer than five variances, of those with one degree of freedom, which says nothing, or where more
    than a third would be.
    """
    T = len(variance_T)
    none = np.full(T, False)
    if T < LEAST_TO_OUTLIE or degrees < 2:
        return none
    median = float(np.median(variance_T)) / (chi2_median(degrees) / degrees)
    if median == 0:
        return none
    # The median is itself about as uncertain as a variance of half of all degrees of freedom.
    found = np.asarray(f_sf(variance_T / median, degrees, T * degrees // 2) < OUTLYING / T)
    return found if found.sum() <= T / 3 else none


def noisy(objective_TS: Floats) -> NDArray[np.bool_]:
    """The settings whose seeds scatter far more than the others', when what a seed does to most is taken away."""
    return outlying(_own_variances(objective_TS), objective_TS.shape[1] - 1)


def _own_variances(objective_TS: Floats) -> Floats:
    """Of each setting over its seeds, when what a seed does to most settings is taken away."""
    deviation_TS = objective_TS - objective_TS.mean(1, keepdims=True)
    deviation_TS = deviation_TS - np.median(deviation_TS, axis=0) if len(deviation_TS) else deviation_TS
    deviation_TS = deviation_TS - deviation_TS.mean(1, keepdims=True)
    return np.asarray((deviation_TS**2).sum(1) / max(1, objective_TS.shape[1] - 1))


def pooled_noise(objective_TS: Floats) -> tuple[float, int]:
    """`residual_variance` over the settings that are not `noisy`."""
    return residual_variance(objective_TS[~noisy(objective_TS)])


def noise_of_pair(diff_S: Floats, variance: float, degrees: int) -> tuple[float, int]:
    """Variance of one seed's difference of two settings, and its degrees of freedom; 0 degrees: unknown.

    The pool's, which are given, or the pair's own where it is clearly noisier (F test, 5 %) or there is no pool.
    """
    own_degrees = len(diff_S) - 1
    if own_degrees < 1:
        return variance, degrees
    own = float(diff_S.var(ddof=1))
    if not degrees or (own > 0 and (variance == 0 or f_sf(own / variance, own_degrees, degrees) < SIGNIFICANCE)):
        return own, own_degrees
    return variance, degrees


def _whole(runs: pd.DataFrame) -> tuple[pd.Series, Floats]:
    """The trials all of whose seeds are complete, and their objectives by seed."""
    order = runs["trial"].drop_duplicates()
    trials = order[all_complete(runs, order)]
    return trials, comparable_objectives(runs, trials)


def noisy_settings(runs: pd.DataFrame) -> list[int]:
    """The trials, all of whose seeds are complete, that are `noisy`."""
    trials, objective_TS = _whole(runs)
    return [int(trial) for trial in trials[noisy(objective_TS)]]


def residual_noise(runs: pd.DataFrame) -> tuple[float, int]:
    """Of a sweep: `pooled_noise` of the settings all of whose seeds are complete."""
    return pooled_noise(_whole(runs)[1])


def seed_noise(runs: pd.DataFrame) -> float:
    """Standard deviation over seeds of the final loss of one setting; NaN if unknown.

    Pooled over the complete settings that are not `noisy`.
    """
    complete = runs[(runs["state"] == "COMPLETE") & ~runs["trial"].isin(noisy_settings(runs))]
    by_setting = complete["objective"].astype(float).groupby(complete["trial"])
    degrees = by_setting.count() - 1
    if degrees.sum() < 1:
        return float("nan")
    return float(np.sqrt((by_setting.var() * degrees).sum() / degrees.sum()))


@dataclass(frozen=True)
class Uneven:
    """Where noise is not one: at a value of a field its deviation is `ratio` times that at the field's other values."""

    field: str
    value: str
    ratio: float


def uneven(plan: Plan, runs: pd.DataFrame) -> Uneven | None:
    """The value of a swept field at which seeds scatter most beyond what they do at its others, if that is no chance.

    By the ranks of the complete settings' variances (Mann & Whitney 1947), so that a single `noisy` one is no trait of
    its values: at 5 %, corrected for all values of all fields (Bonferroni). `ratio` is that of medians, at least 2.
    """
    trials, objective_TS = _whole(runs)
    T, S = objective_TS.shape
    if T < LEAST_TO_OUTLIE or S < 2:
        return None
    variance_T = _own_variances(objective_TS)
    first = runs.drop_duplicates("trial").set_index("trial").loc[trials].reset_index()
    num_values, candidates = 0, []
    for field in plan["swept"]:
        groups = value_groups(plan, first, field)
        for value in groups.cat.categories:
            here = (groups == value).to_numpy(dtype=np.bool_)
            num_values += 1
            if 0 < here.sum() < T and (usual := np.median(variance_T[~here])) > 0:
                ratio = float(np.sqrt(np.median(variance_T[here]) / usual))
                if ratio >= LEAST_RATIO:
                    candidates.append((Uneven(field, str(value), ratio), variance_T[here], variance_T[~here]))
    if not candidates:
        return None
    from scipy.stats import mannwhitneyu  # slow to import

    told = [
        one
        for one, here, there in candidates
        if mannwhitneyu(here, there, alternative="greater").pvalue * num_values < SIGNIFICANCE
    ]
    return max(told, key=lambda one: one.ratio, default=None)
