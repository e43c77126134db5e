"""What the best quarter of a sampled sweep's settings says of each range: that it ends too soon, or may be narrowed.

A search tries most where it found the loss low, so means over its trials are of unlike company. Its best settings are
not: where they lie closer together than as many others of its settings would, that is a finding; else it is none.
Pure functions; know no commands.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from sweeps.analysis.decomposition import positions
from sweeps.analysis.noise import SIGNIFICANCE
from sweeps.analysis.ranking import holm
from sweeps.analysis.settings import Floats, is_number, is_sampled, ordered_values, unconditional
from sweeps.plan.record import PlanRecord
from sweeps.spec.naming import short
from sweeps.spec.space import Choice

LEAST_BEST = 3  # settings in the quarter, for anything to be said of where they lie
AT_THE_END = 0.1  # of a range: its outermost tenth
NEAR_THE_END = 1 / 3  # all of the best quarter lie in the outermost third of a range that they speak for extending
ROOM = 0.25  # of their extent, beyond the best quarter on each side
WORTH_NARROWING = 0.6  # of the range


@dataclass(frozen=True)
class Concentration:
    """Where the best quarter lies on a swept number's axis.

    `low` and `high` are its values; `end` is "low" or "high" where it lies at that end of what was searched, else "";
    `narrowed` the range that holds it with some room where that is much smaller; None where it isn't, or at an end.
    `distinguished`: as many of the other settings would seldom lie so close together (5 %, Holm over the fields).
    """

    field: str
    low: float
    high: float
    end: str
    narrowed: tuple[float, float] | None
    distinguished: bool


def best_quarter(board: pd.DataFrame) -> pd.DataFrame:
    """The best quarter of the settings with all seeds, rounded up and three at least; empty where these are fewer than
    eight, or it would hold one that diverged."""
    ranked = board[board["rank"].notna()]
    best = ranked.head(max(LEAST_BEST, math.ceil(len(ranked) / 4)))
    if len(ranked) < 2 * LEAST_BEST + 2 or (best["state"] == "diverged").any():
        return ranked.head(0)
    return best


def concentrations(plan: PlanRecord, board: pd.DataFrame) -> list[Concentration]:
    """One for each swept number that all settings vary, in the order of the sweep; empty where too little is done."""
    best = best_quarter(board)
    ranked = board[board["rank"].notna()]
    fields = [
        field
        for field in unconditional(plan)
        if is_number(ordered_values(plan, field)) and len(ordered_values(plan, field)) > 1
    ]
    if best.empty or not fields:
        return []
    order = [trial.number for trial in plan.trials]
    rows = pd.Index(order).get_indexer(pd.Index(ranked["trial"]))
    place = {field: positions(plan, field)[rows] for field in fields}
    p_values = [
        _p_of_extent(place[field], len(best)) if is_sampled(plan, field) else _p_of_end(place[field], len(best))
        for field in fields
    ]
    adjusted = holm(np.array(p_values))
    return [
        _concentration(plan, field, place[field], best, distinguished=bool(p < SIGNIFICANCE))
        for field, p in zip(fields, adjusted, strict=True)
    ]


def values_said(one: Concentration) -> str:
    """`learning_rate 1e-3 to 3e-3`."""
    return f"{one.field} {short(one.low)}" + (f" to {short(one.high)}" if one.low < one.high else "")


def _concentration(
    plan: PlanRecord, field: str, place_T: Floats, best: pd.DataFrame, *, distinguished: bool
) -> Concentration:
    values = best[field].astype(float)
    low, high = float(values.min()), float(values.max())
    dimension = plan.space[field]
    if isinstance(dimension, Choice) or not is_sampled(plan, field):
        listed = [float(value) for value in ordered_values(plan, field)]
        end = {listed[0]: "low", listed[-1]: "high"}.get(low, "") if low == high else ""
        return Concentration(field, low, high, end, None, distinguished)
    log = dimension.log
    start, stop = (math.log(end) if log else float(end) for end in (dimension.low, dimension.high))
    share_B = (place_T[: len(best)] - start) / (stop - start)
    end = ""
    if share_B[0] <= AT_THE_END and share_B.max() <= NEAR_THE_END:
        end = "low"
    elif share_B[0] >= 1 - AT_THE_END and share_B.min() >= 1 - NEAR_THE_END:
        end = "high"
    room = ROOM * float(np.ptp(share_B))
    shares = max(0.0, float(share_B.min()) - room), min(1.0, float(share_B.max()) + room)
    narrowed = None
    if distinguished and not end and shares[1] - shares[0] <= WORTH_NARROWING:
        ends = [start + share * (stop - start) for share in shares]
        narrowed = (math.exp(ends[0]), math.exp(ends[1])) if log else (ends[0], ends[1])
    return Concentration(field, low, high, end, narrowed, distinguished)


def _p_of_extent(place_T: Floats, num_best: int) -> float:
    """The share of all choices of as many settings that lie as close together as the first ones do."""
    extent, ascending = float(np.ptp(place_T[:num_best])), np.sort(place_T)
    # Each choice is counted at its lowest: the others are among those after it within the extent.
    within = np.searchsorted(ascending, ascending + extent * (1 + 1e-12), side="right") - np.arange(len(ascending)) - 1
    enough = within[within >= num_best - 1]
    share = np.exp(_log_choose(enough, num_best - 1) - _log_choose(np.array([len(ascending)]), num_best))
    return min(1.0, float(share.sum()))


def _log_choose(among: NDArray[np.int64], number: int) -> Floats:
    logarithm: Floats = gammaln(among + 1) - gammaln(number + 1) - gammaln(among - number + 1)
    return logarithm


def _p_of_end(place_T: Floats, num_best: int) -> float:
    """How often as many settings drawn from all of them hold so many of the value that most of the first ones have."""
    values, counts = np.unique(place_T[:num_best], return_counts=True)
    most = values[counts.argmax()]
    same = int((place_T == most).sum())
    from scipy.stats import hypergeom  # of what a search sampled alone: SciPy's classes take 0.3 s to import

    return float(hypergeom.sf(counts.max() - 1, len(place_T), same, num_best))
