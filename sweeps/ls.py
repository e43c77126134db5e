"""List the sweeps in a store: how far each is, its best setting, when it last ran, its size on disk.

    python -m sweeps.ls
    python -m sweeps.ls lr_warmup --store http://127.0.0.1:5000

Runs and best are those of the definition that was run last, as in its report; the size counts artifacts, work and
reports of all. With NAME: the definitions of that sweep, the one that was started last first, with the flags that made
them. Where the output is no terminal, columns are separated by tabs and bytes are not rounded.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import click

from sweeps.spec.naming import size
from sweeps.terminal.command import DONE, help_of, run_command, store_option

if TYPE_CHECKING:
    from rich.table import Table

    # pydantic and rich, which --help need not wait for
    from sweeps.driver.overview import OfDefinition, Overview, Standing

L = TypeVar("L")

COLUMNS = ("sweep", "definitions", "runs", "state", "best", "setting", "last", "size")
SPARE_COLUMNS = ("definitions", "size", "last", "started", "state")  # of a narrow terminal, in this order
TO_THE_RIGHT = ("definitions", "runs", "best", "size")
OF_A_DEFINITION = ("definition", "runs", "state", "best", "setting", "started", "flags")
LONG = "flags"  # what may take several lines, where a table has it; else the setting does


@click.command(help=help_of(__doc__))
@click.argument("name", required=False)
@store_option
def ls(name: str | None, store: str | None) -> int:
    from sweeps.driver.overview import list_definitions, list_sweeps
    from sweeps.store import open_store

    opened = open_store(store)
    if name is not None:
        show(OF_A_DEFINITION, list_definitions(opened, opened.named(name)), definition_row)
        return DONE
    overviews = list_sweeps(opened)
    if not overviews:
        click.echo(f"{opened.where} holds no sweep yet: python -m sweeps.run --list says what there is to run")
        return DONE
    show(COLUMNS, overviews, sweep_row)
    return DONE


@dataclass(frozen=True)
class Cell:
    """What stands in a list: for a person, and for a program."""

    short: str
    whole: str


def alike(text: str) -> Cell:
    """The same for both."""
    return Cell(text, text)


def show(columns: Sequence[str], listed: Iterable[L], cells: Callable[[L], dict[str, Cell]]) -> None:
    """Print a row each: a table for a person, as wide as the terminal, or columns between tabs for a program."""
    from rich.console import Console

    rows = [cells(one) for one in listed]
    console = Console(highlight=False)
    if console.is_terminal:
        shown = {name: [row[name].short for row in rows] for name in columns}
        console.print(table(shown, console.width))
    else:
        for texts in [columns, *([row[name].whole for name in columns] for row in rows)]:
            click.echo("\t".join(texts))


def standing_cells(standing: "Standing", moment: datetime | None, moment_name: str) -> dict[str, Cell]:
    """The cells that a sweep and a definition have."""
    best, setting = standing.best or (None, "")
    time = moment.isoformat(timespec="seconds") if moment else ""
    return {
        "runs": alike(f"{standing.done}/{standing.planned}"),
        "state": alike(standing.state),
        "best": Cell("-", "") if best is None else Cell(f"{best:.4f}", str(best)),
        "setting": alike(setting),
        moment_name: Cell(when(moment, datetime.now().astimezone()), time),
    }


def sweep_row(row: "Overview") -> dict[str, Cell]:
    """The cells of a sweep."""
    return standing_cells(row.standing, row.last, "last") | {
        "sweep": alike(row.name),
        "definitions": alike(str(row.num_definitions)),
        "size": Cell(size(row.num_bytes), "" if row.num_bytes is None else str(row.num_bytes)),
    }


def definition_row(row: "OfDefinition") -> dict[str, Cell]:
    """The cells of a definition."""
    return standing_cells(row.standing, row.started, "started") | {
        "definition": alike(row.definition),
        "flags": alike(row.flags),
    }


def table(columns: Mapping[str, Sequence[str]], width: int) -> "Table":
    """Columns for a person; in a narrow terminal long texts take several lines, and columns that say less go."""
    from sweeps.terminal.table import fitted_table

    long = LONG if LONG in columns else "setting"
    return fitted_table(columns, width, spare=SPARE_COLUMNS, long=long, to_the_right=TO_THE_RIGHT, wraps=True)


def when(moment: datetime | None, now: datetime) -> str:
    """`14:05` of today, `2025-03-01` of another day."""
    if moment is None:
        return "-"
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d}"


if __name__ == "__main__":
    run_command(ls)
