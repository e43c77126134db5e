"""Who drives a sweep, as far as a note says."""

import errno
import json
import os
import platform
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sweeps.outbox.lock import driver_of, sole_driver
from sweeps.store import open_store
from sweeps.store.holder import Holder

NOW = "now"  # when the test runs
HERE = {"host": platform.node(), "pid": os.getppid()}  # a process that lives


@pytest.mark.parametrize(
    ("holder", "age", "lives"),
    [
        (HERE | {"since": NOW}, 0, True),
        (HERE | {"since": 0.0}, 0, False),  # the process with this number is younger: it is another
        (HERE | {"pid": 2**22 + 1, "since": NOW}, 0, False),
        (HERE | {"pid": "nonsense", "since": NOW}, 0, False),
        ({"host": "elsewhere", "pid": 1, "since": 0.0}, 0, False),
        ({}, 0, False),
    ],
)
def test_a_driver_lives_whose_process_does(
    empty_store: Path, tmp_path: Path, holder: dict[str, Any], age: float, lives: bool
) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    noted = {key: time.time() - age if value == NOW else value for key, value in holder.items()}
    work = store.layout.work_of("question")
    work.folder.mkdir()
    work.holder.write_text(json.dumps(noted))
    assert driver_of(store, "question") == (Holder(**noted) if lives else None)


@pytest.mark.parametrize(("number", "is_held"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_a_sweep_is_held_without_a_note_where_the_disk_is_full(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_held: bool
) -> None:
    """`sweeps.rm` is to make room there; what else can't be written is said."""
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    work = store.layout.work_of("question")
    work.folder.mkdir()
    monkeypatch.setattr(Path, "write_text", fail)
    with nullcontext() if is_held else pytest.raises(PermissionError), sole_driver(store, "question"):
        assert work.lock.exists()
    assert not work.holder.exists()
