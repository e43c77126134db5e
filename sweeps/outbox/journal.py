"""A file of operations, one a line, written before an operation is sent and read by the next start.

A line is on the disk within about a second, or at once with `sync`. Lines of earlier versions are read here, the plans
within them by `sweeps.plan.record`.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sweeps.outbox.operations import Operation, Unreadable
from sweeps.plan.record import PlanRecord, TrialRecord

SYNC_SECONDS = 1.0

_READER: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


class Journal:
    """Operations as JSON lines in a file of a store at `root`. A line that a crash cut off is no operation."""

    def __init__(self, path: Path, root: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.left_over = self._read(root)
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._write(b"\n")
        self._synced = time.monotonic()

    def _read(self, root: Path) -> list[Operation | Unreadable]:
        if not self.path.exists():
            return []
        found = (from_line(line, root) for line in self.path.read_bytes().splitlines())
        return [operation for operation in found if operation is not None]

    def append(self, operation: Operation, *, sync: bool) -> None:
        """Write one line; `sync` puts it on the disk before this returns, else it is there about a second later."""
        self._write(to_line(operation) + b"\n")
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
        """Nothing more is written by this process."""
        self._file.close()


def to_line(operation: Operation) -> bytes:
    """The operation as a journal holds it, without the end of the line."""
    content = {field.name: getattr(operation, field.name) for field in fields(operation)}
    return json.dumps(content, default=_plain).encode()


def from_line(line: bytes, root: Path) -> "Operation | Unreadable | None":
    """The operation of a line in the journal of a store at `root`; None for one that a crash cut off."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None  # it was never acted upon
    if not isinstance(content, dict) or "op" not in content:
        return None
    try:
        return _READER.validate_python(_of_today(content, root))
    except ValidationError as error:
        return Unreadable(_what_is_wrong(content["op"], error))


def _of_today(content: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A line of an earlier version, which wrote absolute folders, and "" for none, as this one writes it."""
    found = dict(content)
    for name in found.keys() & {"artifacts", "workdir", "folder"}:
        folder = found[name]
        if folder == "":
            found[name] = None
        elif isinstance(folder, str) and Path(folder).is_relative_to(root):
            found[name] = Path(folder).relative_to(root).as_posix()
    return found


def _what_is_wrong(op: object, error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "union_tag_invalid":
        return f"operation {op!r} is none of this version"
    where = ".".join(map(str, first["loc"][1:]))
    return f"operation {op!r}: {where}: {first['msg'].removeprefix('Value error, ').lower()}"


def _plain(record: Any) -> dict[str, Any]:
    return record.to_json() if isinstance(record, PlanRecord | TrialRecord) else asdict(record)
