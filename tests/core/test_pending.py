"""Steps that wait to be reported: when they are due, what they say of their pace, and where they end."""

import pytest

from tinylm_core import pending as pending_module
from tinylm_core.pending import FLUSH_SECONDS, FLUSH_STEPS, PendingSteps
from tinylm_core.records import StepRecord


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pending_module, "time", made)
    return made


def step(number: int, **fields: float) -> StepRecord:
    return StepRecord(number, 8 * number, 1.0, 0.1, **fields)


def test_steps_are_due_together_or_after_a_second(clock: Clock) -> None:
    pending = PendingSteps()
    pending.restart_clock()  # by the test's clock
    for number in range(1, FLUSH_STEPS):
        pending.add(step(number), diverged=False)
    assert not pending.is_due()
    assert pending.is_due(1)
    clock.now += FLUSH_SECONDS
    assert pending.is_due()
    assert [record.step for record in pending.flush()] == list(range(1, FLUSH_STEPS))
    assert not pending.is_due()
    assert pending.flush() == []


def test_the_pace_is_that_of_all_steps_since_the_last_flush_without_what_was_not_training(clock: Clock) -> None:
    pending = PendingSteps(tokens=16)  # of two steps, before
    clock.now += 60
    pending.restart_clock()
    pending.add(step(3), diverged=False)
    pending.add(step(4, tokens_per_second=7.0), diverged=False)
    clock.now += 2
    assert [record.tokens_per_second for record in pending.flush()] == [8.0, 7.0]
    pending.add(step(5), diverged=False)
    clock.now += 4
    assert [record.tokens_per_second for record in pending.flush()] == [2.0]


@pytest.mark.usefixtures("clock")
def test_nothing_is_kept_from_the_first_step_on_that_diverged() -> None:
    pending = PendingSteps()
    for number, diverged in enumerate([False, True, False, True], start=1):
        pending.add(step(number), diverged=diverged)
    assert pending.diverged_at == 2
    assert [record.step for record in pending.flush()] == [1]
    pending.add(step(5), diverged=False)
    assert pending.flush() == []
