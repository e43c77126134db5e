"""What a sweep prints where somebody asks for less than a person is told, or for JSON."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from launcher import Launcher, without_waiting
from pydantic import TypeAdapter
from small_sweeps import GRID, NUM_RUNS, write_experiment

from sweeps.answer.report import LINKS
from sweeps.terminal.events import Event

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(text_file: Path, tmp_path: Path) -> tuple[object, ...]:
    return (write_experiment(tmp_path, GRID, text_file, tokens=32 * 12), "--store", tmp_path / "store")


def test_json_is_a_line_an_event_and_nothing_else(launcher: Launcher, arguments: tuple[object, ...]) -> None:
    done = launcher.run("sweeps.run", *arguments, "--json")
    assert done.code == 0, done
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0]["event"] == "sweep"
    assert [event["event"] for event in events].count("started") == NUM_RUNS
    ended = [event for event in events if event["event"] == "ended"]
    assert {event["state"] for event in ended} == {"COMPLETE"}
    assert len({(event["trial"], event["seed"]) for event in ended}) == NUM_RUNS
    best = events[-1]
    assert best["event"] == "done"
    by_setting = {event["setting"]: [] for event in ended}
    for event in ended:
        by_setting[event["setting"]].append(event["objective"])
    means = {setting: sum(values) / len(values) for setting, values in by_setting.items()}
    label = min(means, key=means.__getitem__)
    assert best["best_setting"] == {"learning_rate": {"lr=1e-3": 1e-3, "lr=3e-3": 3e-3}[label]}
    for event in events:
        assert_as_documented(event)
    assert set(best["links"]) == set(LINKS) - {"model"}
    assert best["best_objective"] == pytest.approx(min(means.values()))
    assert Path(best["report"]).is_file()


def assert_as_documented(event: dict[str, Any]) -> None:
    """The types of `sweeps.terminal.events`, from which docs/reference.md is written, checked by pydantic."""
    kinds = {next(field.default for field in fields(kind) if field.name == "event"): kind for kind in get_args(Event)}
    kind = kinds[event["event"]]
    assert {field.name for field in fields(kind)} == set(event)
    TypeAdapter(kind).validate_json(json.dumps(event), strict=True)


def test_quiet_is_the_answer_alone(launcher: Launcher, arguments: tuple[object, ...]) -> None:
    done = launcher.run("sweeps.run", *arguments, "--quiet")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0].startswith("Best of 2 settings is")
    assert lines[-1].startswith("Report: ")
    assert len(lines) <= 6


@pytest.mark.slow
def test_no_verb_says_a_word_of_a_librarys(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    """Each in an interpreter of its own, which imports what it needs: a warning is given where that happens."""
    (name, *store) = arguments

    def said(verb: str, *words: object) -> tuple[str, str]:
        command = [sys.executable, "-m", f"sweeps.{verb}", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done
        return done.stdout, without_waiting(done.stderr)

    out, err = said("run", name, *store)
    best = re.search(r"sweeps\.sample (\w+)", out)
    assert best
    errors = [err]
    errors += [said("run", name, "--sweep", "learning_rate=1e-3,1e30", "--set", "max_grad_norm=None", *store)[1]]
    errors += [said("report", "question", *store)[1]]
    errors += [said("sample", best[1], "--prompt", "the ", *store)[1]]
    errors += [said("reproduce", best[1], *store)[1]]
    errors += [said("export", "question", "--optuna", f"sqlite:///{tmp_path}/study.db", *store)[1]]
    errors += [said("ls", *store)[1]]
    assert errors == [""] * len(errors)
