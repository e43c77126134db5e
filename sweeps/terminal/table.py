"""Tables for a terminal: columns that fit its width."""

from collections.abc import Container, Mapping, Sequence
from typing import Literal

import pandas as pd
from rich.table import Table
from rich.text import Text

Row = dict[str, str]


WIDEST_NAME = 32  # a longer name is cut before a column goes


WIDEST_SETTING = 60  # the same of a setting, in tables that are printed once


GAP = 2


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


def alike_in_all(rows: Sequence[Row]) -> dict[str, str]:
    """The columns that have one text in all rows, with it; of one row, or none, none."""
    return {name: text for name, text in rows[0].items() if all(row[name] == text for row in rows)} if rows[1:] else {}


def said_once(alike: Mapping[str, str], shown: Container[str]) -> str:
    """`in all: steps = 128, seeds = 2/2` of the columns that are not shown."""
    gone = ", ".join(f"{name} = {text}" for name, text in alike.items() if name not in shown)
    return f"in all: {gone}" if gone else ""


# Left out of a narrow terminal, in this order; the page has them all.
SPARE_COLUMNS = ("tokens to", "trial", "seeds", "runs", "perplexity", "train loss", "against the best", "#")


def fitting_table(title: str, frame: pd.DataFrame, width: int) -> Table:
    """As many columns of a frame of text as fit; those that say least go first, and no number is cut.

    What a column that had to go says in all rows alike is said once, beside the title.
    """
    frame = frame.astype(str).rename(columns={"validation loss": "val loss"})
    long = next((name for name in ("setting", "parameter") if name in frame), str(frame.columns[0]))
    point = "gap" if long == "setting" else "val loss"  # what a table without it still answers
    starts = [*SPARE_COLUMNS, point]
    spare = [str(name) for start in starts for name in frame.columns if str(name).startswith(start)]
    widths = {str(name): max(len(str(name)), *frame[name].str.len()) for name in frame.columns}
    rows = [{str(name): str(text) for name, text in row.items()} for row in frame.to_dict("records")]
    same = {name: text for name, text in _alike(rows).items() if name not in (long, point)}
    spare = [name for name in spare if name != long]
    fit = fitting(widths, width, spare=spare, long=long, widest=WIDEST_SETTING, alike=list(same))
    once = said_once(same, fit)
    title = f"{title} ({once})" if once else title
    made = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    for name, columns in fit.items():
        justify: Literal["left", "right"] = "right" if frame[name].str.match("[-\u2013\\d]").all() else "left"
        made.add_column(name, justify=justify, no_wrap=True, width=columns)
    for row in frame[list(fit)].itertuples(index=False):
        made.add_row(*map(Text, row))
    return made


def _alike(rows: list[Row]) -> dict[str, str]:
    """The best setting's verdict is "best" whatever the others' is, which may be one."""
    verdict = "against the best"
    others = [{verdict: row[verdict]} for row in rows[1:] if verdict in row]
    return alike_in_all(rows) | alike_in_all(others)
