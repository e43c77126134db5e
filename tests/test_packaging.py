"""A wheel holds all that the checkout's packages hold, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sweeps.spec.catalog import list_experiments

ROOT = Path(__file__).parent.parent
PACKAGES = ("tinylm_core", "sweeps", "experiments")


def python(*arguments: object, cwd: Path, path: Path | None = None) -> str:
    command = [sys.executable, *map(str, arguments)]
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves files beside its sources, and takes up what an earlier build has left."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    here = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as content:
        there = {name for name in content.namelist() if ".dist-info/" not in name}
    assert there == here
    assert {"sweeps/py.typed", "tinylm_core/py.typed", "sweeps/answer/report.css", "sweeps/mlruns.gitignore"} <= there


@pytest.mark.slow
def test_what_is_installed_from_a_wheel_runs_an_experiment_anywhere(
    wheel: Path, text_file: Path, tmp_path: Path
) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    folder.mkdir()
    python("-m", "pip", "install", "--no-deps", "--quiet", "--target", installed, wheel, cwd=folder)
    found = python("-c", "import sweeps, tinylm_core, experiments as e; print(e.__file__)", cwd=folder, path=installed)
    assert Path(found.strip()).is_relative_to(installed)
    listed = python("-m", "sweeps.run", "--list", cwd=folder, path=installed)
    assert [line.split()[0] for line in listed.splitlines()] == list(list_experiments())
    tiny = ("--set", f"data={text_file}", "--set", "tokenizer=char")
    python("-m", "sweeps.run", "smoke", *tiny, cwd=folder, path=installed)
    assert "<style>" in (folder / "mlruns" / "reports" / "smoke" / "index.html").read_text()
    assert (folder / "mlruns" / ".gitignore").read_text() == (ROOT / "mlruns.gitignore").read_text()
