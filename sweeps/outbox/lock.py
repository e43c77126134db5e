"""One driver a sweep: a lock on this machine, and for a server, whose clients share no file, a sign of life there.

The file lock dies with its holder. The sign of life is best effort: two drivers that start in the same moment on two
machines may both see nobody, and one whose machine was lost holds the sweep until its last sign is old enough.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from sweeps.store.read import Store
from tinylm_core.durable import is_disk_full

SIGN_OF_LIFE_SECONDS = 180.0  # a driver on another machine that was not heard of for so long is gone
CLOCK_SECONDS = 60.0  # that a clock may have been set by since a process began


class LockHeldError(ValueError):
    """Another driver runs the sweep."""


@contextmanager
def sole_driver(store: Store, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Hold a sweep; gives who holds it now, which is us. LockHeldError says who else does."""
    lock = FileLock(folder / "lock")
    note = folder / "holder.json"
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise _held(name, _read(note)) from None
    try:
        if not store.is_local and (other := store.holder(name)) is not None and _is_alive(other):
            raise _held(name, other)
        holder = {"host": platform.node(), "pid": os.getpid(), "since": time.time()}
        try:
            note.write_text(json.dumps(holder))
        except OSError as error:
            if not is_disk_full(error):  # which `sweeps.rm` is to make room on; it is a note to people
                raise
        try:
            yield holder
        finally:
            note.unlink(missing_ok=True)
    finally:
        lock.release()


def driver_of(store: Store, name: str, folder: Path) -> dict[str, Any] | None:
    """Who drives a sweep now, as far as can be seen without holding it: a guess that writes nothing."""
    holders = [_read(folder / "holder.json"), (store.holder(name) or {}) if not store.is_local else {}]
    return next((holder for holder in holders if holder and _is_alive(holder)), None)


def _held(name: str, holder: dict[str, Any]) -> LockHeldError:
    try:
        since = datetime.fromtimestamp(holder["since"]).strftime("%Y-%m-%d %H:%M")
        by = f"by process {holder['pid']} on {holder['host']} since {since}"
        if "seen" in holder:
            by += f", heard of {time.time() - holder['seen']:.0f} s ago (gone after {SIGN_OF_LIFE_SECONDS:.0f} s)"
    except (KeyError, TypeError, ValueError):
        by = "by another process"
    return LockHeldError(f"sweep {name!r} is being run {by}; one driver at a time")


def _read(note: Path) -> dict[str, Any]:
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    try:
        if holder["host"] == platform.node():
            pid = int(holder["pid"])
            # After a restart of the machine, or in another container of its name, a younger process has the number.
            return pid != os.getpid() and psutil.Process(pid).create_time() < float(holder["since"]) + CLOCK_SECONDS
        return time.time() - float(holder["seen"]) < SIGN_OF_LIFE_SECONDS
    except psutil.AccessDenied:
        return True  # somebody else's process
    except (psutil.NoSuchProcess, OverflowError, KeyError, TypeError, ValueError):
        return False
