"""Opens a sweep's outbox for a command: takes the lock, sends what earlier commands left, marks dead runs (law 8).

Also says how long a tracker is waited for. Knows no search.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from filelock import FileLock, Timeout

from sweeps.outbox.disk import DiskSpace
from sweeps.outbox.errors import WAIT_SECONDS, TrackerAwayError
from sweeps.outbox.journal import Journal
from sweeps.outbox.lock import sole_driver
from sweeps.outbox.operations import MarkDead
from sweeps.outbox.outbox import Outbox
from sweeps.outbox.sender import Sender
from sweeps.store.read import Store
from sweeps.store.secrets import without_secrets
from tinylm_core.records import now_ms

QUIET_SECONDS = 2.0  # of waiting that needs no word


def say(line: str) -> None:
    """Tell a person what is waited for, beside whatever a program reads."""
    click.echo(line, err=True)


@contextmanager
def locked_work(
    store: Store,
    name: str,
    *,
    wait: float = WAIT_SECONDS,
    discards_journal: bool = False,
    begins: bool = False,
    takes_over: bool = False,
) -> Iterator[Outbox]:
    """The drained outbox of a sweep that we alone drive. LockHeldError says who else does.

    Runs that say RUNNING have no driver then: they are marked INTERRUPTED. `discards_journal`: what earlier commands
    have left to send is of no use any more; `begins` and `takes_over` as for `sole_driver`.
    """
    work = store.layout.work_of(name)
    work.folder.mkdir(parents=True, exist_ok=True)
    with sole_driver(store, name, begins=begins, takes_over=takes_over, say=say) as holder:
        if discards_journal:
            work.journal.unlink(missing_ok=True)
        journal = Journal(work.journal, store.layout.root)
        if journal.damage:
            say(f"{journal.damage}; the rest was put beside it, and its runs go on from their checkpoints")
        sender = Sender(store, name, say, holder)
        outbox = Outbox(journal, sender, DiskSpace(store.folder, wait), rest=sender.beat)
        try:
            drain(outbox, wait)
            for run_id in store.running(name):  # their driver is gone
                outbox.put(MarkDead(run_id=run_id, end_time_ms=now_ms()))
            drain(outbox, wait)
            yield outbox
        finally:
            outbox.close(0, sender.release)


def remove_empty_work(store: Store, name: str) -> None:
    """Remove the work folder of a sweep that was removed, unless somebody has begun it anew."""
    work = store.layout.work_of(name)
    with suppress(Timeout, OSError), FileLock(work.lock, blocking=False):
        if not work.journal.read_bytes():
            work.journal.unlink()
            work.holder.unlink(missing_ok=True)
            work.lock.unlink()
            work.folder.rmdir()


def drain(outbox: Outbox, wait: float) -> None:
    """Wait until all has arrived, and say so where it takes a while.

    TrackerAwayError where nothing arrives for `wait` seconds; a slow tracker has all the time it needs.
    """
    if outbox.drain(min(wait, QUIET_SECONDS)):
        return
    if wait > QUIET_SECONDS:
        if outbox.trouble:
            why = without_secrets(outbox.trouble)
            say(f"{outbox.num_waiting:,} records wait for the tracker ({why}); giving it {wait:.0f} s")
        else:
            say(f"{outbox.num_waiting:,} records are on their way to the tracker")
        left = outbox.num_waiting + 1
        while outbox.num_waiting < left:
            left = outbox.num_waiting
            if outbox.drain(wait):
                return
    raise TrackerAwayError(outbox.trouble or f"{outbox.num_waiting} records wait")
