"""Files that are whole or not there, whatever happens while they are written. Loads no library."""

import errno
import os
from pathlib import Path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, or no quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_durably(path: Path, content: bytes) -> None:
    """Write by temporary file, fsync and rename, so that the path never holds half a file, a power cut included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
