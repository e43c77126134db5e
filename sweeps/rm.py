"""Remove a sweep or a run for ever: its record, its artifacts, its report and its work.

    python -m sweeps.rm lr_warmup
    python -m sweeps.rm 8cc68210 --yes

Asks first. A run that is removed from a sweep is a hole that the next sweeps.run fills. A server keeps the record in
its bin until its owner runs mlflow gc, and may not let the artifacts go; then it is said which.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from sweeps.spec.naming import counted, size
from sweeps.terminal.command import DONE, help_of, run_command, store_option

if TYPE_CHECKING:
    from sweeps.outbox.outbox import Outbox
    from sweeps.store.read import Store
    from sweeps.store.schema import RunRow


@dataclass(frozen=True)
class Removal:
    """What is to go."""

    what: str  # in words
    run_ids: list[str]
    workdir: str | None  # of a single run that has not ended, inside the store's folder
    num_bytes: int


@click.command(help=help_of(__doc__))
@click.argument("name_or_run_id", metavar="NAME|RUN_ID")
@click.option("--yes", is_flag=True, help="Do not ask. A sweep is then given by its whole name.")
@store_option
def rm(name_or_run_id: str, yes: bool, store: str | None) -> int:
    # pydantic and the store, here and below, which --help need not wait for
    from sweeps.outbox.errors import RefusedError
    from sweeps.outbox.work import remove_empty_work
    from sweeps.store import open_store

    opened = open_store(store)
    names_one = any(name.startswith(name_or_run_id) for name in opened.sweeps())
    row = None if names_one else find_run(opened, name_or_run_id)
    name = found_name(opened, name_or_run_id, row, whole=yes)
    try:
        said = removed(opened, name, row, yes=yes)
    except RefusedError:
        if row is not None:
            raise  # what the journal holds of other runs may be wanted
        said = removed(opened, name, row, yes=yes, discards_journal=True)
    if said is None:
        click.echo("nothing was removed")
        return DONE
    if row is None:
        remove_empty_work(opened, name)
        opened.shrink()
    click.echo(f"removed {said}")
    if not opened.is_local:
        click.echo("the server keeps the records in its bin until mlflow gc runs there")
    if row is not None and row.role == "run":
        click.echo(f"The sweep without it: python -m sweeps.report {name}{opened.option}")
    return DONE


def removed(
    store: "Store", name: str, row: "RunRow | None", *, yes: bool, discards_journal: bool = False
) -> str | None:
    """Remove a sweep, or the run of it that `row` is; says what it was. None where whoever is asked doesn't agree."""
    from sweeps.outbox.errors import WAIT_SECONDS
    from sweeps.outbox.operations import RemoveRun, RemoveSweep
    from sweeps.outbox.work import locked_work

    # Where what is left to send is refused, that does not stop a whole sweep from going.
    with locked_work(store, name, discards_journal=discards_journal) as outbox:
        if name not in store.sweeps():  # an earlier command had begun to, and the rest has arrived now
            return f"what was left of sweep {name} in {store.where}"
        removal = whole_sweep(store, name) if row is None else one_run(store, store.find_run(row.run_id))
        said = f"{removal.what} in {store.where}, {size(removal.num_bytes)}"
        if not (yes or agreed(said)):
            return None
        for run_id in removal.run_ids:
            outbox.put(RemoveRun(run_id=run_id, workdir=removal.workdir))
        if row is None:
            outbox.put(RemoveSweep(), sync=True)
        wait_for(outbox, WAIT_SECONDS)
    return said


def find_run(store: "Store", run_id: str) -> "RunRow | None":
    """The run that is meant; None where it is no run ID. ValueError for a summary, which is no run of its own."""
    if not (len(run_id) >= 4 and set(run_id) <= set("0123456789abcdef")):
        return None
    row = store.find_run(run_id)
    if row.role == "summary":
        raise ValueError(f"run {row.run_id} ({row.name}) holds the plan of a sweep; remove the sweep by its name")
    return row


def found_name(store: "Store", given: str, row: "RunRow | None", *, whole: bool) -> str:
    """The sweep that is meant, or whose run is. ValueError where there is none, or only the start of its name."""
    if row is not None:
        return store.sweep_of(row)
    name = store.named(given)
    if whole and name != given:
        raise ValueError(f"{given!r} means {name}; --yes removes without asking, so write that")
    return name


def whole_sweep(store: "Store", name: str) -> Removal:
    """All of a sweep: runs, reproductions, summaries, those in MLflow's bin, and what is on this machine."""
    from sweeps.driver.overview import folder_bytes, folders_of

    runs, again = len(store.runs(name)), len(store.runs(name, "reproduction"))
    ids = store.run_ids(name)
    folders = folders_of(store, name)
    num_bytes = sum(map(folder_bytes, folders)) if folders else sum(map(store.artifacts.num_bytes, ids))
    what = f"sweep {name} with {counted(runs, 'run')}" + (f" and {counted(again, 'reproduction')}" if again else "")
    return Removal(what, ids, None, num_bytes)


def one_run(store: "Store", row: "RunRow") -> Removal:
    """A run or a reproduction, with the checkpoints of one that was to go on."""
    from sweeps.driver.overview import folder_bytes
    from sweeps.driver.run_folder import unfinished_work
    from sweeps.store import schema

    name = store.sweep_of(row)
    workdir = unfinished_work(store.layout.work_of(name).runs, row.tags[schema.CREATION])
    num_bytes = store.artifacts.num_bytes(row.run_id) + (folder_bytes(workdir) if workdir else 0)
    what = f"{row.role} {row.run_id} ({row.name}) of {name}"
    return Removal(what, [row.run_id], store.layout.relative(workdir) if workdir else None, num_bytes)


def agreed(said: str) -> bool:
    """The answer of whoever is asked. ValueError where nobody answers."""
    try:
        return click.confirm(f"Remove {said}, for ever?")
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        raise ValueError("nobody answered; --yes removes without asking") from None


def wait_for(outbox: "Outbox", wait: float) -> None:
    """Until all is gone; a bar says how much is. TrackerAwayError where nothing went for `wait` seconds."""
    from sweeps.store.secrets import without_secrets

    total = outbox.num_waiting
    told = False
    with click.progressbar(length=total, label="removing", file=sys.stderr) as bar:
        while not outbox.drain(0.2):
            bar.update(total - outbox.num_waiting - bar.pos)
            if outbox.is_stuck(wait, idle=True) and not told:
                click.echo(f"\nthe tracker is away ({without_secrets(str(outbox.trouble))}); giving it {wait:.0f} s")
                told = True


if __name__ == "__main__":
    run_command(rm)
