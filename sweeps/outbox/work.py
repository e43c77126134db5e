"""The work folder of a sweep: its outbox, drained before anything is read (law 8), while we alone drive the sweep.

Joins store and outbox for the commands; knows no search.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from sweeps.outbox.errors import DiskFullError, RefusedError, TrackerAwayError
from sweeps.outbox.lock import sole_driver
from sweeps.outbox.operations import joined
from sweeps.outbox.outbox import Outbox
from sweeps.outbox.sender import Sender
from sweeps.spec.naming import check_name
from sweeps.store.place import without_user_info
from sweeps.store.read import Store
from tinylm_core.records import now_ms

WAIT_SECONDS = 600.0
QUIET_SECONDS = 2.0  # of waiting that needs no word
RELEASE_SECONDS = 2.0


@contextmanager
def locked_work(
    store: Store, name: str, *, wait: float = WAIT_SECONDS, discards_journal: bool = False
) -> Iterator[Outbox]:
    """The drained outbox of a sweep that we alone drive. LockHeldError says who else does.

    Runs that say RUNNING have no driver then: they are marked INTERRUPTED. `discards_journal`: what earlier commands
    have left to send is of no use any more.
    """
    folder = work_folder(store, name)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_driver(store, name, folder) as holder:
        if discards_journal:
            (folder / "journal.jsonl").unlink(missing_ok=True)
        outbox = Outbox(folder / "journal.jsonl", Sender(store, name, click.echo), wait, joined)
        try:
            if not store.is_local:
                outbox.put("hold", {"holder": holder})
            drain(outbox, wait)
            mark_dead_runs(outbox, store.running(name))
            drain(outbox, wait)
            yield outbox
        finally:
            if not store.is_local:
                _release(outbox)
            outbox.close(0)


def remove_empty_work(store: Store, name: str) -> None:
    """Remove the work folder of a sweep that was removed, unless somebody has begun it anew."""
    folder = work_folder(store, name)
    with suppress(Timeout, OSError), FileLock(folder / "lock", blocking=False):
        if not (folder / "journal.jsonl").read_bytes():
            (folder / "journal.jsonl").unlink()
            (folder / "lock").unlink()
            folder.rmdir()


def _release(outbox: Outbox) -> None:
    """Say that nobody drives the sweep now, unless that must be waited for."""
    if not outbox.trouble and not outbox.num_waiting:
        with suppress(DiskFullError, RefusedError):
            outbox.put("release", {})
            outbox.drain(RELEASE_SECONDS)


def drain(outbox: Outbox, wait: float) -> None:
    """Wait until all has arrived, and say so where it takes a while.

    TrackerAwayError where nothing arrives for `wait` seconds; a slow tracker has all the time it needs.
    """
    if outbox.drain(min(wait, QUIET_SECONDS)):
        return
    if wait > QUIET_SECONDS:
        if outbox.trouble:
            why = without_user_info(outbox.trouble)
            click.echo(f"{outbox.num_waiting:,} records wait for the tracker ({why}); giving it {wait:.0f} s")
        else:
            click.echo(f"{outbox.num_waiting:,} records are on their way to the tracker")
        left = outbox.num_waiting + 1
        while outbox.num_waiting < left:
            left = outbox.num_waiting
            if outbox.drain(wait):
                return
    raise TrackerAwayError(outbox.trouble or f"{outbox.num_waiting} records wait")


def work_folder(store: Store, name: str) -> Path:
    """Where a sweep's journal, checkpoints and lock are."""
    return store.folder / "work" / check_name(name)


def publish_files(outbox: Outbox, run: str, folder: Path, artifact_path: str, *, temporary: bool = False) -> None:
    """Put a folder's files on a run, by its creation ID; a temporary folder goes once they are there."""
    content = {"run": run, "folder": str(folder), "artifact_path": artifact_path, "temporary": temporary}
    outbox.put("publish", content, sync=True)


def mark_dead_runs(outbox: Outbox, run_ids: Iterable[str]) -> None:
    """Runs that say RUNNING while their sweep's lock is held by us: their driver is gone."""
    for run_id in run_ids:
        outbox.put("mark_dead", {"run_id": run_id, "end_time_ms": now_ms()})
