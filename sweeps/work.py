"""The work folder of a sweep: its lock, and its outbox, drained before anything is read (law 8).

Joins store and outbox for the commands; knows no search.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from sweeps.ledger import mark_dead_runs
from sweeps.outbox import Outbox, TrackerAwayError
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
        outbox = Outbox(folder / "journal.jsonl", Sender(store, name))
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
