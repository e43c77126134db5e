"""What is seen while a sweep runs: a live view on a terminal, plain lines elsewhere, little or JSON where asked."""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import click
from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from sweeps.ledger import Ledger
from sweeps.outbox import Outbox
from sweeps.plan import Plan, PlannedRun, Trial
from sweeps.quantities import counted, duration
from sweeps.screen import NAME, Row, rows_after_reflow, screen
from sweeps.space import short
from sweeps.store.place import without_user_info
from sweeps.time_left import Seen, Task, seconds_left
from sweeps.trainers import Cost
from sweeps.workers import Evaluated, Message, Steps
from tinylm_core.records import EvalRecord, StepRecord, now_ms

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_LOOKS = 1  # of the live view

Output = Literal["people", "quiet", "json"]


@dataclass
class Line:
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
        self.lines: dict[str, Line] = {}
        self._seen: dict[str, Seen] = {}  # of the runs that this start has begun
        self._tasks: dict[str, Task] = {}  # of all
        self._trials_read = 0
        self._slots = 0
        self._done_runs = self._failed_runs = 0
        self._ended_tokens = 0
        self._earlier_tokens: dict[str, int] = {}
        self._started, self._started_ms = clock(), now_ms()

    def start(self, run: PlannedRun) -> None:
        self._read_trials()
        cost = self._plan.trainer.cost(run.config)
        self.lines[run.identity] = Line(run, cost)
        self._seen[run.identity] = Seen(Task(run.label, cost.of_all(run.config)), self._clock())
        self._slots = len(self.lines)  # a driver fills all before it looks up

    def hear(self, message: Message) -> None:
        line = self.lines.get(message.key)
        if line is None or not isinstance(message, Steps | Evaluated):
            return
        if isinstance(message, Steps):
            # A run that goes on from a checkpoint tells its history first: those tokens were trained before.
            earlier = [record.tokens for record in message.records if record.timestamp_ms < self._started_ms]
            self._earlier_tokens[message.key] = max([self._earlier_tokens.get(message.key, 0), *earlier])
            line.step = message.records[-1]
            told_ms = line.step.timestamp_ms
        else:
            line.evaluation = message.record
            line.num_evals += 1
            told_ms = message.record.timestamp_ms
        done = line.cost.of(line.step.tokens if line.step else 0, line.num_evals)
        self._seen[message.key].hear(self._clock(), done, is_new=told_ms >= line.started_ms)

    def end(self, run: PlannedRun, state: str) -> None:
        line = self.lines.pop(run.identity, None)
        if line is None:
            return
        if state == "INTERRUPTED":
            del self._seen[run.identity]
            return
        self._seen[run.identity].ended = self._clock()
        self._ended_tokens += line.step.tokens if line.step else 0
        self._done_runs += 1
        self._failed_runs += state == "FAILED"

    def _read_trials(self) -> None:
        for trial in self._trials[self._trials_read :]:
            for run in trial.runs:
                if run.identity not in self._tasks:
                    self._tasks[run.identity] = Task(run.label, self._plan.trainer.cost(run.config).of_all(run.config))
                    self._done_runs += run.identity in self._results
        self._trials_read = len(self._trials)

    @property
    def _num_to_come(self) -> int:
        """Runs of trials that a search has yet to propose."""
        return (self._plan.num_trials - self._trials_read) * self._plan.sweep.seeds

    def count(self) -> tuple[int, int]:
        """Runs that are done, and all. Told of every run that ends, so it goes through none of the others."""
        self._read_trials()
        return self._done_runs, len(self._tasks) + self._num_to_come

    def look(self) -> Progress:
        """How far it is now."""
        done_runs, total_runs = self.count()
        known, seen = self._results.keys(), self._seen
        waiting = [task for identity, task in self._tasks.items() if identity not in known and identity not in seen]
        if self._num_to_come:
            work = [run.task.work for run in seen.values()] or [self._base_work()]
            waiting += [Task("", sum(work) / len(work))] * self._num_to_come
        done = sum(run.done if run.ended is None else run.task.work for run in seen.values())
        total = sum(task.work for task in (*waiting, *(run.task for run in seen.values())))
        trained = self._ended_tokens + sum(line.step.tokens for line in self.lines.values() if line.step)
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


class PlainView:
    """For logs: a line a run that ends, what is waited for as it begins, and about every ten seconds how far it is."""

    def __init__(self, console: Console, tally: Tally, outbox: Outbox, waits_for: Callable[[], str | None]) -> None:
        self._console, self._tally, self._outbox, self._waits_for = console, tally, outbox, waits_for
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self._said = ("", 0)
        self._progress = tally.look()

    def __enter__(self) -> "PlainView":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def started(self, run: PlannedRun) -> None:
        self._tally.start(run)

    def heard(self, message: Message) -> None:
        self._tally.hear(message)

    def ended(self, run: PlannedRun, state: str, value: float | None) -> None:
        self._tally.end(run, state)
        self._say_ended(run, state, value)

    def _say_ended(self, run: PlannedRun, state: str, value: float | None) -> None:
        text = f"{run.name}  {state}" + ("" if value is None else f"  objective {value:.4f}")
        done, total = self._tally.count()
        self._console.print(Text(f"[{done}/{total}] {text}"), soft_wrap=True)

    def tick(self) -> None:
        lines = trouble(self._outbox, self._waits_for())
        is_news = bool(lines) and not self._said[0]
        if not is_news and time.monotonic() < self._next:
            return
        self._progress = self._tally.look()
        says = (" ".join(lines), self._progress.trained_tokens)
        if says == self._said:
            return
        self._said, self._next = says, time.monotonic() + SECONDS_BETWEEN_LINES
        self._say_progress(lines)

    def _say_progress(self, lines: list[str]) -> None:
        self._console.print(Text("  ".join([summary(self._progress), *lines])), soft_wrap=True)


class QuietView(PlainView):
    """Nothing, but for what is waited for."""

    def _say_ended(self, run: PlannedRun, state: str, value: float | None) -> None: ...

    def _say_progress(self, lines: list[str]) -> None:
        if lines:
            self._console.print(Text("  ".join(lines)), soft_wrap=True)


class JsonView(PlainView):
    """For programs: a line of JSON for each run that starts or ends, and about every ten seconds how far it is."""

    def started(self, run: PlannedRun) -> None:
        super().started(run)
        say_json("started", **_run_fields(run))

    def _say_ended(self, run: PlannedRun, state: str, value: float | None) -> None:
        say_json("ended", **_run_fields(run), state=state, objective=value)

    def _say_progress(self, lines: list[str]) -> None:
        progress = self._progress
        say_json(
            "progress",
            done_runs=progress.done_runs,
            total_runs=progress.total_runs,
            failed_runs=progress.failed_runs,
            tokens_per_second=progress.tokens_per_second,
            share_done=progress.share_done,
            seconds_left=progress.seconds_left,
            waiting=lines,
        )


def say_json(event: str, **fields: object) -> None:
    """One event as a line of JSON."""
    click.echo(json.dumps({"event": event} | fields))


def _run_fields(run: PlannedRun) -> dict[str, object]:
    return {"run": run.name, "trial": run.trial, "seed": run.seed, "setting": run.label, "identity": run.identity}


class LiveView(PlainView):
    """A line a running run, how far all is and the time left, redrawn in place; gone when it ends."""

    def __init__(
        self, console: Console, tally: Tally, outbox: Outbox, waits_for: Callable[[], str | None], title: str
    ) -> None:
        super().__init__(console, tally, outbox, waits_for)
        self._title, self._waiting = title, waits_for()
        self._next = 0.0
        self._drawn: list[int] = []  # widths of the lines that stand there
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def tick(self) -> None:
        # Not where it is drawn: a thread of its own does that.
        self._waiting = self._waits_for()
        if time.monotonic() >= self._next:
            self._progress, self._next = self._tally.look(), time.monotonic() + SECONDS_BETWEEN_LOOKS

    def _say_ended(self, run: PlannedRun, state: str, value: float | None) -> None: ...

    def _render(self) -> RenderableType:
        size = self._size()
        self._go_up_wrapped_lines(size[0])
        rows = [_cells(line) for line in list(self._tally.lines.values())]
        waited_for = trouble(self._outbox, self._waiting)
        status, share = _status(self._progress), self._progress.share_done
        lines = screen(self._console, size, self._title, rows, status, share, waited_for)
        self._drawn = [line.cell_len for line in lines]
        return Text("\n").join(lines)

    def _size(self) -> tuple[int, int]:
        """Columns and lines. COLUMNS and LINES, where they are exported, don't follow a window's size."""
        width, height = self._console.size
        with suppress(OSError):
            real = os.get_terminal_size(self._console.file.fileno())
            width, height = (min(said, there or said) for said, there in zip((width, height), real, strict=True))
        return width, height

    def _go_up_wrapped_lines(self, width: int) -> None:
        """A terminal that got narrower has wrapped what stands there, and `Live` goes up a row a line."""
        extra = rows_after_reflow(self._drawn, width) - len(self._drawn)
        erase = (ControlType.ERASE_IN_LINE, 2)
        if extra:
            up = ((ControlType.CURSOR_UP, 1), erase) * extra
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase, *up))


def view_for(
    plan: Plan,
    trials: list[Trial],
    ledger: Ledger,
    outbox: Outbox,
    waits_for: Callable[[], str | None],
    output: Output = "people",
) -> PlainView:
    """The view that suits the output."""
    tally = Tally(plan, trials, ledger.results)
    begins = tally.look()
    console = Console(highlight=False)
    known = f", {begins.done_runs} known" if begins.done_runs else ""
    title = f"{plan.experiment.name}: {counted(plan.num_trials, 'trial')}, {counted(begins.total_runs, 'run')}{known}"
    if output == "json":
        say_json("sweep", name=plan.experiment.name, definition=plan.sweep.definition, num_trials=plan.num_trials,
                 total_runs=begins.total_runs, known_runs=begins.done_runs)  # fmt: skip
        return JsonView(console, tally, outbox, waits_for)
    if output == "quiet":
        return QuietView(console, tally, outbox, waits_for)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, tally, outbox, waits_for, title)
    console.print(Text(title), soft_wrap=True)
    return PlainView(console, tally, outbox, waits_for)


def trouble(outbox: Outbox, waits_for: str | None) -> list[str]:
    """A line for each thing that is waited for."""
    lines = [waits_for] if waits_for else []
    if outbox.full_disk:
        lines.append(f"waiting: the disk of {outbox.full_disk} is full; it goes on when there is room")
    if outbox.trouble:
        lines.append(f"records wait for the tracker: {without_user_info(outbox.trouble)}")
    return lines


def _cells(line: Line) -> Row:
    step, evaluation = line.step, line.evaluation
    return {
        NAME: line.run.name,
        "step": f"{step.step if step else 0:,}/{line.run.config.num_steps:,}",
        "train loss": f"{step.loss:.4f}" if step else "",
        "val loss": f"{evaluation.val_loss:.4f}" if evaluation else "",
        "learning rate": short(step.learning_rate) if step else "",
        "tokens/s": f"{step.tokens_per_second:,.0f}" if step else "",
    }


def _status(progress: Progress) -> list[str]:
    """How far it is, in parts, the most important first."""
    failed = f" ({progress.failed_runs} failed)" if progress.failed_runs else ""
    parts = [f"{progress.done_runs}/{counted(progress.total_runs, 'run')}{failed}"]
    if progress.seconds_left is not None:
        parts += [f"{duration(progress.seconds_left)} left", f"{progress.tokens_per_second:,.0f} tokens/s"]
    return parts


def summary(progress: Progress) -> str:
    """`12/32 runs, 3 min left, 41,200 tokens/s`."""
    return ", ".join(_status(progress))
