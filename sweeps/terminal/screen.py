"""The live view as lines of text that fit a terminal: what goes first where it is narrow or low. Knows no sweep."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sweeps.terminal.table import GAP, Row, fitting

# Left out of a narrow terminal, in this order; what a run is and how far it is are always shown.
SPARE_COLUMNS = ("learning rate", "tokens/s", "train loss", "val loss")
NAME = "run"
NARROWEST_BAR, WIDEST_BAR = 10, 40
MOST_TROUBLE = 3  # lines of it


def screen(
    console: Console,
    size: tuple[int, int],
    title: str,
    rows: Sequence[Row],
    status: Sequence[str],
    share: float,
    trouble: Sequence[str],
) -> list[Text]:
    """For a terminal of (columns, lines): at most one line less than it is high, none wider than it.

    `status` is said from the left until the line is full, and always. Where there are more rows than fit, the rest is
    counted.
    """
    width, height = size
    foot = [status_line(status, share, width)]
    for line in trouble:
        wrapped = Text(line, style="yellow").wrap(console, width)
        for part in wrapped:
            part.rstrip()
        foot += wrapped[: MOST_TROUBLE + 1 - len(foot)]
    room = height - 1 - len(foot)
    lines = [cut(Text(title, style="bold"), width)] if room >= 4 else []
    return lines + table(rows, width, room - len(lines)) + foot[: height - 1]


def table(rows: Sequence[Row], width: int, room: int) -> list[Text]:
    """A header and a line a row, in at most `room` lines."""
    if room < 2 or not rows:
        return []
    shown = rows if len(rows) < room else rows[: max(1, room - 2)]  # beside the header, and what is left out
    names = list(rows[0])
    widths = fitting(
        {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in names},
        width, spare=SPARE_COLUMNS, long=NAME,
    )  # fmt: skip

    def line(cells: Row, style: str = "") -> Text:
        rest = "".join(" " * GAP + cells[name].rjust(widths[name]) for name in widths if name != NAME)
        return cut(Text.assemble(short_name(cells[NAME], widths[NAME]), rest, style=style), width)

    lines = [line({name: name for name in names}, "dim"), *map(line, shown)]
    if len(shown) < len(rows) and len(lines) < room:
        lines.append(cut(Text(f"… and {len(rows) - len(shown)} more", style="dim"), width))
    return lines


def short_name(name: str, width: int) -> Text:
    """A run's name in so many columns; its last word stays, which tells seeds apart."""
    head, blank, last = name.rpartition(" ")
    room = width - cell_len(blank + last)
    if cell_len(name) <= width or room < cell_len(blank + last):
        head, last, room = name, "", width
    cut_head = Text(head)
    cut_head.truncate(room, overflow="ellipsis", pad=True)
    return cut_head + (blank + last if last else "")


def status_line(status: Sequence[str], share: float, width: int) -> Text:
    """As much of the status as fits, most important first, and a bar where there is room for it."""
    percent = f"{share:4.0%}"
    said = status[0]
    for part in status[1:]:
        if cell_len(f"{said}, {part}") + len(percent) + 1 <= width:
            said += f", {part}"
    bar_width = min(WIDEST_BAR, width - cell_len(said) - len(percent) - 2)
    if bar_width < NARROWEST_BAR:
        return cut(Text(f"{said} {percent}"), width)
    full = int(share * bar_width)
    return Text.assemble(said, " ", ("━" * full, "green"), ("─" * (bar_width - full), "dim"), " ", percent)


def cut(line: Text, width: int) -> Text:
    """A line that never wraps."""
    line.truncate(width, overflow="ellipsis")
    return line


def rows_after_reflow(widths: Sequence[int], width: int) -> int:
    """How many rows lines of some widths take on a terminal that wraps them when it gets narrower."""
    return sum(max(1, -(-line // width)) for line in widths)
