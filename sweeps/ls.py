"""List the sweeps in a store: how far each is, its best setting, when it last ran, its size on disk.

    python -m sweeps.ls
    python -m sweeps.ls --store http://127.0.0.1:5000

Runs and best are those of the definition that was run last, as in its report; the size counts artifacts, work and
reports of all. Where the output is no terminal, columns are separated by tabs and bytes are not rounded.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import click

from sweeps.command import DONE, run_command, store_option
from sweeps.quantities import size

if TYPE_CHECKING:
    from rich.table import Table

    from sweeps.store.read import Store
    from sweeps.store.sql import RawRun

COLUMNS = ("sweep", "definitions", "runs", "state", "best", "setting", "last", "size")
SPARE_COLUMNS = ("definitions", "size", "last", "state")  # of a narrow terminal, in this order
TO_THE_RIGHT = ("definitions", "runs", "best", "size")


@dataclass(frozen=True)
class Overview:
    """A sweep as a list shows it."""

    name: str
    num_definitions: int
    planned: int  # runs of the definition that was run last
    states: Counter[str]  # of those of them that have begun
    is_driven: bool  # a driver is at work
    best: tuple[float, str] | None  # the lowest mean objective over all seeds, in nats per token, and its setting
    last: datetime | None  # when a run began or ended; None where there was none
    num_bytes: int | None  # None where a server has the artifacts

    @property
    def done(self) -> int:
        """Runs with a result."""
        return self.states["COMPLETE"] + self.states["DIVERGED"]

    @property
    def state(self) -> str:
        """What is not simply complete: `2 running, 1 diverged`."""
        said = [
            f"{self.states[state]} {state.lower()}"
            for state in ("RUNNING", "DIVERGED", "FAILED", "INTERRUPTED")
            if self.states[state]
        ]
        return ", ".join(said) or ("running" if self.is_driven else "")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@store_option
def ls(store: str | None) -> int:
    from rich.console import Console

    from sweeps.store import open_store

    opened = open_store(store)
    overviews = list_sweeps(opened)
    if not overviews:
        click.echo(f"{opened.where} holds no sweep yet: python -m sweeps.run --list says what there is to run")
        return DONE
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table(overviews, datetime.now().astimezone(), console.width))
    else:
        for row in [COLUMNS, *(plain(overview) for overview in overviews)]:
            click.echo("\t".join(row))
    return DONE


def list_sweeps(store: "Store") -> list[Overview]:
    """Every sweep of a store, newest first."""
    return [overview(store, name, rows) for name, rows in store.listed_runs().items()]


def overview(store: "Store", name: str, rows: Sequence["RawRun"]) -> Overview:
    """How far a sweep is, from what is known of its runs."""
    from sweeps.lock import driver_of
    from sweeps.store import schema

    definitions = store.definitions(name)
    plan = next((known.plan for known in definitions if known.plan is not None), None)
    runs = [row for row in rows if row.tags.get(schema.ROLE) == "run"]
    is_driven = driver_of(store, name, store.folder / "work" / name) is not None
    chosen = best_of_each(runs, *planned_identities(store, runs, plan))
    states = Counter(row.tags.get(schema.STATE, "") for row in chosen.values())
    if not is_driven and "RUNNING" in states:  # nobody has said yet that they are dead
        states["INTERRUPTED"] += states.pop("RUNNING")
    moments = [moment for row in runs for moment in (row.start_time, row.end_time) if moment]
    return Overview(
        name=name,
        num_definitions=len(definitions),
        planned=plan["num_trials"] * len(plan["seeds"]) if plan else 0,
        states=states,
        is_driven=is_driven,
        best=best_setting(plan["trials"], chosen) if plan else None,
        last=datetime.fromtimestamp(max(moments) / 1000).astimezone() if moments else None,
        num_bytes=sum(map(folder_bytes, folders)) if (folders := folders_of(store, name)) else None,
    )


def planned_identities(
    store: "Store", runs: Sequence["RawRun"], plan: Mapping[str, Any] | None
) -> tuple[set[str], dict[str, str | None]]:
    """The identities a plan holds, and run ID → identity of the runs that may be among them."""
    from sweeps.store import schema

    planned = {identity for trial in plan["trials"] for identity in trial["runs"].values()} if plan else set()
    tagged = {row.run_id: row.tags.get(schema.IDENTITY) for row in runs}
    if planned <= set(tagged.values()):
        return planned, tagged
    # The tag is what the version that made a run computed; only for what it doesn't find is a config read (law 7).
    others = [run_id for run_id, identity in tagged.items() if identity not in planned]
    return planned, tagged | store.identities(others)


def best_of_each(
    runs: Iterable["RawRun"], planned: set[str], identities: Mapping[str, str | None]
) -> dict[str, "RawRun"]:
    """The run of each planned identity that counts: one with a result, else one that runs, else the newest."""
    from sweeps.store import schema

    def order(row: "RawRun") -> tuple[int, float, str]:
        return schema.attempt_order(row.tags.get(schema.STATE, ""), row.start_time or 0, row.run_id)

    found = ((identities[row.run_id], row) for row in sorted(runs, key=order))
    return {identity: row for identity, row in found if identity in planned and identity is not None}


def best_setting(trials: Iterable[Mapping[str, Any]], chosen: Mapping[str, "RawRun"]) -> tuple[float, str] | None:
    """The lowest mean objective of the settings that have it for every seed."""
    from sweeps.store import schema

    found = []
    for trial in trials:
        rows = [chosen[identity] for identity in trial["runs"].values() if identity in chosen]
        values = [row.metrics[schema.OBJECTIVE] for row in rows if row.tags[schema.STATE] in schema.RESULTS]
        if values and len(values) == len(trial["runs"]):
            found.append((fmean(values), str(trial["label"])))
    return min(found, default=None)


def folders_of(store: "Store", name: str) -> list[Path]:
    """The folders that hold what a sweep keeps on this machine; none where a server has its artifacts."""
    artifacts = store.artifacts_folder(name)
    return [artifacts, store.folder / "work" / name, store.folder / "reports" / name] if artifacts else []


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder, links not followed; 0 where there is none."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):  # not there, or gone meanwhile
        return total
    return total


def plain(overview: Overview) -> tuple[str, ...]:
    """A row for another program."""
    best, setting = overview.best or ("", "")
    return (
        overview.name,
        str(overview.num_definitions),
        f"{overview.done}/{overview.planned}",
        overview.state,
        str(best),
        setting,
        overview.last.isoformat(timespec="seconds") if overview.last else "",
        "" if overview.num_bytes is None else str(overview.num_bytes),
    )


def table(overviews: Iterable[Overview], now: datetime, width: int) -> "Table":
    """The list for a person; in a narrow terminal settings take several lines, and columns that say less go."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from sweeps.screen import fitting

    rows = [
        dict(zip(COLUMNS, (
            row.name, str(row.num_definitions), f"{row.done}/{row.planned}", row.state,
            f"{row.best[0]:.4f}" if row.best else "-", row.best[1] if row.best else "",
            when(row.last, now), size(row.num_bytes),
        ), strict=True))
        for row in overviews
    ]  # fmt: skip
    widths = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in COLUMNS}
    made = Table(box=None, header_style="dim", pad_edge=False)
    for name, columns in fitting(widths, width, spare=SPARE_COLUMNS, long="setting").items():
        justify: Literal["left", "right"] = "right" if name in TO_THE_RIGHT else "left"
        made.add_column(name, justify=justify, no_wrap=name != "setting", width=columns)
    for row in rows:
        made.add_row(*(Text(row[str(column.header)]) for column in made.columns))
    return made


def when(moment: datetime | None, now: datetime) -> str:
    """`14:05` of today, `2025-03-01` of another day."""
    if moment is None:
        return "-"
    return f"{moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d}"


if __name__ == "__main__":
    run_command(ls)
