"""Room on the store's disk: whether a plan fits, and waiting, up to `wait` seconds, until there is some."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sweeps.outbox.errors import DiskFullError
from tinylm_core.durable import is_disk_full

T = TypeVar("T")


class DiskSpace:
    """The room under a folder. Nobody waits for more than `wait` seconds until somebody has made some."""

    def __init__(self, folder: Path, wait: float) -> None:
        self._folder, self._wait = folder, wait
        self._short_since: float | None = None
        self._gives_up: Callable[[], bool] = lambda: False
        self.full: str | None = None  # the folder, while there is no room and somebody waits for it

    @contextmanager
    def asking(self, gives_up: Callable[[], bool]) -> Iterator[None]:
        """Within, who waits for room to write asks each second whether to give up."""
        before, self._gives_up = self._gives_up, gives_up
        try:
            yield
        finally:
            self._gives_up = before

    def is_short(self, num_bytes: int, *, idle: bool) -> bool:
        """Whether a run that needs so much has no room. DiskFullError where that lasts and nothing is under way."""
        if shutil.disk_usage(self._folder).free >= num_bytes:
            self._short_since = self.full = None
            return False
        self._short_since, self.full = self._short_since or time.monotonic(), str(self._folder)
        if idle and time.monotonic() - self._short_since > self._wait:
            raise DiskFullError(f"{self._folder} has less than the {num_bytes / 1e6:,.0f} MB that a run needs")
        return True

    def when_there_is_room(self, write: Callable[[], T], rest: Callable[[], object] = lambda: time.sleep(1.0)) -> T:
        """What `write` returns, called again after each `rest` while the disk is full. DiskFullError at last."""
        deadline = time.monotonic() + self._wait
        while True:
            try:
                return write()
            except OSError as error:
                if not is_disk_full(error):
                    raise
            self.full = str(self._folder)
            if time.monotonic() > deadline or self._gives_up():
                raise DiskFullError(f"the disk of {self.full} is full")
            rest()
            self.full = None


def check_room(folder: Path, num_bytes: int) -> None:
    """ValueError where a plan does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(f"the plan needs about {num_bytes / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free")
