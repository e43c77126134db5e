"""Of several runs with one identity, the same piece of science, the one that counts. Knows nothing else of runs."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tinylm_core.records import RESULTS

AttemptOrder = tuple[int, float, tuple[int, ...]]


class Attempt(Protocol):
    """A run, however much of it was read."""

    @property
    def attempt(self) -> AttemptOrder:
        """What it is sorted by among the others: `attempt_order`."""


R = TypeVar("R", bound=Attempt)


def attempt_order(state: str, start: float, run_id: str, epoch: str | None = None) -> AttemptOrder:
    """The order of a run among its like; the last counts: one with a result, else one that runs, else the newest.

    Of several with a result that drivers of a server made, the one of the lowest (epoch, run ID), by no clock.
    """
    digits = tuple(map(ord, run_id))
    if state in RESULTS and epoch is not None and epoch.isdecimal():
        return 2, -float(epoch), tuple(-digit for digit in digits)
    return 2 if state in RESULTS else int(state == "RUNNING"), start, digits


def best_of_each(runs: Iterable[R], identity_of: Callable[[R], str | None]) -> dict[str, R]:
    """The run of each identity that counts; a run without an identity is left out."""
    found = ((identity_of(run), run) for run in sorted(runs, key=lambda run: run.attempt))
    return {identity: run for identity, run in found if identity is not None}
