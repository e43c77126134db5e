"""A file of operations, one a line, durable before anything acts upon them."""

import json
import os
import time
from pathlib import Path

from sweeps.outbox.operations import Operation

SYNC_SECONDS = 1.0


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
