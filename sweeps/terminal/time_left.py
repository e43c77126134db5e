"""How long a sweep still takes, from what has been seen of its runs. Knows no clock, no tokens and no terminal.

A run opens (a process starts and loads its data), works, and closes (it keeps its weights). Work may be in any unit
that is proportional to time for runs of a setting, and roughly so between settings.
"""

import heapq
import math
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

PRIOR = 0.25  # of a run's work is taken as seen at the pace of others


@dataclass(frozen=True)
class Workload:
    """A run to be made: its work, and its setting; other seeds of that have the same pace."""

    setting: str
    work: float


@dataclass
class Seen:
    """What has been seen of a run that has begun. Times are seconds of one clock."""

    workload: Workload
    began: float
    done: float = 0.0  # work, that of earlier starts included
    first: tuple[float, float] | None = None  # the time of its first news, and the work done by then
    heard: float | None = None  # the time of its last news
    opening_work: float = 0.0  # of `done`, what was new in its first news
    ended: float | None = None

    def hear(self, now: float, done: float, *, is_new: bool = True) -> None:
        """Its work so far; that of an earlier start, reported again, is not new."""
        if is_new and self.first is None:
            self.first, self.opening_work = (now, done), done - self.done
        if is_new:
            self.heard = now
        self.done = max(self.done, done)


class Pace:
    """Seconds a unit of work. That of a setting counts as far as it was seen, else that of the runs whose work is most
    like it, else that of all."""

    def __init__(self, seen: Iterable[Seen]) -> None:
        self._all = Sums()
        self._likes: dict[float, Sums] = {}  # by the work of a run
        self._settings: dict[str, Sums] = {}
        self._known: dict[Workload, float] = {}
        for run in seen:
            if run.first is not None and run.heard is not None and run.done > run.first[1]:
                for sums in (
                    self._all,
                    self._likes.setdefault(run.workload.work, Sums()),
                    self._settings.setdefault(run.workload.setting, Sums()),
                ):
                    sums.seconds += run.heard - run.first[0]
                    sums.work += run.done - run.first[1]
        self._sizes = sorted(self._likes)

    def __bool__(self) -> bool:
        return self._all.work > 0

    def of(self, workload: Workload) -> float:
        """That of a workload."""
        if workload not in self._known:
            place = bisect(self._sizes, workload.work)
            nearest = min(
                self._sizes[max(0, place - 1) : place + 1], key=lambda size: abs(math.log(size / workload.work))
            )
            prior = PRIOR * workload.work
            likes = self._likes[nearest].pace(prior, self._all.pace())
            self._known[workload] = self._settings.get(workload.setting, Sums()).pace(prior, likes)
        return self._known[workload]


@dataclass
class Sums:
    """What was seen of some runs between the first and the last news of each."""

    seconds: float = 0.0
    work: float = 0.0

    def pace(self, prior: float = 0.0, prior_pace: float = 0.0) -> float:
        """Seconds a unit of work, with so much work more at another pace."""
        return (self.seconds + prior * prior_pace) / (self.work + prior)


def seconds_left(now: float, seen: Iterable[Seen], waiting: Iterable[Workload], slots: int) -> float | None:
    """Seconds until the last run ends, where `slots` execute at a time and those that wait begin in order.

    None before there is a pace.
    """
    runs = list(seen)
    pace = Pace(runs)
    if not pace:
        return None
    opening = median(
        max(0.0, run.first[0] - run.began - run.opening_work * pace.of(run.workload)) for run in runs if run.first
    )
    closings = [run.ended - run.heard for run in runs if run.ended is not None and run.heard is not None]
    closing = median(closings) if closings else 0.0

    def left(run: Seen) -> float:
        to_do = (run.workload.work - run.done) * pace.of(run.workload) + closing
        since = run.began if run.heard is None else run.heard
        return max(0.0, to_do + (opening if run.heard is None else 0.0) - (now - since))

    busy = [left(run) for run in runs if run.ended is None]
    busy += [0.0] * (slots - len(busy))
    heapq.heapify(busy)
    for workload in waiting:
        heapq.heapreplace(busy, busy[0] + opening + workload.work * pace.of(workload) + closing)
    return max(busy, default=0.0)
