"""The table of a terminal: columns that fit its width, drawn by rich. Knows nothing of what its columns mean."""

from collections.abc import Container, Mapping, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

Row = dict[str, str]  # of the live view: the text of each column

WIDEST_NAME = 32  # a longer name is cut before a column goes
WIDEST_SETTING = 60  # the same of a setting, in tables that are printed once
GAP = 2


def fitted_table(
    columns: Mapping[str, Sequence[str]],
    width: int,
    *,
    spare: Sequence[str],
    long: str,
    to_the_right: Container[str],
    widest: int = WIDEST_NAME,
    alike: Mapping[str, str] | None = None,
    title: str = "",
    wraps: bool = False,
) -> Table:
    """Return a table of the columns, given as the texts of their rows by name, that fit in `width`; see `fitting`.

    The `long` column is cut where it does not fit, or takes several lines where it `wraps`. What each column of `alike`
    that had to go says in all rows is said once, beside the title.
    """
    alike = alike or {}
    widths = {name: max(map(cell_len, (name, *texts))) for name, texts in columns.items()}
    fit = fitting(widths, width, spare=spare, long=long, widest=widest, alike=list(alike))
    once = said_once(alike, fit)
    heading = f"{title} ({once})" if title and once else title or once
    table = Table(
        title=Text(heading) if heading else None,
        title_justify="left",
        title_style="bold" if title else "dim",
        box=None,
        header_style="dim",
        pad_edge=False,
    )
    for name, its_width in fit.items():
        justify: Literal["left", "right"] = "right" if name in to_the_right else "left"
        table.add_column(name, justify=justify, no_wrap=not (wraps and name == long), width=its_width)
    for texts in zip(*(columns[name] for name in fit), strict=True):
        table.add_row(*map(Text, texts))
    return table


def fitting(
    widths: Mapping[str, int],
    width: int,
    *,
    spare: Sequence[str],
    long: str,
    widest: int = WIDEST_NAME,
    alike: Sequence[str] = (),
) -> dict[str, int]:
    """The columns of a table that fit side by side, `GAP` apart, with their widths.

    Where all don't, those `alike` in all rows go in order until the `long` one is whole, then the `spare` ones until it
    has `widest`, and then it is cut: no number ever is.
    """
    left = dict(widths)

    def for_long() -> int:
        return width - sum(left[name] + GAP for name in left if name != long)

    for name in alike:
        if for_long() >= widths[long]:
            break
        left.pop(name, None)
    for name in spare:
        if for_long() >= min(widths[long], widest):
            break
        left.pop(name, None)
    left[long] = max(1, min(widths[long], for_long()))
    return left


def alike_in_all(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The columns that have one text in all rows, with it; of one row, or none, none."""
    return {name: texts[0] for name, texts in columns.items() if len(texts) > 1 and len(set(texts)) == 1}


def said_once(alike: Mapping[str, str], shown: Container[str]) -> str:
    """`in all: steps = 128, seeds = 2/2` of the columns that are not shown."""
    gone = ", ".join(f"{name} = {text}" for name, text in alike.items() if name not in shown)
    return f"in all: {gone}" if gone else ""
