"""How much a seed alone changes a final loss: the noise that every test of a sweep is held against. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from sweeps.analysis.distributions import chi2_median, f_sf, trigamma_inverse
from sweeps.analysis.settings import Floats, comparable_objectives, value_groups
from sweeps.plan.record import PlanRecord

SIGNIFICANCE = 0.05
OUTLYING = 0.01  # of sweeps without one name a setting noisy
LEAST_TO_OUTLIE = 5
LEAST_RATIO = 2.0  # of deviations, to be worth a word
LEAST_VARIANCE = 1e-9  # of the median: a smaller one is rounding, whose logarithm says nothing


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


@dataclass(frozen=True)
class Noise:
    """Of settings T, what is left of one run's loss when what its seed does to all of them alike is taken away.

    `variance` [T], in nats², and the degrees of freedom [T] that it is known with, whole or not; 0 where nothing is
    known of it. No two settings together have more than `most_degrees`, those of the residual of all.
    """

    variance: Floats
    degrees: Floats
    most_degrees: float

    def __getitem__(self, settings: Sequence[int] | NDArray[np.int_] | NDArray[np.bool_]) -> "Noise":
        """That of some of the settings, in another order too."""
        return Noise(self.variance[settings], self.degrees[settings], self.most_degrees)

    def of_pairs(self, first_P: NDArray[np.int_], second_P: NDArray[np.int_]) -> tuple[Floats, Floats]:
        """Variances [P] of one seed's difference of two settings, and their degrees of freedom (Satterthwaite 1946)."""
        a_P, b_P = self.variance[first_P], self.variance[second_P]
        a_degrees_P, b_degrees_P = self.degrees[first_P], self.degrees[second_P]
        variance_P, known_P = a_P + b_P, (a_degrees_P > 0) & (b_degrees_P > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            degrees_P = variance_P**2 / (a_P**2 / a_degrees_P + b_P**2 / b_degrees_P)
        degrees_P = np.where(variance_P == 0, self.most_degrees, np.minimum(degrees_P, self.most_degrees))
        return variance_P, np.where(known_P, degrees_P, 0.0)


def prior_of(variance_T: Floats, degrees: int) -> tuple[float, float]:
    """What independent variances of so many degrees of freedom say of one another: a variance, and its degrees.

    Empirical Bayes (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3, 1, equations 6 to 8): the
    variances scatter about it as F(degrees, its degrees) does. These are infinite where they scatter no more than the
    same one, measured again and again, would.
    """
    log_T = np.log(np.maximum(variance_T, LEAST_VARIANCE * np.median(variance_T)))
    mean = float(log_T.mean()) - float(special.digamma(degrees / 2)) + math.log(degrees / 2)
    excess = float(log_T.var(ddof=1)) - float(special.polygamma(1, degrees / 2))
    if excess <= 0:
        return math.exp(mean), math.inf
    its_degrees = 2 * trigamma_inverse(excess)
    return math.exp(mean + float(special.digamma(its_degrees / 2)) - math.log(its_degrees / 2)), its_degrees


def noise_by_setting(objective_TS: Floats) -> Noise:
    """Each setting's noise: its own seeds' and the other settings', each by what it is worth.

    A few seeds alone say almost nothing about noise, so a setting's variance is moderated by what the others' have in
    common, `prior_of` them: the same for all where nothing but chance makes them differ, nearly each its own where they
    do. Two seeds say too little for that: there the pool's variance, with all its degrees, is the least of a setting. A
    `noisy` setting stands on its own seeds; of one without all its seeds (NaN) the others' is taken.
    """
    T, S = objective_TS.shape
    whole_T = np.isfinite(objective_TS).all(1)
    pool_US = objective_TS[whole_T]
    noisy_U = noisy(pool_US)
    variance, degrees = residual_variance(pool_US[~noisy_U])
    variance_T, degrees_T = np.full(T, variance), np.full(T, float(degrees))
    if degrees and variance > 0:
        deviation_US = pool_US - pool_US.mean(1, keepdims=True)
        residual_US = deviation_US - deviation_US[~noisy_U].mean(0)
        num = int((~noisy_U).sum())  # whose mean was taken away: a share of their variance, none of the noisy ones'
        own_U = (residual_US**2).sum(1) / (S - 1) * np.where(noisy_U, num / (num + 1), num / (num - 1))
        usual_U = own_U[~noisy_U]
        prior, its_degrees = prior_of(usual_U, S - 1) if np.median(usual_U) > 0 else (variance, math.inf)
        if math.isfinite(its_degrees):
            moderated_U = (its_degrees * prior + (S - 1) * own_U) / (its_degrees + S - 1)
            if S == 2:
                variance_T[whole_T] = np.maximum(moderated_U, variance)
            else:
                variance_T, degrees_T = np.full(T, prior), np.full(T, min(its_degrees, degrees))
                variance_T[whole_T], degrees_T[whole_T] = moderated_U, min(its_degrees + S - 1, degrees)
        alone_T = np.flatnonzero(whole_T)[noisy_U]
        variance_T[alone_T], degrees_T[alone_T] = own_U[noisy_U], S - 1
    return Noise(variance_T, degrees_T, float(degrees))


def _whole(runs: pd.DataFrame) -> tuple[pd.Series, Floats]:
    """The trials all of whose seeds are complete, and their objectives by seed."""
    order = runs["trial"].drop_duplicates()
    trials = order[all_complete(runs, order)]
    return trials, comparable_objectives(runs, trials)


def noise_of(runs: pd.DataFrame, order: pd.Series) -> Noise:
    """`noise_by_setting` of the trials in this order; those that are not complete have that of the others."""
    is_complete_T = all_complete(runs, order)
    return noise_by_setting(np.where(is_complete_T[:, None], comparable_objectives(runs, order), np.nan))


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


def uneven(plan: PlanRecord, runs: pd.DataFrame) -> Uneven | None:
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
    for field in plan.swept:
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

    distinguished = [
        one
        for one, here, there in candidates
        if mannwhitneyu(here, there, alternative="greater").pvalue * num_values < SIGNIFICANCE
    ]
    return max(distinguished, key=lambda one: one.ratio, default=None)
