"""The points that are known without asking a study: cells, listed points, a Sobol' sequence. Knows no Optuna."""

import itertools
from collections.abc import Iterator

import numpy as np

from sweeps.spec.searches import COUNTED, MOST_REFUSED
from sweeps.spec.settings import setting_at
from sweeps.spec.space import Setting, Space
from sweeps.spec.sweep import Sweep, counted_settings

SOBOL_BATCH = 256  # points that SciPy makes at a time; the sequence is the same however many


def known_points(sweep: Sweep) -> list[Setting]:
    """All settings of a grid; of others the points that are tried first, and of Sobol' the sequence after them."""
    if sweep.search in COUNTED:
        return counted_settings(sweep)
    points = [dict(point) for point in sweep.points]
    if sweep.search == "sobol":
        points += allowed_points(sweep, max(0, sweep.num_proposed - len(points)))
    return points


def allowed_points(sweep: Sweep, num_points: int) -> list[Setting]:
    """The first points of the sweep's Sobol' sequence that it allows. ValueError where it refuses too many in a row."""
    points: list[Setting] = []
    num_refused = 0
    for point in sobol_sequence(sweep.space, sweep.search_seed, sweep.base):
        if len(points) == num_points:
            break
        if sweep.allows(point):
            points.append(point)
            num_refused = 0
        elif (num_refused := num_refused + 1) == MOST_REFUSED:
            raise too_narrow(sweep, len(sweep.points) + len(points))
    return points


def sobol_sequence(space: Space, seed: int, base: object) -> Iterator[Setting]:
    """One scrambled Sobol' sequence (Owen 1998), mapped onto the space, without end."""
    if not space:
        yield from itertools.repeat({})
    # SciPy's statistics take 0.3 s to load, and other searches need none.
    from scipy.stats import qmc

    sequence = qmc.Sobol(d=len(space), scramble=True, rng=np.random.default_rng(seed))
    while True:
        for point in sequence.random(SOBOL_BATCH):
            yield setting_at(space, base, map(float, point))


def too_narrow(sweep: Sweep, number: int) -> ValueError:
    """The message for a user whose constraint leaves too little of the space to find trial `number`."""
    return ValueError(
        f"allowed: refuses {MOST_REFUSED:,} proposals of search={sweep.search!r} in a row for trial {number}; "
        "narrow the space to what it allows"
    )
