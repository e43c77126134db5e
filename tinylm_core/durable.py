"""Files that are whole or not there, whatever happens while they are written, and whose damage is noticed.

Loads no library.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"  # the key of a JSON object that has the digest of all its others


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, or no quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_durably(path: Path, content: bytes) -> None:
    """Write by temporary file, fsync and rename, so that the path never holds half a file, a power cut included."""
    make_folder_durably(path.parent)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a file that was made, renamed or removed is so after a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put all files and folders below a folder on the disk, and its own name."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Put what was written to a file on the disk, by whatever process."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def make_folder_durably(folder: Path) -> None:
    """Make a folder and its parents where they are missing, each on the disk in its own parent."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same JSON object, with the digest of it as its last key."""
    return {**content, CHECKSUM: _digest(content)}


def checked(content: Any) -> dict[str, Any]:
    """The JSON object that `with_checksum` was given, or one that an earlier version wrote without a checksum.

    ValueError where the checksum is not that of the content.
    """
    rest = dict(content)
    if rest.pop(CHECKSUM, None) not in (None, _digest(rest)):
        raise ValueError("is damaged: its checksum is not that of its content")
    return rest


def _digest(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content))  # whose keys are texts
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
