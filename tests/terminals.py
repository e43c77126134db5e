"""A terminal that commands of a test run in, as an emulator sees it."""

import fcntl
import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyte

QUIET_SECONDS = 0.05  # after which what was drawn is whole


class Terminal:
    """`shown` holds every picture that stood still for a moment, as lines without blanks at their ends."""

    def __init__(self, columns: int, lines: int) -> None:
        self._master, slave = pty.openpty()
        self.path = os.ttyname(slave)
        self._slave = slave  # held, so that the terminal outlives each command
        self._screen = pyte.HistoryScreen(columns, lines, history=5000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.shown: list[list[str]] = []
        self.colours: set[str] = set()  # of the pictures' letters
        self.resize(columns, lines)
        threading.Thread(target=self._listen, daemon=True).start()

    def resize(self, columns: int, lines: int) -> None:
        """As by its window's edge."""
        with self._lock:
            self._screen.resize(lines, columns)
            fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def lines(self) -> list[str]:
        """What stands there."""
        with self._lock:
            return self._lines()

    def _lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def scrolled_away(self) -> list[str]:
        """What stood there, above it."""
        with self._lock:
            rows = list(self._screen.history.top)
            return ["".join(row[x].data for x in range(self._screen.columns)).rstrip() for row in rows]

    @property
    def cursor_is_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    def _listen(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            with self._lock:
                self._stream.feed(data)
                self._fed = time.monotonic()
            threading.Timer(QUIET_SECONDS, self._look).start()

    def _look(self) -> None:
        with self._lock:
            if time.monotonic() - self._fed >= QUIET_SECONDS:
                self.shown.append(self._lines())
                self.colours |= {cell.fg for row in self._screen.buffer.values() for cell in row.values()} - {"default"}

    def close(self) -> None:
        os.close(self._slave)
        os.close(self._master)


@contextmanager
def terminal(columns: int, lines: int) -> Iterator[Terminal]:
    """One that is closed in the end."""
    made = Terminal(columns, lines)
    try:
        yield made
    finally:
        made.close()
