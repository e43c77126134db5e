"""Whether there is room on the disk under a store."""

import shutil
import time
from pathlib import Path

from sweeps.outbox.errors import DiskFullError


class DiskSpace:
    """Whether the disk under a store has room for another run; asked before one begins."""

    def __init__(self, folder: Path, num_bytes: int, wait: float) -> None:
        self._folder, self._num_bytes, self._wait = folder, num_bytes, wait
        self._short_since: float | None = None

    def is_short(self, *, idle: bool) -> bool:
        """DiskFullError where it has lasted too long and nothing is under way."""
        if shutil.disk_usage(self._folder).free >= self._num_bytes:
            self._short_since = None
            return False
        self._short_since = self._short_since or time.monotonic()
        if idle and time.monotonic() - self._short_since > self._wait:
            raise DiskFullError(f"{self._folder} has less than the {self._num_bytes / 1e6:,.0f} MB that a run needs")
        return True


def check_room(folder: Path, num_bytes: int) -> None:
    """ValueError where a plan does not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(f"the plan needs about {num_bytes / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free")
