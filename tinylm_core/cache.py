"""A cache of folders, each named by a digest of all that its content depends on. Knows nothing of what is in them."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs

from tinylm_core.durable import checked, is_disk_full, sync_tree, with_checksum

CACHE_VERSION = 1
"""Raised by whoever changes what a cached folder holds, or what a corpus consists of."""


def default_cache_dir() -> Path:
    """The environment's TINYLM_CACHE, else the user's cache directory."""
    return Path(os.environ.get("TINYLM_CACHE") or platformdirs.user_cache_dir("tinylm")).expanduser()


def cached(
    folder: Path, key: object, write: Callable[[Path], dict[str, Any] | None], *, by_size: bool = False
) -> tuple[Path, dict[str, Any]]:
    """The folder of that key (JSON) under `folder`, and the facts that `write` returned when it filled it.

    It appears whole or not at all, whoever else is writing it; one whose files have other bytes is written anew. With
    `by_size` only their sizes are looked at, as of files that are long and seldom read: `is_whole` looks at the rest.
    """
    entry = folder / hashlib.sha256(json.dumps([CACHE_VERSION, key]).encode()).hexdigest()[:32]
    facts = _facts(entry, by_size=by_size)
    if facts is not None:
        return entry, facts
    with _work_folder(folder) as work:
        new = Path(work, "new")
        new.mkdir()
        facts = write(new) or {}
        digests = {path.name: _digest(path) for path in new.iterdir()}
        sizes = {path.name: path.stat().st_size for path in new.iterdir()}
        meta = with_checksum({"digests": digests, "sizes": sizes, "facts": facts})
        (new / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        sync_tree(new)
        _put(new, entry)
    return entry, facts


def is_whole(entry: Path) -> bool:
    """Whether every file of a folder that `cached` returned has the bytes that were written.

    True too where an earlier version wrote it, which noted no digests.
    """
    has_digests = b'"digests"' in (entry / "meta.json").read_bytes()
    return _facts(entry, by_size=not has_digests) is not None


def _facts(entry: Path, *, by_size: bool = False) -> dict[str, Any] | None:
    """None where the folder is missing or not as it was written."""
    try:
        meta = checked(json.loads((entry / "meta.json").read_text(encoding="utf-8")))
        whole = all((entry / name).stat().st_size == size for name, size in meta["sizes"].items())
        whole = whole and (by_size or all(_digest(entry / name) == known for name, known in meta["digests"].items()))
        return dict(meta["facts"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(path: Path) -> str:
    """Of a file's bytes. One that this process has read before, and nobody has touched since, is not read again."""
    status = path.stat()
    return _digest_of(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=256)
def _digest_of(path: Path, _: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _work_folder(folder: Path) -> TemporaryDirectory[str]:
    """A place to write, on the cache's own file system; those that killed processes left are removed after a day."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".work-*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > 86_400:
                    shutil.rmtree(left, ignore_errors=True)
        return TemporaryDirectory(prefix=".work-", dir=folder)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise ValueError(f"the cache folder {folder} can't be used: {error.strerror}; set TINYLM_CACHE") from None


def _put(new: Path, entry: Path) -> None:
    """Rename into place. Where another process was first, its folder stays; a damaged one moves out of the way."""
    for attempt in count():
        try:
            new.rename(entry)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _facts(entry) is not None:
            return
        with suppress(FileNotFoundError):
            entry.rename(new.with_name(f"damaged-{attempt}"))
