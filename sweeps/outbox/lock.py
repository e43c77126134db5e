"""One driver a sweep: a file lock on this machine; on a server, whose clients share no file, an epoch that one has won.

The file lock dies with its holder. Who holds an epoch counts its signs of life in a tag. Another takes the next epoch
only where the count has stood still for LEASE_SECONDS by its own clock, or where it knows the holder as one that this
folder had, whose file lock it holds now. Host names, process IDs and times are for people: they decide nothing.
"""

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

import psutil
from filelock import FileLock, Timeout

from sweeps.store.holder import Holder, holder_from_json
from sweeps.store.layout import SweepWork
from sweeps.store.read import Store
from tinylm_core.durable import is_disk_full

BEAT_SECONDS = 5.0  # between two signs of life of a driver
LEASE_SECONDS = 60.0  # without one, and a driver may be followed by another
QUIET_SECONDS = 8.0  # of waiting that needs no word: who lives has given one by then
POLL_SECONDS = 1.0
CLOCK_SECONDS = 60.0  # that a clock may have been set by since a process began

Say = Callable[[str], None]


class LockHeldError(ValueError):
    """Another driver runs the sweep."""


@contextmanager
def sole_driver(
    store: Store, name: str, *, begins: bool = False, takes_over: bool = False, say: Say = lambda _: None
) -> Iterator[Holder]:
    """Hold a sweep; gives who holds it now, which is us. LockHeldError says who else does.

    `begins`: this is to run it, so it waits for as long as it takes to see whether a holder on a server lives; who
    only reads does not. `takes_over`: a holder there is followed at once, whether it lives or not.
    """
    work = store.layout.work_of(name)
    lock = FileLock(work.lock)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise _held(name, noted(work)) from None
    try:
        before = noted(work)  # whom this folder had, and who is gone, since the lock is ours
        nonce = (before.nonce if before is not None else "") or uuid.uuid4().hex
        holder = Holder(platform.node(), os.getpid(), time.time(), nonce)
        _note(work, holder)  # before an epoch is won by this nonce: a crash right then must not forget whose it is
        if not store.is_local:
            holder = _with_epoch(store, name, holder, begins=begins, takes_over=takes_over, say=say)
        _note(work, holder)
        try:
            yield holder
        finally:
            if store.is_local:  # of a server the folder keeps its nonce, by which its next driver follows at once
                work.holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _note(work: SweepWork, holder: Holder) -> None:
    try:
        work.holder.write_text(holder.to_json(), encoding="utf-8")
    except OSError as error:
        if not is_disk_full(error):  # which `sweeps.rm` is to make room on; it is a note to people
            raise


def _with_epoch(store: Store, name: str, holder: Holder, *, begins: bool, takes_over: bool, say: Say) -> Holder:
    """The holder with the epoch that it has won. Its nonce is its folder's, whose lock one process at a time has."""
    leases = store.experiments.leases(name)
    if leases is None and begins:
        store.writer().experiment(name, None)
        leases = store.experiments.leases(name)
    if leases is None:
        return holder  # nothing is there that two could write
    watched: Holder | None = None
    since: float | None = None  # when it began to be watched
    has_said = False
    num_lost = 0  # claims, to others who have not yet said so
    while True:
        tag = store.holder(name)
        if tag != watched:
            if watched is not None and tag is not None and not tag.released and tag.nonce != holder.nonce:
                raise _held(name, tag)  # it gives signs of life
            watched, since, num_lost = tag, None, 0
        is_free = tag is None or tag.released or takes_over or tag.nonce == holder.nonce
        is_still = since is not None and time.monotonic() - since > LEASE_SECONDS
        if is_still or (is_free and not num_lost):
            epoch = (tag.epoch if tag else 0) + 1 + num_lost
            if leases.claim(epoch, holder.nonce):
                return replace(holder, epoch=epoch)
            num_lost, since = num_lost + 1, None
        if since is None:
            if not begins:
                raise _held(name, None if tag is None or tag.released else tag)
            since, has_said = time.monotonic(), False
        if not has_said and time.monotonic() - since > QUIET_SECONDS:
            who = _who(tag) if tag is not None and not tag.released else "by another driver"
            say(f"sweep {name!r} was held {who}; giving it {LEASE_SECONDS:.0f} s for a sign of life")
            has_said = True
        time.sleep(POLL_SECONDS)


def driver_of(store: Store, name: str) -> Holder | None:
    """Who drives a sweep now, as far as can be seen without holding it: a guess that writes nothing."""
    note = noted(store.layout.work_of(name))
    if note is not None and _is_process(note):
        return note
    tag = None if store.is_local else store.holder(name)
    is_dead = note is not None and tag is not None and tag.nonce == note.nonce != ""
    return None if tag is None or tag.released or is_dead else tag


def noted(work: SweepWork) -> Holder | None:
    """The note that a driver of this folder left, or has there now."""
    try:
        return holder_from_json(work.holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def boot_seconds() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS' monotonic one does by itself
    return time.clock_gettime(clock)


def _held(name: str, holder: Holder | None) -> LockHeldError:
    by = _who(holder) if holder is not None else "by another process"
    return LockHeldError(f"sweep {name!r} is being run {by}; one driver at a time")


def _who(holder: Holder) -> str:
    by = f"by process {holder.pid} on {holder.host}"
    with suppress(OverflowError, ValueError, OSError):  # a time that is none
        by += f" since {datetime.fromtimestamp(holder.since).strftime('%Y-%m-%d %H:%M')}"
    return by


def _is_process(holder: Holder) -> bool:
    """Whether a note's process, of this machine, lives: for people alone."""
    if holder.host != platform.node()[: len(holder.host)]:
        return False
    try:
        # After a restart of the machine, or in another container of its name, a younger process has the number.
        is_older = psutil.Process(holder.pid).create_time() < holder.since + CLOCK_SECONDS
    except psutil.AccessDenied:
        return True  # somebody else's process
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    return holder.pid != os.getpid() and is_older
