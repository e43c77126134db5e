"""`python -m sweeps` lists the verbs, a verb's --help shows how to use it, and a misspelt one gets the nearest."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import Launcher

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.py") if "run_command(" in path.read_text())
COMMANDS.remove("command")  # which defines it


def sweeps(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sweeps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_verbs_are_listed_each_with_the_first_line_of_its_docstring(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = sweeps(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[2:])
    assert sorted(listed) == COMMANDS
    for verb, line in listed.items():
        docstring = ast.get_docstring(ast.parse((ROOT / "sweeps" / f"{verb}.py").read_text())) or ""
        assert line == docstring.splitlines()[0]


def test_an_unknown_verb_gets_the_nearest_name(tmp_path: Path) -> None:
    done = sweeps(tmp_path, "reprot", "lr_warmup")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sweeps: unknown verb 'reprot'; did you mean report? (python -m sweeps lists them)\n"


def test_a_verb_may_stand_apart(tmp_path: Path) -> None:
    done = sweeps(tmp_path, "run", "--list")
    assert done.returncode == 0
    assert "lr_warmup" in done.stdout


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_verb_has_an_example(launcher: Launcher, verb: str) -> None:
    result = launcher.run(f"sweeps.{verb}", "--help")
    assert (result.code, result.err) == (0, "")
    assert re.search(rf"^ +python -m sweeps\.{verb}( |$)", result.out, re.MULTILINE)
