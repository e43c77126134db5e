"""One driver a sweep: a file lock on this machine; on a server, whose clients share no file, a sign of life in a tag.

The file lock dies with its holder. The sign of life is best effort: two drivers that start in the same moment on two
machines may both see nobody, and one whose machine was lost holds the sweep until its last sign is old enough.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import psutil
from filelock import FileLock, Timeout

from sweeps.store.holder import Holder, holder_from_json
from sweeps.store.layout import SweepWork
from sweeps.store.read import Store
from tinylm_core.durable import is_disk_full

SIGN_OF_LIFE_SECONDS = 180.0  # a driver on another machine that was not heard of for so long is gone
CLOCK_SECONDS = 60.0  # that a clock may have been set by since a process began


class LockHeldError(ValueError):
    """Another driver runs the sweep."""


@contextmanager
def sole_driver(store: Store, name: str) -> Iterator[Holder]:
    """Hold a sweep; gives who holds it now, which is us. LockHeldError says who else does."""
    work = store.layout.work_of(name)
    lock = FileLock(work.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise _held(name, _noted(work)) from None
    try:
        if not store.is_local and (other := store.holder(name)) is not None and _is_alive(other):
            raise _held(name, other)
        holder = Holder(platform.node(), os.getpid(), time.time())
        try:
            work.holder.write_text(holder.to_json(), encoding="utf-8")
        except OSError as error:
            if not is_disk_full(error):  # which `sweeps.rm` is to make room on; it is a note to people
                raise
        try:
            yield holder
        finally:
            work.holder.unlink(missing_ok=True)
    finally:
        lock.release()


def driver_of(store: Store, name: str) -> Holder | None:
    """Who drives a sweep now, as far as can be seen without holding it: a guess that writes nothing."""
    holders = (_noted(store.layout.work_of(name)), None if store.is_local else store.holder(name))
    return next((holder for holder in holders if holder and _is_alive(holder)), None)


def _held(name: str, holder: Holder | None) -> LockHeldError:
    by = "by another process"
    if holder is not None:
        with suppress(OverflowError, ValueError, OSError):  # a time that is none
            since = datetime.fromtimestamp(holder.since).strftime("%Y-%m-%d %H:%M")
            by = f"by process {holder.pid} on {holder.host} since {since}"
        if holder.seen is not None:
            by += f", heard of {time.time() - holder.seen:.0f} s ago (gone after {SIGN_OF_LIFE_SECONDS:.0f} s)"
    return LockHeldError(f"sweep {name!r} is being run {by}; one driver at a time")


def _noted(work: SweepWork) -> Holder | None:
    try:
        return holder_from_json(work.holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_alive(holder: Holder) -> bool:
    if holder.host != platform.node():
        return holder.seen is not None and time.time() - holder.seen < SIGN_OF_LIFE_SECONDS
    try:
        # After a restart of the machine, or in another container of its name, a younger process has the number.
        is_older = psutil.Process(holder.pid).create_time() < holder.since + CLOCK_SECONDS
    except psutil.AccessDenied:
        return True  # somebody else's process
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    return holder.pid != os.getpid() and is_older
