"""Tails of the usual distributions. SciPy's own classes of them take half a second to import, these functions a tenth.

`sf` is the probability of more than x (survival function), `isf` the x that has that probability above it.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from sweeps.analysis.settings import Floats


def t_sf(x: ArrayLike, degrees: ArrayLike) -> Floats:
    """Of Student's t."""
    return np.asarray(special.stdtr(degrees, -np.asarray(x)))


def t_isf(p: ArrayLike, degrees: ArrayLike) -> Floats:
    """Of Student's t."""
    return np.asarray(-special.stdtrit(degrees, p))


def noncentral_t_sf(x: float, degrees: float, noncentrality: float) -> float:
    """Of the noncentral t."""
    return float(1 - special.nctdtr(degrees, noncentrality, x))


def f_sf(x: ArrayLike, degrees: ArrayLike, error_degrees: ArrayLike) -> Floats:
    """Of F."""
    return np.asarray(special.fdtrc(degrees, error_degrees, x))


def normal_isf(p: float) -> float:
    """Of the standard normal."""
    return float(-special.ndtri(p))


def chi2_median(degrees: float) -> float:
    """Of χ²."""
    return float(special.chdtri(degrees, 0.5))


def log_choose(among: ArrayLike, number: ArrayLike) -> Floats:
    """The logarithm of a binomial coefficient."""
    among, number = np.asarray(among), np.asarray(number)
    return np.asarray(special.gammaln(among + 1) - special.gammaln(number + 1) - special.gammaln(among - number + 1))


def hypergeometric_sf(x: int, among: int, marked: int, drawn: int) -> float:
    """Of how many of `drawn` items are `marked` ones, of `among` in all."""
    more = np.arange(max(x + 1, drawn - (among - marked), 0), min(marked, drawn) + 1)
    chances = log_choose(marked, more) + log_choose(among - marked, drawn - more) - log_choose(among, drawn)
    return min(1.0, float(np.exp(chances).sum()))


def standard_error(sample: Floats) -> float:
    """Of a sample's mean."""
    return float(np.std(sample, ddof=1) / np.sqrt(np.size(sample)))
