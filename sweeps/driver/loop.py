"""The loop of a sweep: ask → execute → keep → tell. Knows no terminal, no Optuna and no MLflow call."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from sweeps.driver.ledger import Ledger
from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.search.ask_tell import TrialSearch, learns
from sweeps.workers.protocol import Died, Ended, Evaluated, Message, NoSpace, Raised, Steps, Used, Workers

MAX_DEATHS = 2  # a run whose worker died, or found no room to write, goes on from its checkpoint so often
POLL_SECONDS = 0.2


class View(Protocol):
    """Who is told what happens."""

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...
    def started(self, run: PlannedRun) -> None: ...
    def heard(self, message: Message) -> None: ...
    def ended(self, run: PlannedRun, state: str, value: float | None) -> None: ...
    def tick(self) -> None: ...


@dataclass
class Drive:
    """One start of a sweep. After `go`, `failed` maps identities to what went wrong; `paused`: it was told to."""

    plan: Plan
    search: TrialSearch
    ledger: Ledger
    workers: Workers
    view: View
    trials: list[Trial] = field(default_factory=list)
    max_failures: int | None = None  # so many stop the sweep; None: a quarter of the runs, at least 3
    is_held: Callable[[], bool] = lambda: False  # while it is true no new run begins
    is_short_of_room: Callable[[], bool] = lambda: False  # the store's disk, which is waited for
    failed: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    _told: int = 0
    _waiting: deque[PlannedRun] = field(default_factory=deque)
    _seen: set[str] = field(default_factory=set)
    _deaths: dict[str, int] = field(default_factory=dict)

    def go(self, should_pause: Callable[[], bool]) -> None:
        """Until every trial has its value or its failure, or until it should pause."""
        for trial in self.trials:
            self._enqueue(trial)
        while not should_pause():
            stops = self.has_failed_too_often()
            while not stops and self._may_ask():
                self._ask()
            if not self.workers.is_busy() and not self._waiting and not self._may_ask():
                return  # nothing is left, whatever has failed
            if stops:
                break
            while self._waiting and self.workers.has_room() and not self.is_held():
                self._start(self._waiting.popleft())
            for message in self.workers.receive(POLL_SECONDS):
                self._keep(message)
            self.view.tick()
        self.paused = True

    def has_failed_too_often(self) -> bool:
        """Whether so many runs failed that something is wrong with all of them."""
        runs = self.plan.num_trials * self.plan.sweep.seeds
        return len(self.failed) >= (max(3, runs // 4) if self.max_failures is None else self.max_failures)

    def pause(self, seconds: float, clock: Callable[[], float]) -> None:
        """Let the runs keep a checkpoint; those that take longer are ended. All of them stand as INTERRUPTED."""
        self.workers.pause()
        deadline = clock() + seconds
        while self.workers.is_busy() and clock() < deadline:
            for message in self.workers.receive(POLL_SECONDS):
                self._keep(message)
        self.workers.kill()
        for identity in list(self.ledger.live):
            self.ledger.interrupt(identity)

    def _may_ask(self) -> bool:
        """Trial k is asked when trial k - concurrency has its value (law 10); others never wait."""
        number = len(self.trials)
        if number >= self.plan.num_trials:
            return False
        return not learns(self.plan.sweep) or all(map(self._is_settled, self.trials[self._told : self._due(number)]))

    def _due(self, number: int) -> int:
        """How many trials the search must know the values of before trial `number` is asked."""
        return max(0, number - self.plan.sweep.concurrency + 1)

    def _ask(self) -> None:
        number = len(self.trials)
        if learns(self.plan.sweep):
            for known in range(self._told, self._due(number)):
                self.search.tell(known, self._value(self.trials[known]))
            self._told = self._due(number)
        trial = self.plan.trial(number, self.search.ask())
        self.ledger.asked(trial)
        self.trials.append(trial)
        self._enqueue(trial)

    def _enqueue(self, trial: Trial) -> None:
        """Runs whose result is known, or which another trial waits for, are not made again (law 9)."""
        for run in trial.runs:
            if run.identity not in self.ledger.results and run.identity not in self._seen:
                self._seen.add(run.identity)
                self._waiting.append(run)

    def _is_settled(self, trial: Trial) -> bool:
        return all(run.identity in self.ledger.results or run.identity in self.failed for run in trial.runs)

    def _value(self, trial: Trial) -> float | None:
        """Mean over the seeds; None where one of them failed."""
        if any(run.identity in self.failed for run in trial.runs):
            return None
        return sum(self.ledger.results[run.identity] for run in trial.runs) / len(trial.runs)

    def _start(self, run: PlannedRun) -> None:
        self.workers.submit(self.ledger.start(run, self.workers.next_device()))
        self.view.started(run)

    def _keep(self, message: Message) -> None:
        run = self.ledger.run_of(message.key)
        match message:
            case Steps() | Evaluated() | Used():
                self.ledger.hear(message.key, message)
            case Ended() if message.metrics.state == "INTERRUPTED":
                self.ledger.interrupt(message.key)
                self.view.ended(run, "INTERRUPTED", None)
            case Ended():
                value = self.ledger.finish(message.key, message.metrics)
                self.view.ended(run, message.metrics.state, value)
            case Raised():
                self._fail(run, message.error, message.traceback)
            case Died():
                self._try_again(run, message.reason, message.reason)
            case NoSpace():
                self._try_again(run, message.error, message.traceback, counts=not self.is_short_of_room())
            case _:
                assert_never(message)
        self.view.heard(message)

    def _try_again(self, run: PlannedRun, error: str, traceback: str, *, counts: bool = True) -> None:
        """A run that may get on another time, from its checkpoint; it counts where nothing has been waited for."""
        self._deaths[run.identity] = self._deaths.get(run.identity, 0) + counts
        if self._deaths[run.identity] > MAX_DEATHS:
            self._fail(run, error, traceback)
        else:
            self.ledger.interrupt(run.identity)
            self._waiting.appendleft(run)
            self.view.ended(run, "INTERRUPTED", None)

    def _fail(self, run: PlannedRun, error: str, traceback: str) -> None:
        self.failed[run.identity] = error
        self.ledger.fail(run.identity, error, traceback)
        self.view.ended(run, "FAILED", None)
