"""What is said while a sweep runs, where no live view is drawn: plain lines, little, or JSON. Counts nothing itself."""

import time
from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.text import Text

from sweeps.outbox.outbox import Outbox
from sweeps.plan.plan import PlannedRun
from sweeps.spec.naming import counted, duration
from sweeps.store.secrets import without_secrets
from sweeps.terminal.events import RunEnds, RunStarts, SweepProgress, say_event
from sweeps.terminal.tally import Progress, Tally
from sweeps.workers.protocol import Message

SECONDS_BETWEEN_LINES = 10

Output = Literal["people", "quiet", "json"]


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
        say_event(RunStarts(run.name, run.trial, run.seed, run.label, run.identity))

    def _say_ended(self, run: PlannedRun, state: str, value: float | None) -> None:
        say_event(RunEnds(run.name, run.trial, run.seed, run.label, run.identity, state, value))

    def _say_progress(self, lines: list[str]) -> None:
        now = self._progress
        say_event(
            SweepProgress(
                now.done_runs,
                now.total_runs,
                now.failed_runs,
                now.tokens_per_second,
                now.share_done,
                now.seconds_left,
                lines,
            )
        )


def trouble(outbox: Outbox, waits_for: str | None) -> list[str]:
    """A line for each thing that is waited for."""
    lines = [waits_for] if waits_for else []
    if outbox.disk.full:
        lines.append(f"waiting: the disk of {outbox.disk.full} is full; it goes on when there is room")
    if outbox.trouble:
        lines.append(f"records wait for the tracker: {without_secrets(outbox.trouble)}")
    return lines


def status_parts(progress: Progress) -> list[str]:
    """How far it is, in parts, the most important first."""
    failed = f" ({progress.failed_runs} failed)" if progress.failed_runs else ""
    parts = [f"{progress.done_runs}/{counted(progress.total_runs, 'run')}{failed}"]
    if progress.seconds_left is not None:
        parts += [f"{duration(progress.seconds_left)} left", f"{progress.tokens_per_second:,.0f} tokens/s"]
    return parts


def summary(progress: Progress) -> str:
    """`12/32 runs, 3 min left, 41,200 tokens/s`."""
    return ", ".join(status_parts(progress))
