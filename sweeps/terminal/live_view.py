"""The view of a sweep that is redrawn in place on a terminal, and which view suits an output. Counts nothing itself."""

import os
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from sweeps.driver.ledger import Ledger
from sweeps.outbox.outbox import Outbox
from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.spec.naming import counted, short
from sweeps.terminal.events import SweepBegins, say_event
from sweeps.terminal.screen import NAME, rows_after_reflow, screen
from sweeps.terminal.table import Row
from sweeps.terminal.tally import RunProgress, Tally
from sweeps.terminal.views import JsonView, Output, PlainView, QuietView, status_parts, trouble

SECONDS_BETWEEN_LOOKS = 1  # of the live view


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
        rows = [_cells(run) for run in list(self._tally.under_way.values())]
        waited_for = trouble(self._outbox, self._waiting)
        status, share = status_parts(self._progress), self._progress.share_done
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
        name, definition = plan.experiment.name, plan.sweep.definition
        say_event(SweepBegins(name, definition, plan.num_trials, begins.total_runs, begins.done_runs))
        return JsonView(console, tally, outbox, waits_for)
    if output == "quiet":
        return QuietView(console, tally, outbox, waits_for)
    # FORCE_COLOR makes a terminal of whatever rich is asked about, a file too.
    if console.is_terminal and not console.is_dumb_terminal and console.file.isatty():
        return LiveView(console, tally, outbox, waits_for, title)
    console.print(Text(title), soft_wrap=True)
    return PlainView(console, tally, outbox, waits_for)


def _cells(progress: RunProgress) -> Row:
    step, evaluation = progress.step, progress.evaluation
    return {
        NAME: progress.run.name,
        "step": f"{step.step if step else 0:,}/{progress.run.config.num_steps:,}",
        "train loss": f"{step.loss:.4f}" if step else "",
        "val loss": f"{evaluation.val_loss:.4f}" if evaluation else "",
        "learning rate": short(step.learning_rate) if step else "",
        "tokens/s": f"{step.tokens_per_second:,.0f}" if step else "",
    }
