"""Of several runs with one identity, the same piece of science, the one that counts. Knows nothing else of runs."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tinylm_core.records import RESULTS

AttemptOrder = tuple[int, float, str]


class Attempt(Protocol):
    """A run, however much of it was read."""

    @property
    def attempt(self) -> AttemptOrder:
        """What it is sorted by among the others: `attempt_order`."""


R = TypeVar("R", bound=Attempt)


def attempt_order(state: str, start: float, run_id: str) -> AttemptOrder:
    """The order of a run among its like; the last counts: one with a result, else one that runs, else the newest."""
    return 2 if state in RESULTS else int(state == "RUNNING"), start, run_id


def best_of_each(runs: Iterable[R], identity_of: Callable[[R], str | None]) -> dict[str, R]:
    """The run of each identity that counts; a run without an identity is left out."""
    found = ((identity_of(run), run) for run in sorted(runs, key=lambda run: run.attempt))
    return {identity: run for identity, run in found if identity is not None}
