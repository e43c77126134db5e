"""How far the runs of a sweep are, counted for every view of it. Knows no terminal."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.terminal.time_left import Seen, Workload, seconds_left
from sweeps.trainers.protocol import Cost
from sweeps.workers.protocol import Evaluated, Message, Steps
from tinylm_core.records import EvalRecord, StepRecord, now_ms


@dataclass
class RunProgress:
    """A run under way."""

    run: PlannedRun
    cost: Cost
    step: StepRecord | None = None
    evaluation: EvalRecord | None = None
    num_evals: int = 0
    started_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True)
class Progress:
    """How far a sweep is."""

    done_runs: int  # failed ones too
    failed_runs: int
    total_runs: int
    trained_tokens: int  # of this start's runs
    tokens_per_second: float  # over this start, all workers together
    share_done: float  # of this start's work, 0 to 1
    seconds_left: float | None  # until the last run ends; None before there is a pace


class Tally:
    """What has been heard of a start of a sweep. `trials` and `results` are the driver's own, and grow."""

    def __init__(
        self,
        plan: Plan,
        trials: list[Trial],
        results: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._trials, self._results, self._clock = plan, trials, results, clock
        self.under_way: dict[str, RunProgress] = {}
        self._seen: dict[str, Seen] = {}  # of the runs that this start has begun
        self._workloads: dict[str, Workload] = {}  # of all
        self._trials_read = 0
        self._slots = 0
        self._done_runs = self._failed_runs = 0
        self._ended_tokens = 0
        self._earlier_tokens: dict[str, int] = {}
        self._started, self._started_ms = clock(), now_ms()

    def start(self, run: PlannedRun) -> None:
        self._read_trials()
        cost = self._plan.trainer.cost(run.config)
        self.under_way[run.identity] = RunProgress(run, cost)
        self._seen[run.identity] = Seen(Workload(run.label, cost.of_all(run.config)), self._clock())
        self._slots = len(self.under_way)  # a driver fills all before it looks up

    def hear(self, message: Message) -> None:
        progress = self.under_way.get(message.key)
        if progress is None or not isinstance(message, Steps | Evaluated):
            return
        if isinstance(message, Steps):
            # A run that goes on from a checkpoint reports its history first: those tokens were trained before.
            earlier = [record.tokens for record in message.records if record.timestamp_ms < self._started_ms]
            self._earlier_tokens[message.key] = max([self._earlier_tokens.get(message.key, 0), *earlier])
            progress.step = message.records[-1]
            reported_ms = progress.step.timestamp_ms
        else:
            progress.evaluation = message.record
            progress.num_evals += 1
            reported_ms = message.record.timestamp_ms
        done = progress.cost.of(progress.step.tokens if progress.step else 0, progress.num_evals)
        self._seen[message.key].hear(self._clock(), done, is_new=reported_ms >= progress.started_ms)

    def end(self, run: PlannedRun, state: str) -> None:
        progress = self.under_way.pop(run.identity, None)
        if progress is None:
            return
        if state == "INTERRUPTED":
            del self._seen[run.identity]
            return
        self._seen[run.identity].ended = self._clock()
        self._ended_tokens += progress.step.tokens if progress.step else 0
        self._done_runs += 1
        self._failed_runs += state == "FAILED"

    def _read_trials(self) -> None:
        for trial in self._trials[self._trials_read :]:
            for run in trial.runs:
                if run.identity not in self._workloads:
                    self._workloads[run.identity] = Workload(
                        run.label, self._plan.trainer.cost(run.config).of_all(run.config)
                    )
                    self._done_runs += run.identity in self._results
        self._trials_read = len(self._trials)

    @property
    def _num_to_come(self) -> int:
        """Runs of trials that a search has yet to propose."""
        return (self._plan.num_trials - self._trials_read) * self._plan.sweep.seeds

    def count(self) -> tuple[int, int]:
        """Runs that are done, and all. Asked at every run that ends, so it goes through none of the others."""
        self._read_trials()
        return self._done_runs, len(self._workloads) + self._num_to_come

    def look(self) -> Progress:
        """How far it is now."""
        done_runs, total_runs = self.count()
        known, seen = self._results.keys(), self._seen
        waiting = [
            workload for identity, workload in self._workloads.items() if identity not in known and identity not in seen
        ]
        if self._num_to_come:
            work = [run.workload.work for run in seen.values()] or [self._base_work()]
            waiting += [Workload("", sum(work) / len(work))] * self._num_to_come
        done = sum(run.done if run.ended is None else run.workload.work for run in seen.values())
        total = sum(workload.work for workload in (*waiting, *(run.workload for run in seen.values())))
        trained = self._ended_tokens + sum(run.step.tokens for run in self.under_way.values() if run.step)
        new_tokens = max(0, trained - sum(self._earlier_tokens.values()))
        now = self._clock()
        return Progress(
            done_runs=done_runs,
            failed_runs=self._failed_runs,
            total_runs=total_runs,
            trained_tokens=trained,
            tokens_per_second=new_tokens / max(now - self._started, 1e-9),
            share_done=min(1.0, done / total) if total else 1.0,
            seconds_left=seconds_left(now, seen.values(), waiting, self._slots),
        )

    def _base_work(self) -> float:
        base = self._plan.sweep.base
        return self._plan.trainer.cost(base).of_all(base)
