"""What a sweep prints where somebody asks for less than a person is told, or for JSON."""

import json
from pathlib import Path

import pytest
from launcher import Launcher
from test_run import GRID, NUM_RUNS, write_experiment


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
    assert best["best_setting"] == min(means, key=means.__getitem__)
    assert best["best_objective"] == pytest.approx(min(means.values()))
    assert Path(best["report"]).is_file()


def test_quiet_is_the_answer_alone(launcher: Launcher, arguments: tuple[object, ...]) -> None:
    done = launcher.run("sweeps.run", *arguments, "--quiet")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0].startswith("Best of 2 settings is")
    assert lines[-1].startswith("Report: ")
    assert len(lines) <= 6
