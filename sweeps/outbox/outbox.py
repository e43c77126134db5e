"""What the tracker must be told: durable on disk first, then sent by one thread, in order, until it has arrived.

`operations` says what an operation is, and `sender` what it does to the store. Each may be sent twice (a crash between
sending and forgetting), so the sender makes each one idempotent. What fails is tried again, in order; what is refused
for good stops the sending, and the journal keeps it. Knows no tracker.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sweeps.outbox.disk import DiskSpace
from sweeps.outbox.errors import RefusedError, TrackerAwayError, reason
from sweeps.outbox.journal import Journal
from sweeps.outbox.operations import Operation, Unreadable, coalesced

T = TypeVar("T")

RETRY_SECONDS = 2.0
MOST_COALESCED = 20
LAST_SECONDS = 10.0  # that the thread is given to end, once all has arrived
REST_SECONDS = 2.0  # between two looks at what there is to do beside sending
SLOW_SECONDS = 10.0  # a call that takes longer is as good as a tracker that is away


class Outbox:
    """A journal and the thread that sends it.

    `send(operation, replayed)` raises RefusedError where that is for good, and anything else while the tracker is away;
    `replayed` says that an earlier process may have sent it. What has fallen behind catches up by fewer calls. While
    there is nothing to send, the thread calls `rest` from time to time, whose errors but RefusedError may pass.
    """

    def __init__(
        self,
        journal: Journal,
        send: Callable[[Operation | Unreadable, bool], None],
        disk: DiskSpace,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.disk = disk
        self._journal, self._send, self._rest_within = journal, send, rest
        self._last_words: Callable[[], None] = lambda: None
        self._queue: deque[tuple[Operation | Unreadable, bool]] = deque((one, True) for one in journal.left_over)
        self._changed = threading.Condition()
        self._closing = False
        self.refusal: RefusedError | None = None  # why nothing is sent any more
        self._error: str | None = None  # of the last attempt
        self._error_since = 0.0
        self._call_since: float | None = None  # an attempt that is under way
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, operation: Operation, *, sync: bool = False) -> None:
        """Keep an operation durably and let it be sent."""
        with self._changed:
            self.when_there_is_room(lambda: self._journal.append(operation, sync=sync))
            self._queue.append((operation, False))
            self._changed.notify_all()

    def when_there_is_room(self, write: Callable[[], T]) -> T:
        """Write; while the disk is full whoever does waits, and so do the workers behind it. DiskFullError at last."""
        return self.disk.when_there_is_room(write, self._rest)

    def _rest(self) -> None:
        with self._changed:
            self._changed.wait(1.0)  # and the sender may go on: what has arrived is forgotten and makes room

    @property
    def trouble(self) -> str | None:
        """Why the tracker doesn't take the next operation, if it doesn't."""
        error, since = self._error, self._call_since
        if self.refusal or error:
            return str(self.refusal or error)
        if since and time.monotonic() - since > SLOW_SECONDS:
            return f"no answer for {time.monotonic() - since:.0f} s"
        return None

    @property
    def num_waiting(self) -> int:
        """Operations that have not arrived."""
        return len(self._queue)

    def drain(self, timeout: float) -> bool:
        """Wait until all has arrived; False where some has not by then. RefusedError where it never will."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: not self._queue or self.refusal, max(0.0, timeout))
            if self._queue and self.refusal:
                raise self.refusal
            return bool(arrived)

    def is_stuck(self, wait: float, *, idle: bool) -> bool:
        """Whether the tracker takes nothing now. TrackerAwayError where that lasts `wait` seconds and all is idle."""
        trouble = self.trouble
        if trouble is None:
            return False
        since = self._error_since if self._error else self._call_since
        if idle and since and time.monotonic() - since > wait:
            raise TrackerAwayError(trouble)
        return True

    def close(self, timeout: float, last_words: Callable[[], None] = lambda: None) -> bool:
        """Drain and stop. What has not arrived stays in the journal for the next start.

        Where all has, the thread calls `last_words` at its end.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or self.refusal, max(0.0, timeout))
            arrived = not self._queue
            self._closing, self._last_words = True, last_words
            self._changed.notify_all()
        self._thread.join(timeout=LAST_SECONDS if arrived else 0.1)
        if not self._thread.is_alive():
            self._journal.close()
        return arrived

    def _next(self) -> tuple[Operation | Unreadable, bool, int]:
        """What goes next, whether an earlier process may have sent it, and how many operations it stands for."""
        operation, replayed = self._queue[0]
        number = 1
        while number < min(MOST_COALESCED, len(self._queue)) and self._queue[number][1] == replayed:
            following = self._queue[number][0]
            if isinstance(operation, Unreadable) or isinstance(following, Unreadable):
                break
            together = coalesced(operation, following)
            if together is None:
                break
            operation, number = together, number + 1
        return operation, replayed, number

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, REST_SECONDS)
                if self._closing:
                    break
                operation, replayed, number = self._next() if self._queue else (None, False, 0)
            if operation is None:
                if not self._rested():
                    return
                continue
            self._call_since = time.monotonic()
            try:
                self._send(operation, replayed)
            except RefusedError as refusal:
                with self._changed:
                    self.refusal = refusal
                    self._changed.notify_all()
                return
            except Exception as error:  # any: the tracker's faults are many, and none may lose a record
                self._error_since = self._error_since if self._error else time.monotonic()
                self._error = reason(error)
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY_SECONDS):
                        return
                continue
            finally:
                self._call_since = None
            self._error = None
            with self._changed:
                if self._closing:
                    return  # the journal may be the next start's by now, which sends this again
                for _ in range(number):
                    self._queue.popleft()
                if not self._queue:
                    self._journal.forget()
                    self._changed.notify_all()
        if not self._queue and self.refusal is None and self._error is None:
            with suppress(Exception):  # nobody waits for them, and a next start finds out by itself
                self._last_words()

    def _rested(self) -> bool:
        """Whether to go on after a rest."""
        try:
            self._rest_within()
        except RefusedError as refusal:
            with self._changed:
                self.refusal = refusal
                self._changed.notify_all()
            return False
        except Exception as error:  # any, as of an operation
            self._error_since = self._error_since if self._error else time.monotonic()
            self._error = reason(error)
        else:
            self._error = None
        return True
