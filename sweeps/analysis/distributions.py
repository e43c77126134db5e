"""Tails of the usual distributions, by SciPy's functions: its classes take 0.3 s more to import.

A report on several fields loads the classes too, with Optuna's importances; one on a single field mostly needs none.

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


def f_sf(x: ArrayLike, degrees: ArrayLike, error_degrees: ArrayLike) -> Floats:
    """Of F."""
    return np.asarray(special.fdtrc(degrees, error_degrees, x))


def chi2_median(degrees: float) -> float:
    """Of χ²."""
    return float(special.chdtri(degrees, 0.5))


def trigamma_inverse(x: float) -> float:
    """The argument at which the trigamma function is `x`, > 0: Newton's method as in the appendix of Smyth (2004)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(special.polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


def standard_error(sample: Floats) -> float:
    """Of a sample's mean."""
    return float(np.std(sample, ddof=1) / np.sqrt(np.size(sample)))
