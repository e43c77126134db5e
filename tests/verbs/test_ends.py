"""However a command ends, and wherever its output goes: with a documented exit code, and no traceback."""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from launcher import Launcher
from small_sweeps import GRID, Kept, assert_whole, run_sweep, write_experiment

from sweeps.__main__ import VERBS
from sweeps.terminal.command import EXIT_CODES, PACKAGES, READER_GONE, USERS_MISTAKE

ROOT = Path(__file__).parents[2]
CODES = {int(code) for codes in EXIT_CODES for code in codes.split(",")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes


def ended(done: "subprocess.CompletedProcess[str]") -> int:
    assert done.returncode in CODES, done
    assert "Traceback" not in done.stderr, done
    return done.returncode


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_well_wherever_its_words_go(verb: str, tmp_path: Path) -> None:
    ask = command(f"sweeps.{verb}", "--help")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, Path("/dev/full").open("w") as full:
        for stdout in (closed, full):
            done = subprocess.run(
                ask, cwd=tmp_path, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
            )
            assert ended(done) != 0
    for changes in (
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        {"COLUMNS": "0", "LINES": "-3"},
        {"FORCE_COLOR": "1"},
    ):
        done = subprocess.run(
            ask, cwd=tmp_path, env=environment(**changes), capture_output=True, text=True, check=False
        )
        assert ended(done) == 0
        assert f"python -m sweeps.{verb}" in done.stdout
        assert "\x1b" not in done.stdout
    without_docstrings = [sys.executable, "-OO", *ask[1:]]
    done = subprocess.run(
        without_docstrings, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended(done) == 0
    assert "--help" in done.stdout


@pytest.mark.slow
def test_a_sweep_whose_reader_has_gone_is_paused_and_the_same_command_goes_on(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    file = write_experiment(tmp_path, GRID, text_file)
    store = tmp_path / "store"
    asked = command("sweeps.run", file, "--store", store)
    with subprocess.Popen(
        asked, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == READER_GONE, said
    assert "Traceback" not in said
    assert run_sweep(launcher, file, store).code == 0
    assert_whole(Kept(store))


@pytest.mark.slow
def test_an_answer_is_printed_where_the_encoding_lacks_its_signs(text_file: Path, tmp_path: Path) -> None:
    file = write_experiment(tmp_path, GRID, text_file)
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "0"}
    done = subprocess.run(
        command("sweeps.run", file, "--store", "store"), cwd=tmp_path, env=environment(**ascii_only),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended(done) == 0
    assert "validation loss" in done.stdout
    assert_whole(Kept(tmp_path / "store"))


@pytest.mark.slow
def test_what_is_for_people_stands_beside_the_json(launcher: Launcher, text_file: Path, tmp_path: Path) -> None:
    """A database that is locked for a while is told, and not within what a program reads."""
    file = write_experiment(tmp_path, GRID, text_file)
    store = tmp_path / "store"
    assert run_sweep(launcher, file, store, "--set", "train_tokens=768").code == 0
    hold = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    hold += "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(6); c.execute('COMMIT')"
    with subprocess.Popen([sys.executable, "-c", hold, store / "mlflow.db"], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout
        held.stdout.readline()
        command = launcher.start("sweeps.run", file, "--store", store, "--json", "--set", "train_tokens=768")
        done = command.result()
    assert done.code == 0, done
    events = [json.loads(line)["event"] for line in done.out.splitlines()]
    assert events[0] == "sweep"
    assert "wait for the tracker" in command.err or "on their way" in command.err


@pytest.mark.parametrize(
    ("verb", "option"), [("reproduce", "--rtol"), ("run", "--max-hours"), ("run", "--wait"), ("sample", "--top-p")]
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(launcher: Launcher, tmp_path: Path, verb: str, option: str, value: str) -> None:
    done = launcher.run(f"sweeps.{verb}", "0123456789", option, value, cwd=tmp_path)
    assert done.code == USERS_MISTAKE
    assert option in done.one_line


@pytest.mark.parametrize("where", ["localhost:5000", "127.0.0.1:5000/", "host.example:80/mlflow"])
def test_a_server_without_its_scheme_is_no_folder(launcher: Launcher, tmp_path: Path, where: str) -> None:
    done = launcher.run("sweeps.ls", "--store", where, cwd=tmp_path)
    assert (done.code, f"a server is given as http://{where}" in done.one_line) == (USERS_MISTAKE, True), done
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_temporary_files_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    folder = Path(tempfile.gettempdir()) / ("x" * 100)
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command("sweeps.run", "smoke", "--store", "store"), cwd=tmp_path, env=environment(TMPDIR=str(folder)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended(done) == USERS_MISTAKE
    assert f"TMPDIR={folder}" in done.stderr
    folder.rmdir()


@pytest.mark.parametrize("shadow", ["mlflow.py", "optuna/__init__.py"])
def test_a_file_that_hides_a_package_is_named_before_anything_is_trained(tmp_path: Path, shadow: str) -> None:
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).write_text("raise RuntimeError")
    ask = command("sweeps.run", "smoke", "--store", "store", "--dry-run")
    done = subprocess.run(ask, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert ended(done) == USERS_MISTAKE
    assert f"{shadow} hides the package" in done.stderr
    assert "python -P -m sweeps.run smoke --store store --dry-run" in done.stderr
    ask.insert(1, "-P")
    done = subprocess.run(ask, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert ended(done) == 0


def test_every_package_that_is_needed_is_looked_for() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9_-]", one)[0].replace("scikit-learn", "sklearn") for one in dependencies}
    assert names - set(PACKAGES) == set()


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        (os.fsdecode(b"b\xff"), {}, "is no UTF-8"),
        ("store", {"MLFLOW_ENABLE_WORKSPACES": "true"}, "MLFLOW_ENABLE_WORKSPACES"),
        ("store", {"SWEEPS_UI_PORT": "http"}, "SWEEPS_UI_PORT=http"),
    ],
)
def test_a_store_that_mlflow_could_not_keep_is_refused_before_anything_is_trained(
    tmp_path: Path, where: str, changes: dict[str, str], words: str
) -> None:
    ask = command("sweeps.run", "smoke", "--store", where)
    done = subprocess.run(ask, cwd=tmp_path, env=environment(**changes), capture_output=True, text=True, check=False)
    assert ended(done) == USERS_MISTAKE
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
