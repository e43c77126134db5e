"""Who drives a sweep, as far as a note says."""

import json
import os
import platform
import shutil
import time
from pathlib import Path

import pytest

from sweeps.lock import SIGN_OF_LIFE_SECONDS, driver_of
from sweeps.store import open_store

NOW = "now"  # when the test runs
HERE = {"host": platform.node(), "pid": os.getppid()}  # a process that lives


@pytest.mark.parametrize(
    ("holder", "age", "lives"),
    [
        (HERE | {"since": NOW}, 0, True),
        (HERE | {"since": 0.0}, 0, False),  # the process with this number is younger: it is another
        (HERE | {"pid": 2**22 + 1, "since": NOW}, 0, False),
        (HERE | {"pid": "nonsense", "since": NOW}, 0, False),
        ({"host": "elsewhere", "pid": 1, "since": 0.0, "seen": NOW}, 0, True),
        ({"host": "elsewhere", "pid": 1, "since": 0.0, "seen": NOW}, SIGN_OF_LIFE_SECONDS + 60, False),
        ({}, 0, False),
    ],
)
def test_a_driver_lives_whose_process_does_or_who_was_heard_of(
    empty_store: Path, tmp_path: Path, holder: dict[str, object], age: float, lives: bool
) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    noted = {key: time.time() - age if value == NOW else value for key, value in holder.items()}
    (tmp_path / "holder.json").write_text(json.dumps(noted))
    assert driver_of(store, "question", tmp_path) == (noted if lives else None)
