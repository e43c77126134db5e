"""What is seen while a sweep runs: a live view on a terminal, plain lines elsewhere, little or JSON where asked."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from sweeps.configs import train_tokens
from sweeps.ledger import Ledger
from sweeps.outbox import Outbox
from sweeps.plan import Plan, PlannedRun, Trial
from sweeps.space import short
from sweeps.store.place import without_user_info
from sweeps.workers import Evaluated, Message, Steps
from tinylm_core.records import EvalRecord, StepRecord, now_ms

SECONDS_BETWEEN_LINES = 10

Output = Literal["people", "quiet", "json"]


@dataclass
class Line:
    """A run under way."""

    run: PlannedRun
    step: StepRecord | None = None
    evaluation: EvalRecord | None = None


@dataclass
class Tally:
    """How far the sweep is. Tokens are those to train in this start."""

    total_runs: int
    done_runs: int
    total_tokens: int
    started: float = field(default_factory=time.monotonic)
    ended_tokens: int = 0
    failed_runs: int = 0
    lines: dict[str, Line] = field(default_factory=dict)
    started_ms: int = field(default_factory=now_ms)
    _earlier_tokens: dict[str, int] = field(default_factory=dict)

    def start(self, run: PlannedRun) -> None:
        self.lines[run.identity] = Line(run)

    def hear(self, message: Message) -> None:
        line = self.lines.get(message.key)
        if line is None:
            return
        if isinstance(message, Steps):
            # A run that goes on from a checkpoint tells its history first: those tokens were trained before.
            earlier = [record.tokens for record in message.records if record.timestamp_ms < self.started_ms]
            self._earlier_tokens[message.key] = max([self._earlier_tokens.get(message.key, 0), *earlier])
            line.step = message.records[-1]
        elif isinstance(message, Evaluated):
            line.evaluation = message.record

    def end(self, run: PlannedRun, state: str) -> None:
        line = self.lines.pop(run.identity, None)
        if line is None:
            return
        if state != "INTERRUPTED":
            self.done_runs += 1
            self.ended_tokens += run.num_tokens
        self.failed_runs += state == "FAILED"

    @property
    def trained_tokens(self) -> int:
        """Tokens of this start's runs so far, also those of ended ones."""
        return self.ended_tokens + sum(line.step.tokens for line in self.lines.values() if line.step)

    @property
    def tokens_per_second(self) -> float:
        """Over the whole start, all workers together."""
        known = sum(self._earlier_tokens.values())
        return max(0, self.trained_tokens - known) / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """From the tokens left at the pace so far; None before there is one."""
        pace = self.tokens_per_second
        return (self.total_tokens - self.trained_tokens) / pace if pace > 0 else None


class PlainView:
    """For logs: a line a run that ends, what is waited for as it begins, and about every ten seconds how far it is."""

    def __init__(self, console: Console, tally: Tally, outbox: Outbox, waits_for: Callable[[], str | None]) -> None:
        self._console, self._tally, self._outbox, self._waits_for = console, tally, outbox, waits_for
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self._said = ("", 0)

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
        self._console.print(Text(f"[{self._tally.done_runs}/{self._tally.total_runs}] {text}"), soft_wrap=True)

    def tick(self) -> None:
        lines = trouble(self._outbox, self._waits_for())
        says = (" ".join(lines), self._tally.trained_tokens)
        is_news = bool(lines) and not self._said[0]
        if not is_news and (time.monotonic() < self._next or says == self._said):
            return
        self._said, self._next = says, time.monotonic() + SECONDS_BETWEEN_LINES
        self._say_progress(lines)

    def _say_progress(self, lines: list[str]) -> None:
        self._console.print(Text("  ".join([summary(self._tally), *lines])), soft_wrap=True)


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
        tally = self._tally
        say_json(
            "progress",
            done_runs=tally.done_runs,
            total_runs=tally.total_runs,
            failed_runs=tally.failed_runs,
            tokens_per_second=tally.tokens_per_second,
            seconds_left=tally.seconds_left,
            waiting=lines,
        )


def say_json(event: str, **fields: object) -> None:
    """One event as a line of JSON."""
    click.echo(json.dumps({"event": event} | fields))


def _run_fields(run: PlannedRun) -> dict[str, object]:
    return {"run": run.name, "trial": run.trial, "seed": run.seed, "setting": run.label, "identity": run.identity}


class LiveView(PlainView):
    """A line a running run, overall progress and the time left, redrawn in place."""

    def __init__(
        self, console: Console, tally: Tally, outbox: Outbox, waits_for: Callable[[], str | None], title: str
    ) -> None:
        super().__init__(console, tally, outbox, waits_for)
        self._title, self._waiting = title, waits_for()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=console, expand=False
        )
        self._task = self._bar.add_task("", total=max(tally.total_tokens, 1))
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def tick(self) -> None:
        self._waiting = self._waits_for()  # not where it is drawn: a thread of its own does that

    def _render(self) -> RenderableType:
        tally = self._tally
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in ("step", "train loss", "val loss", "learning rate", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in list(tally.lines.values()):
            table.add_row(*_cells(line))
        self._bar.update(self._task, completed=tally.trained_tokens, description=summary(tally))
        parts: list[RenderableType] = [Text(self._title, style="bold"), table, self._bar]
        parts += [Text(line, style="yellow") for line in trouble(self._outbox, self._waiting)]
        return Group(*parts)


def view_for(
    plan: Plan,
    trials: list[Trial],
    ledger: Ledger,
    outbox: Outbox,
    waits_for: Callable[[], str | None],
    output: Output = "people",
) -> PlainView:
    """The view that suits the output."""
    runs = {run.identity: run for trial in trials for run in trial.runs}
    missing = [run for identity, run in runs.items() if identity not in ledger.results]
    to_come = (plan.num_trials - len(trials)) * plan.sweep.seeds
    tokens = sum(run.num_tokens for run in missing) + to_come * train_tokens(plan.sweep.base)
    tally = Tally(len(runs) + to_come, len(runs) - len(missing), tokens)
    console = Console(highlight=False)
    known = f", {tally.done_runs} known" if tally.done_runs else ""
    title = f"{plan.experiment.name}: {plan.num_trials} trials, {tally.total_runs} runs{known}"
    if output == "json":
        say_json("sweep", name=plan.experiment.name, definition=plan.sweep.definition, num_trials=plan.num_trials,
                 total_runs=tally.total_runs, known_runs=tally.done_runs)  # fmt: skip
        return JsonView(console, tally, outbox, waits_for)
    if output == "quiet":
        return QuietView(console, tally, outbox, waits_for)
    if console.is_terminal:
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


def _cells(line: Line) -> list[str]:
    total = line.run.config.num_steps
    step, evaluation = line.step, line.evaluation
    if step is None:
        return [line.run.name, f"0/{total}", "", _loss(evaluation), "", ""]
    rate = short(step.learning_rate)
    return [
        line.run.name,
        f"{step.step}/{total}",
        f"{step.loss:.4f}",
        _loss(evaluation),
        rate,
        f"{step.tokens_per_second:,.0f}",
    ]


def _loss(evaluation: EvalRecord | None) -> str:
    return f"{evaluation.val_loss:.4f}" if evaluation else ""


def summary(tally: Tally) -> str:
    """`12/32 runs, 41,200 tokens/s, 3 min left`."""
    text = f"{tally.done_runs}/{tally.total_runs} runs"
    if tally.failed_runs:
        text += f" ({tally.failed_runs} failed)"
    if tally.seconds_left is not None:
        text += f", {tally.tokens_per_second:,.0f} tokens/s, {duration(tally.seconds_left)} left"
    return text


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
