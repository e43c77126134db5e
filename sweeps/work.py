"""The work folder of a sweep: its lock, and its outbox, drained before anything is read (law 8).

Joins store and outbox for the commands; knows no search.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sweeps.ledger import mark_dead_runs
from sweeps.outbox import DiskFullError, Outbox, TrackerAwayError
from sweeps.sender import Sender
from sweeps.store import schema
from sweeps.store.read import Store

WAIT_SECONDS = 600.0


class LockHeldError(ValueError):
    """Another driver runs the sweep."""


@contextmanager
def locked_work(store: Store, name: str, *, wait: float = WAIT_SECONDS) -> Iterator[Outbox]:
    """The drained outbox of a sweep, whose lock is held. ValueError says who else holds it.

    Runs that say RUNNING have no driver then: they are marked INTERRUPTED.
    """
    folder = work_folder(store, name)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise LockHeldError(f"sweep {name!r} is being run {_holder(folder)}; one driver at a time") from None
    try:
        (folder / "holder.json").write_text(
            json.dumps({"host": platform.node(), "pid": os.getpid(), "since": time.time()})
        )
        outbox = Outbox(folder / "journal.jsonl", Sender(store, name), wait)
        try:
            if not outbox.drain(wait):
                raise TrackerAwayError(outbox.trouble or "records wait for the tracker")
            if name in store.sweeps():
                for role in schema.ROLES:
                    mark_dead_runs(outbox, store.runs(name, role))
                outbox.drain(wait)
            yield outbox
        finally:
            outbox.close(0)
    finally:
        (folder / "holder.json").unlink(missing_ok=True)
        lock.release()


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
    return store.folder / "work" / name


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / "holder.json").read_text())
        since = datetime.fromtimestamp(holder["since"]).strftime("%Y-%m-%d %H:%M")
        return f"by process {holder['pid']} on {holder['host']} since {since}"
    except (OSError, ValueError, KeyError):
        return "by another process"
