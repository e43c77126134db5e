"""A run again from its ID, in the cases that a finished sweep on the same code does not show (law 7).

`tests/verbs/test_run.py` reproduces the runs of a finished sweep. Here: runs that diverged, failed, or were killed on
the way, a line of the model that is another, what the reproduction leaves, and what a store says of its user.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from launcher import Launcher, Result
from servers import ROOT
from small_sweeps import GRID, Kept, assert_whole, run_sweep, wait_for_steps, write_experiment

from sweeps.driver.conditions import device_like, own_trainer
from sweeps.driver.rerun import train_again
from sweeps.outbox.errors import DiskFullError
from sweeps.store import schema
from sweeps.workers.protocol import NoSpace

ONE = GRID.replace("Choice(1e-3, 3e-3)", "Choice(3e-3)").replace(", seeds=2", "")


def reproduce(launcher: Launcher, kept: Kept, run_id: str) -> Result:
    return launcher.run("sweeps.reproduce", run_id, "--store", kept.store)


@pytest.fixture
def kept(launcher: Launcher, text_file: Path, empty_store: Path, tmp_path: Path) -> Kept:
    """A sweep of one run."""
    kept = Kept(Path(shutil.copytree(empty_store, tmp_path / "store")))
    assert run_sweep(launcher, write_experiment(tmp_path, ONE, text_file), kept.store).code == 0
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "another"),
    [("model.py", "else F.gelu", "else F.silu"), ("schedule.py", "math.cos(", "-math.cos(")],
)
def test_one_line_of_the_code_that_is_another_is_found(
    kept: Kept, tmp_path: Path, file: str, line: str, another: str
) -> None:
    """A copy of the packages in which one call is another, run as a user would: a process with its own imports."""
    for package in ("tinylm_core", "sweeps", "experiments"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "code" / "tinylm_core" / file
    text = changed.read_text()
    assert line in text
    changed.write_text(text.replace(line, another))
    (run,) = kept.runs
    ended = subprocess.run(
        [sys.executable, "-m", "sweeps.reproduce", run.info.run_id, "--store", str(kept.store)],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code")}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended
    assert "DIFFERENT: " in ended.stdout
    assert "first at step" in ended.stdout
    assert "differs: mlflow.source.git.commit" in ended.stdout  # the copy is in no repository


@pytest.mark.slow
def test_a_diverged_run_diverges_again_at_the_same_step(
    launcher: Launcher, text_file: Path, empty_store: Path, tmp_path: Path
) -> None:
    kept = Kept(Path(shutil.copytree(empty_store, tmp_path / "store")))
    text = ONE.replace("Choice(3e-3)", "Choice(1e30)").replace("precision='fp64'", "max_grad_norm=None")
    run_sweep(launcher, write_experiment(tmp_path, text, text_file), kept.store, "--set", "max_grad_norm=None")
    (run,) = kept.runs
    assert run.data.tags["trial.state"] == "DIVERGED", run.data.tags
    result = reproduce(launcher, kept, run.info.run_id)
    assert (result.code, "bit-identical" in result.out) == (0, True), result
    (again,) = kept.of("reproduction")
    assert again.data.tags["trial.state"] == "DIVERGED"


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_that_was_killed_on_its_way_is_reproduced_in_one_go(
    launcher: Launcher, text_file: Path, empty_store: Path, tmp_path: Path
) -> None:
    kept = Kept(Path(shutil.copytree(empty_store, tmp_path / "store")))
    file = write_experiment(tmp_path, ONE, text_file, tokens=32 * 960)
    arguments = ("sweeps.run", file, "--store", kept.store, "--checkpoint-seconds", 0)
    command = launcher.start(*arguments)
    wait_for_steps(kept.store, command, 100)
    command.signal_all(9)
    command.result()
    assert launcher.run(*arguments).code == 0
    assert_whole(kept, num_runs=1, num_steps=960)
    (run,) = kept.runs
    assert "RUNNING" not in {other.info.status for other in kept.all_runs}
    result = reproduce(launcher, kept, run.info.run_id)
    assert (result.code, "bit-identical over 960 steps" in result.out) == (0, True), result


@pytest.mark.slow
def test_a_failed_run_is_reproduced_up_to_where_its_record_stops(
    launcher: Launcher, text_file: Path, empty_store: Path, tmp_path: Path
) -> None:
    """The worker raises when it keeps the checkpoint of its end: an audit hook of the test's own sees to that."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "def trip(event, arguments):\n"
        "    if event == 'open' and '.model.safetensors' in str(arguments[0]):\n"
        "        raise RuntimeError('no weights today')\n"
        "sys.addaudithook(trip)\n"
    )
    kept = Kept(Path(shutil.copytree(empty_store, tmp_path / "store")))
    file = write_experiment(tmp_path / "experiment", ONE, text_file)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    failed = launcher.run("sweeps.run", file, "--store", kept.store, env={"PYTHONPATH": path})
    assert (failed.code, "no weights today" in failed.err) == (1, True), failed
    (run,) = kept.runs
    assert run.data.tags["trial.state"] == "FAILED"
    num_steps = len(kept.history(run, "train/loss"))
    assert num_steps > 0
    result = reproduce(launcher, kept, run.info.run_id)
    assert (result.code, f"bit-identical over {num_steps} steps" in result.out) == (0, True), result


def test_a_run_is_reproduced_on_the_first_gpu_like_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda": "A", "cuda:0": "A", "cuda:1": "B", "cuda:2": "B"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    recorded = ("cuda (A)", "cuda (B)", "cuda (C)", "cpu")
    assert [device_like(device) for device in recorded] == ["cuda:0", "cuda:1", "cuda", "cpu"]


@pytest.mark.slow
def test_no_credential_is_kept(text_file: Path, empty_store: Path, tmp_path: Path) -> None:
    """A remote with a password and secrets in the environment: neither is anywhere in the store."""
    code = tmp_path / "code"
    for package in ("tinylm_core", "sweeps", "experiments"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    for command in (
        ["init", "-q"], ["remote", "add", "origin", "https://me:hunter2@example.org/code.git"], ["add", "-A"],
        ["-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "-qm", "All of it"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", str(code), *command], check=True)
    kept = Kept(Path(shutil.copytree(empty_store, tmp_path / "store")))
    file = write_experiment(tmp_path / "experiment", ONE, text_file)
    secrets = {"WANDB_API_KEY": "hunter3", "AWS_SECRET_ACCESS_KEY": "hunter4"}
    ended = subprocess.run(
        [sys.executable, "-m", "sweeps.run", str(file), "--store", str(kept.store)],
        env=os.environ | secrets | {"PYTHONPATH": str(code)}, cwd=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended
    (run,) = kept.runs
    assert "example.org/code.git" in run.data.tags["mlflow.source.git.repoURL"]
    everything = b"".join(path.read_bytes() for path in kept.store.rglob("*") if path.is_file())
    assert b"hunter" not in everything
    assert "hunter" not in ended.stdout + ended.stderr


def test_a_disk_that_is_full_is_no_difference() -> None:
    workers = MagicMock()
    workers.is_busy.side_effect = [True, False]
    workers.receive.return_value = [NoSpace("key", "OSError: no space", "Traceback")]
    with pytest.raises(DiskFullError, match="no space"):
        train_again(MagicMock(), workers, MagicMock(), last_step=3)


def test_a_file_that_a_server_names_is_not_run_on_its_word(tmp_path: Path) -> None:
    """It would have to be executed for the sweep in it to be found."""
    file, touched = tmp_path / "trainer.py", tmp_path / "touched"
    file.write_text(f"open({str(touched)!r}, 'w')\n")
    store, row = MagicMock(is_local=False, where="http://host"), MagicMock(tags={schema.FILE: str(file)})
    with pytest.raises(ValueError, match=r"http://host names .*trainer.py .* --file PATH says which file to run"):
        own_trainer(store, row, None, lambda _: False)
    assert not touched.exists()
    for given, agreed in ((str(file), False), (None, True)):
        with pytest.raises(ValueError, match="SWEEP"):
            own_trainer(store, row, given, lambda _, agreed=agreed: agreed)
        assert touched.exists()
        touched.unlink()
