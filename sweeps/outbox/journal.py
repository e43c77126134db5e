"""A file of operations, one a line, written before an operation is sent and read by the next start.

A line is `NUMBER CHECKSUM JSON`, on the disk within about a second, or at once with `sync`. What follows a line that is
not as it was written is nobody's record any more: the runs go on from their checkpoints, which have all steps. Lines of
earlier versions, JSON alone, are read here, the plans within them by `sweeps.plan.record`.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sweeps.outbox.operations import Operation, Unreadable
from sweeps.plan.record import PlanRecord, TrialRecord
from tinylm_core.durable import make_folder_durably, sync_folder, write_durably

SYNC_SECONDS = 1.0

_READER: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


class Journal:
    """Operations as lines in a file of a store at `root`.

    `damage` says at which line the file was not as it was written, unless that is its last one, which a crash cuts off;
    from there on it was kept as `journal.jsonl.damaged`.
    """

    def __init__(self, path: Path, root: Path) -> None:
        make_folder_durably(path.parent)
        self.path = path
        self.damage: str | None = None
        is_new = not path.exists()
        self._file = path.open("ab", buffering=0)
        if is_new:
            sync_folder(path.parent)
        self.left_over = self._read(root)
        self._synced = time.monotonic()

    def _read(self, root: Path) -> list[Operation | Unreadable]:
        """What the file holds, up to where it is not as it was written; there it is cut off."""
        content, found, self._number, end = self.path.read_bytes(), list[Operation | Unreadable](), 0, 0
        for line in content.splitlines(keepends=True):
            is_whole = line.endswith(b"\n")
            operation = from_line(line[:-1], root, self._number + 1) if is_whole else None
            if operation is None:
                break
            self._number += 1
            end += len(line)
            found.append(operation)
        rest = content[end:]
        if b"\n" in rest.rstrip(b"\n\0"):  # more than the line that a crash cut off
            self.damage = f"{self.path} is damaged at line {self._number + 1}"
            write_durably(self.path.with_name(f"{self.path.name}.damaged"), rest)
        if rest:
            self._file.truncate(end)
            os.fsync(self._file.fileno())
        return found

    def append(self, operation: Operation, *, sync: bool) -> None:
        """Write one line; `sync` puts it on the disk before this returns, else it is there about a second later."""
        self._write(to_line(operation, self._number + 1) + b"\n")
        self._number += 1
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
        self._number = 0
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing more is written by this process."""
        self._file.close()


def to_line(operation: Operation, number: int = 1) -> bytes:
    """The operation as a journal holds it as its line of that number, without the end of the line."""
    content = {field.name: getattr(operation, field.name) for field in fields(operation)}
    text = json.dumps(content, default=_plain).encode()
    return b"%d %08x %b" % (number, _checksum(number, text), text)


def from_line(line: bytes, root: Path, number: int = 1) -> "Operation | Unreadable | None":
    """The operation of the line of that number in the journal of a store at `root`; None unless it is as written."""
    if not line.startswith(b"{"):  # as lines of earlier versions do
        parts = re.fullmatch(rb"([1-9][0-9]{0,17}) ([0-9a-f]{8}) (.*)", line, re.DOTALL)
        if parts is None or int(parts[1]) != number or int(parts[2], 16) != _checksum(number, parts[3]):
            return None
        line = parts[3]
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or "op" not in content:
        return None
    try:
        return _READER.validate_python(_of_today(content, root))
    except ValidationError as error:
        return Unreadable(_what_is_wrong(content["op"], error))


def _checksum(number: int, text: bytes) -> int:
    return zlib.crc32(text, number)


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
