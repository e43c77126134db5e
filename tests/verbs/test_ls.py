"""A list of sweeps says how far each is, in a folder and behind a server, without writing and without MLflow."""

import os
import pty
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from launcher import Launcher
from mlflow import MlflowClient
from stores import START, write_experiment, write_sweep

from sweeps.driver.overview import Overview, list_sweeps
from sweeps.ls import when
from sweeps.spec.naming import size
from sweeps.store import Store, open_store, sql

ROOT = Path(__file__).parents[2]
NAMES = (f"listed{number}" for number in count())
SOME = {
    (0, 0): ("COMPLETE", 2.0),
    (0, 1): ("COMPLETE", 2.5),
    (1, 0): ("DIVERGED", 3.0),
    (1, 1): ("FAILED", None),
    (2, 0): ("COMPLETE", 1.0),  # the best run, of a setting that is not done
    (2, 1): ("RUNNING", None),
}


def of(store: Store, name: str) -> Overview:
    (found,) = [overview for overview in list_sweeps(store) if overview.name == name]
    return found


@pytest.fixture(params=["sql", "client"])
def reader(request: pytest.FixtureRequest, any_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, read as it chooses to, and as it is read where the schema is not the tested one."""
    if request.param == "client":
        monkeypatch.setattr(sql, "TESTED_REVISION", "another")
    return any_store


def test_an_overview_counts_the_runs_of_the_plan_by_state(reader: Store, tmp_path: Path, text_file: Path) -> None:
    name = next(NAMES)
    write_sweep(reader, write_experiment(tmp_path, text_file, name), SOME)
    found = of(reader, name)
    assert (found.num_definitions, found.done, found.planned) == (1, 4, 8)
    # Nobody drives it, so what says RUNNING was killed.
    assert found.states == {"COMPLETE": 3, "DIVERGED": 1, "FAILED": 1, "INTERRUPTED": 1}
    assert found.state == "1 diverged, 1 failed, 1 interrupted"
    assert found.best == (2.25, "lr=1e-3 dropout=0")
    assert found.last is not None
    assert found.last.timestamp() == START / 1000 + 4 + 60
    assert (found.num_bytes is None) == (not reader.is_local)


def test_of_runs_that_are_the_same_the_one_with_a_result_counts(
    any_store: Store, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    file = write_experiment(tmp_path, text_file, name, '{"learning_rate": Choice(1e-3)}')
    write_sweep(any_store, file, {(0, 0): ("COMPLETE", 2.0), (0, 1): ("FAILED", None)})
    write_sweep(any_store, file, {(0, 0): ("FAILED", None), (0, 1): ("DIVERGED", 3.0)}, start_ms=START + 10**6)
    found = of(any_store, name)
    assert (found.states, found.done) == ({"COMPLETE": 1, "DIVERGED": 1}, 2)
    assert found.best == (2.5, "lr=1e-3")


def test_the_latest_definition_counts_with_the_runs_that_another_made(
    any_store: Store, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    file = write_experiment(tmp_path, text_file, name, '{"learning_rate": Choice(1e-3)}')
    write_sweep(any_store, file, {(0, 0): ("COMPLETE", 2.0), (0, 1): ("COMPLETE", 2.0)})
    write_experiment(tmp_path, text_file, name, '{"learning_rate": Choice(1e-3, 3e-3)}')
    write_sweep(any_store, file, {(1, 0): ("FAILED", None)}, start_ms=START + 10**6)
    found = of(any_store, name)
    assert (found.num_definitions, found.done, found.planned, found.state) == (2, 2, 4, "1 failed")


def test_an_identity_of_an_earlier_version_is_the_same_run(any_store: Store, tmp_path: Path, text_file: Path) -> None:
    name = next(NAMES)
    file = write_experiment(tmp_path, text_file, name, '{"learning_rate": Choice(1e-3)}', seeds=1)
    ids = write_sweep(any_store, file, {(0, 0): ("COMPLETE", 2.0)})
    MlflowClient(any_store.tracking_uri).set_tag(ids[0, 0], "run.identity", "of a config with fewer fields")
    assert of(any_store, name).done == 1


def test_the_size_is_that_of_the_files(any_store: Store, tmp_path: Path, text_file: Path) -> None:
    name = next(NAMES)
    write_sweep(any_store, write_experiment(tmp_path, text_file, name), SOME)
    work = any_store.folder / "work" / name
    work.mkdir(parents=True)
    (work / "journal.jsonl").write_bytes(b"x" * 1000)
    if not any_store.is_local:
        assert of(any_store, name).num_bytes is None
        return
    artifacts = any_store.folder / "artifacts" / name
    expected = sum(path.stat().st_size for path in artifacts.rglob("*") if path.is_file()) + 1000
    assert of(any_store, name).num_bytes == expected > 2000


# --- The command


def test_output_for_a_program_has_a_row_a_sweep_and_nothing_is_written(
    launcher: Launcher, tmp_path: Path, empty_store: Path, text_file: Path
) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    for number, name in enumerate(("older", "newer")):
        write_sweep(store, write_experiment(tmp_path, text_file, name), SOME, start_ms=START + number)
    before = {
        path: path.stat().st_mtime_ns for path in store.folder.rglob("*") if path.suffix not in (".db-shm", ".db-wal")
    }
    result = launcher.run("sweeps.ls", "--store", store.folder)
    assert (result.code, result.err) == (0, "")
    head, *rows = [line.split("\t") for line in result.out.splitlines()]
    assert head == ["sweep", "definitions", "runs", "state", "best", "setting", "last", "size"]
    assert [row[0] for row in rows] == ["newer", "older"]
    assert rows[0][1:6] == ["1", "4/8", "1 diverged, 1 failed, 1 interrupted", "2.25", "lr=1e-3 dropout=0"]
    assert datetime.fromisoformat(rows[0][6]).timestamp() == START // 1000 + 64
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before


@pytest.mark.slow
def test_the_definitions_of_a_sweep_are_listed_with_the_flags_that_made_them(
    launcher: Launcher, tmp_path: Path, empty_store: Path, text_file: Path
) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    file = write_experiment(tmp_path, text_file, "question")
    write_sweep(store, file, SOME)
    added = launcher.run("sweeps.run", file, "--store", store.folder, "--set", "dropout=0.3", "--seeds", 1)
    assert added.code == 0, added
    plans = [definition.plan for definition in store.definitions("question")]
    result = launcher.run("sweeps.ls", "quest", "--store", store.folder)
    assert (result.code, result.err) == (0, "")
    head, *rows = [line.split("\t") for line in result.out.splitlines()]
    assert head == ["definition", "runs", "state", "best", "setting", "started", "flags"]
    assert [row[0] for row in rows] == [plan["definition"] for plan in plans if plan]
    assert (rows[0][1], rows[0][6]) == ("2/2", "--set dropout=0.3 --seeds 1")
    assert (rows[1][1], rows[1][6]) == ("4/8", "")
    unknown = launcher.run("sweeps.ls", "nothing", "--store", store.folder)
    assert (unknown.code, "no sweep 'nothing'" in unknown.one_line) == (2, True)


def test_a_terminal_gets_a_table(tmp_path: Path, empty_store: Path, text_file: Path) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    write_sweep(store, write_experiment(tmp_path, text_file), SOME)
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "sweeps.ls", "--store", "store"]
    subprocess.run(command, stdout=theirs, env=environment, cwd=tmp_path, check=True)
    os.close(theirs)
    lines = re.sub("\x1b\\[[0-9;]*m", "", os.read(ours, 10_000).decode()).splitlines()
    os.close(ours)
    assert lines[0].split() == ["sweep", "definitions", "runs", "state", "best", "setting", "last", "size"]
    assert "2.2500  lr=1e-3 dropout=0  2025-06-15" in lines[1]
    assert "\t" not in lines[1]


def test_an_absent_store_is_a_mistake_and_an_empty_one_is_none(
    launcher: Launcher, tmp_path: Path, empty_store: Path
) -> None:
    absent = launcher.run("sweeps.ls", "--store", tmp_path / "nowhere")
    assert (absent.code, absent.out) == (2, "")
    assert absent.one_line == f"no store at {tmp_path}/nowhere"
    assert not (tmp_path / "nowhere").exists()
    empty = launcher.run("sweeps.ls", "--store", empty_store)
    assert (empty.code, empty.err) == (0, "")
    assert empty.out.startswith(f"{empty_store} holds no sweep yet")
    assert len(empty.out.splitlines()) == 1


def test_a_folder_is_listed_without_mlflow(tmp_path: Path, empty_store: Path, text_file: Path) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    write_sweep(store, write_experiment(tmp_path, text_file), SOME)
    program = (
        "import sys\nfrom sweeps.driver.overview import list_sweeps\nfrom sweeps.store import open_store\n"
        "print(len(list_sweeps(open_store('store'))), *{'mlflow', 'torch', 'pandas'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_sizes_and_days_are_short() -> None:
    assert [size(number) for number in (None, 0, 999, 1000, 1_250_000, 3_000_000_000)] == [
        "-", "0 B", "999 B", "1.0 kB", "1.2 MB", "3.0 GB",
    ]  # fmt: skip
    now = datetime(2025, 6, 15, 14, 5)
    assert [when(moment, now) for moment in (None, now, now - timedelta(days=1))] == ["-", "14:05", "2025-06-14"]
