"""`python -m sweeps` lists the verbs, a verb's --help shows how to use it, and a misspelt name gets the nearest."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from launcher import Launcher

from sweeps.terminal.command import (
    COME_BACK_LATER,
    DONE,
    DONE_WITH_FAILURES,
    OUR_FAULT,
    PAUSED,
    READER_GONE,
    USERS_MISTAKE,
)

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.py") if "run_command(" in path.read_text())


def sweeps(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-m", "sweeps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_verbs_and_exit_codes_are_listed_each_verb_with_the_first_line_of_its_docstring(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = sweeps(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    verbs, codes = (listed(part) for part in done.stdout.split("\nExit codes:\n"))
    assert sorted(verbs) == COMMANDS
    for verb, line in verbs.items():
        docstring = ast.get_docstring(ast.parse((ROOT / "sweeps" / f"{verb}.py").read_text())) or ""
        assert line == docstring.splitlines()[0]
    told = {code for line in codes for code in line.split(", ")}
    known = (DONE, DONE_WITH_FAILURES, USERS_MISTAKE, OUR_FAULT, COME_BACK_LATER, *PAUSED, READER_GONE)
    assert told == set(map(str, known))


def listed(part: str) -> dict[str, str]:
    """What stands after two blanks, and what is said of it, in one line."""
    unwrapped = re.sub(r"\n {4,}", " ", part)
    return dict(re.findall(r"^  (\S+(?:, \S+)?) {2,}(.+)$", unwrapped, re.MULTILINE))


@pytest.mark.parametrize(
    ("verb", "said"),
    [("repo", None), ("re", "verb 're': 2 names start so: report, reproduce (python -m sweeps lists them)")],
)
def test_the_start_of_a_verb_is_enough_where_no_other_begins_so(tmp_path: Path, verb: str, said: str | None) -> None:
    done = sweeps(tmp_path, verb, "--help")
    if said is None:
        assert done.returncode == 0
        assert done.stdout.startswith("Usage: python -m sweeps.report ")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"sweeps: {said}\n")


def test_an_unknown_verb_gets_the_nearest_name(tmp_path: Path) -> None:
    done = sweeps(tmp_path, "reprot", "lr_warmup")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sweeps: unknown verb 'reprot'; did you mean report? (python -m sweeps lists them)\n"


def test_a_verb_may_stand_apart(tmp_path: Path) -> None:
    done = sweeps(tmp_path, "run", "--list")
    assert done.returncode == 0
    assert "lr_warmup" in done.stdout


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_verb_fits_80_columns_and_has_an_example(launcher: Launcher, verb: str) -> None:
    result = launcher.run(f"sweeps.{verb}", "--help", env={"COLUMNS": "80"})
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert re.search(rf"^ +python -m sweeps\.{verb}( |$)", result.out, re.MULTILINE)


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_every_option_says_what_it_is_and_its_default(verb: str) -> None:
    command = getattr(import_module(f"sweeps.{verb}"), verb)
    options = [option for option in command.params if isinstance(option, click.Option)]
    of_the_file = {"dimensions", "search", "num_trials", "seeds"}  # said once, at --set
    for option in options:
        assert option.help, option.name
        says = option.show_default or "default" in option.help.lower() or option.is_flag or option.required
        assert says or option.name in of_the_file or option.nargs == 2, option.name


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [("--search", "gird", "grid"), ("--engine", "locale", "local"), ("--engine", "ra", "ray")],
)
def test_a_misspelt_name_after_an_option_gets_the_nearest(
    launcher: Launcher, option: str, value: str, near: str
) -> None:
    result = launcher.run("sweeps.run", "lr_warmup", option, value)
    assert result.code == 2
    assert result.one_line.endswith(f"unknown name {value!r}; did you mean {near}?")
