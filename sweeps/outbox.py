"""What the tracker must be told: durable on disk first, then sent by one thread, in order, until it has arrived.

The only caller of the store's write side. An operation is a name and plain data; what it does is in `sweeps.sender`.
Every operation may be sent twice (a crash between sending and forgetting), so the sender makes each one idempotent.
"""

import errno
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Operation = dict[str, Any]

RETRY_SECONDS = 2.0
SYNC_SECONDS = 1.0


class TrackerAwayError(Exception):
    """The tracker doesn't take what waits for it; nothing is lost, and a later start sends it."""


class DiskFullError(Exception):
    """There was no room for a record for too long; nothing is lost, and a later start goes on."""


class Journal:
    """Operations as JSON lines in a file. A line that a crash cut off is no operation."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.left_over = self._read()
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._write(b"\n")
        self._synced = time.monotonic()

    def _read(self) -> list[Operation]:
        if not self.path.exists():
            return []
        operations = []
        for line in self.path.read_bytes().splitlines():
            try:
                operation = json.loads(line)
            except (ValueError, RecursionError):
                continue  # cut off by a crash: it was never acted upon
            if isinstance(operation, dict) and "op" in operation:
                operations.append(operation)
        return operations

    def append(self, operation: Operation, *, sync: bool) -> None:
        """Write one line; `sync` puts it on the disk before this returns, else it is there about a second later."""
        self._write(json.dumps(operation).encode() + b"\n")
        if sync or time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, line: bytes) -> None:
        """All of a line or, where the disk is full, none of it."""
        end = self.path.stat().st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(end)
            raise

    def forget(self) -> None:
        """All that was written has arrived."""
        self._file.truncate(0)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Outbox:
    """A journal and the thread that sends it. `send(operation, replayed)` raises while the tracker can't take it."""

    def __init__(self, path: Path, send: Callable[[Operation, bool], None], wait: float = 600.0) -> None:
        self._journal = Journal(path)
        self._send = send
        self._wait = wait  # seconds that a full disk is waited for
        self._queue: deque[tuple[Operation, bool]] = deque((op, True) for op in self._journal.left_over)
        self._changed = threading.Condition()
        self._closing = False
        self.trouble: str | None = None  # why the tracker doesn't take the next operation, if it doesn't
        self._trouble_since = 0.0
        self.full_disk: str | None = None  # the folder that has no room, while there is none
        self.gives_up: Callable[[], bool] = lambda: False  # asked while a full disk is waited for
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, op: str, content: Mapping[str, Any], *, sync: bool = False) -> None:
        """Keep an operation durably and let it be sent."""
        operation = {"op": op, **content}
        with self._changed:
            self._append(operation, sync=sync)
            self._queue.append((operation, False))
            self._changed.notify_all()

    def _append(self, operation: Operation, *, sync: bool) -> None:
        """Append; while the disk is full whoever puts something waits, and so do the workers behind it."""
        deadline = time.monotonic() + self._wait
        while True:
            try:
                self._journal.append(operation, sync=sync)
                return
            except OSError as error:
                if not is_disk_full(error):
                    raise
                if time.monotonic() > deadline or self.gives_up():
                    raise DiskFullError(f"the disk of {self._journal.path.parent} is full") from None
            self.full_disk = str(self._journal.path.parent)
            self._changed.wait(1.0)  # and the sender may go on: what has arrived is forgotten and makes room
            self.full_disk = None

    def drain(self, timeout: float) -> bool:
        """Wait until all has arrived; False where some has not by then."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue, max(0.0, timeout))

    def is_stuck(self, wait: float, *, idle: bool) -> bool:
        """Whether the tracker takes nothing now. TrackerAwayError where that lasts `wait` seconds and all is idle."""
        if self.trouble is None:
            return False
        if idle and time.monotonic() - self._trouble_since > wait:
            raise TrackerAwayError(self.trouble)
        return True

    def close(self, timeout: float) -> bool:
        """Drain and stop. What has not arrived stays in the journal for the next start."""
        arrived = self.drain(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=RETRY_SECONDS if arrived else 0.1)
        if not self._thread.is_alive():
            self._journal.close()
        return arrived

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                operation, replayed = self._queue[0]
            try:
                self._send(operation, replayed)
            except Exception as error:  # any: the tracker's faults are many, and none may lose a record
                self._trouble_since = self._trouble_since if self.trouble else time.monotonic()
                self.trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, RETRY_SECONDS):
                        return
                continue
            self.trouble = None
            with self._changed:
                self._queue.popleft()
                if not self._queue:
                    self._journal.forget()
                    self._changed.notify_all()


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that there is no room left, or no quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
