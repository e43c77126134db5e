"""Ctrl-C and SIGTERM, as a command that may be cut off anywhere takes them. Knows not what it does."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_SECONDS = 0.1  # GNU timeout signals its command and then the whole group, so the command twice


class Paused(KeyboardInterrupt):
    """Raised where a signal arrives, so that nothing that waits for a tracker holds the command up."""


class Signals:
    """Ctrl-C and SIGTERM pause; a second one ends at once, and the workers with it.

    All that a command does may be cut off anywhere (law 2); only the loop that holds the workers is asked to stop.
    `ends_after`: what was asked to stop ends then; another signal would only interrupt the interpreter's own end.
    """

    def __init__(self, *, ends_after: bool) -> None:
        self._ends_after = ends_after
        self.received = 0
        self._received_at = 0.0
        self._is_deferred = False

    def __enter__(self) -> "Signals":
        # In another thread, as of a notebook's server, Python lets nobody listen; the main thread's own ways stay.
        listens = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if listens else ()
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.received and self._ends_after else handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            if time.monotonic() - self._received_at < SAME_SECONDS:
                return
            for worker in multiprocessing.active_children():
                worker.kill()  # it ends with us, but for one that hangs
            if self._ends_after:
                os._exit(128 + number)
            raise Paused
        self.received, self._received_at = number, time.monotonic()
        if not self._is_deferred:
            raise Paused

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Here a signal only sets `received`."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def asked_to_stop(self) -> bool:
        return self.received != 0
