"""The work folder of a sweep: its outbox, drained before anything is read (law 8), while we alone drive the sweep.

Joins store and outbox for the commands; knows no search.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from sweeps.ledger import mark_dead_runs
from sweeps.lock import sole_driver
from sweeps.outbox import DiskFullError, Outbox, RefusedError, TrackerAwayError
from sweeps.sender import Sender, joined
from sweeps.store import schema
from sweeps.store.place import without_user_info
from sweeps.store.read import Store

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
            if name in store.sweeps():
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


class Room:
    """Whether the disk under a store has room for another run; asked before one begins."""

    def __init__(self, folder: Path, num_bytes: int, wait: float) -> None:
        self._folder, self._num_bytes, self._wait = folder, num_bytes, wait
        self._short_since: float | None = None

    def is_short(self, *, idle: bool) -> bool:
        """DiskFullError where it has lasted too long and nothing is under way."""
        if shutil.disk_usage(self._folder).free >= self._num_bytes:
            self._short_since = None
            return False
        self._short_since = self._short_since or time.monotonic()
        if idle and time.monotonic() - self._short_since > self._wait:
            raise DiskFullError(f"{self._folder} has less than the {self._num_bytes / 1e6:,.0f} MB that a run needs")
        return True


def check_room(folder: Path, num_bytes: int) -> None:
    """ValueError where a plan does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(f"the plan needs about {num_bytes / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free")


def work_folder(store: Store, name: str) -> Path:
    """Where a sweep's journal, checkpoints and lock are."""
    return store.folder / "work" / schema.check_name(name)
