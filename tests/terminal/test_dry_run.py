"""What a dry run says is what the sweep would do first, and how long that takes as far as anything is known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from launcher import Launcher
from small_sweeps import GRID, Kept, write_experiment

from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.store.schema import RunRow
from sweeps.terminal.dry_run import pace_of, print_plan
from tinylm_core.machine import Machine, this_machine

SWEEP = '''"""First what is known?"""
from sweeps import Range, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(data={data!r}, tokenizer="char", max_seq_len=8, d_model=16, num_layers=1, num_heads=2, batch_size=4,
                   train_tokens=192, num_evals=3, eval_tokens=64, precision="fp64"),
    space={{"learning_rate": Range(1e-4, 1e-2, log=True), "weight_decay": Range(0.0, 0.3)}},
    search={search!r}, num_trials={num_trials},
    points={points},
)
'''
POINTS = ({"learning_rate": 3e-3, "weight_decay": 0.123}, {"learning_rate": 1e-3, "weight_decay": 0.2})


@pytest.mark.parametrize(
    ("search", "num_trials", "points", "said", "unsaid"),
    [
        ("tpe", 9, POINTS, ["lr=3e-3 decay=0.123", "t001", "lr=1e-3 decay=0.2", "chooses the other 7"], "lr=1e-4"),
        ("random", 1, POINTS, ["t000", "lr=3e-3 decay=0.123"], "lr=1e-3"),
        ("sobol", 9, (), ["t000", "lr=1e-4 decay=0", "lower end of each is shown"], "tried first"),
    ],
)  # fmt: skip
def test_the_points_that_a_search_tries_first_are_shown_first(
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    search: str,
    num_trials: int,
    points: tuple[dict[str, float], ...],
    said: list[str],
    unsaid: str,
) -> None:
    file = tmp_path / "first.py"
    file.write_text(SWEEP.format(data=str(text_file), search=search, num_trials=num_trials, points=points))
    print_plan(make_plan(load_experiment(str(file)), this_machine("cpu")), 2, str(tmp_path / "none"))
    shown = capsys.readouterr().out
    places = [shown.find(text) for text in said]
    assert min(places) >= 0, shown
    assert places == sorted(places)
    assert unsaid not in shown


@pytest.mark.slow
def test_what_an_earlier_start_has_asked_and_done_is_said(launcher: Launcher, text_file: Path, tmp_path: Path) -> None:
    file, store = tmp_path / "first.py", tmp_path / "store"
    text = SWEEP.format(data=str(text_file), search="tpe", num_trials=3, points=())
    file.write_text(text)
    assert launcher.run("sweeps.run", file, "--store", store).code == 0
    file.write_text(text.replace("num_trials=3", "num_trials=5"))
    shown = launcher.run("sweeps.run", file, "--store", store, "--dry-run")
    assert "3 of its runs are there already" in shown.out, shown
    assert "These were proposed already; the search chooses the other 2." in shown.out
    labels = [run.data.tags["sweep.setting"] for run in Kept(store, "first").runs]
    assert all(label in shown.out for label in labels)


@pytest.mark.slow
def test_a_text_that_was_edited_is_said_with_the_runs_that_count_no_more(launcher: Launcher, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sees a dog. " * 500)
    file = write_experiment(tmp_path, GRID, text)
    assert launcher.run("sweeps.run", file, "--seeds", 1, "--store", tmp_path / "store").code == 0
    note = "the data has changed: 2 runs are of what it was before"
    again = launcher.run("sweeps.run", file, "--seeds", 1, "--store", tmp_path / "store", "--dry-run")
    assert "2 of its runs are there already" in again.out
    assert note not in again.out
    text.write_text("one hen has no goat. " * 500)
    planned = launcher.run("sweeps.run", file, "--seeds", 1, "--store", tmp_path / "store", "--dry-run")
    assert note in " ".join(planned.out.split())
    run = launcher.run("sweeps.run", file, "--seeds", 1, "--store", tmp_path / "store", "--json")
    assert run.code == 0
    assert note in run.out + run.err


def test_a_sweep_for_a_gpu_of_a_cluster_is_shown_where_there_is_none(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "first.py"
    file.write_text(SWEEP.format(data=str(text_file), search="sobol", num_trials=9, points=()))
    elsewhere = Machine("cuda:99", "H100", fast_bf16=True, fast_fp16=True)
    print_plan(make_plan(load_experiment(str(file)), elsewhere), 2, str(tmp_path / "none"))
    assert "not known before the first run; 2 workers" in capsys.readouterr().out


def test_the_pace_of_a_run_is_its_tokens_over_its_duration_or_else_what_its_trainer_told() -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)

    def row(metrics: dict[str, float], seconds: float | None) -> RunRow:
        end = None if seconds is None else start + timedelta(seconds=seconds)
        return RunRow("id", "name", "1", "FINISHED", "COMPLETE", "run", 0, 0, {}, None, None, {}, metrics, start, end)

    assert pace_of(row({"final/tokens_per_second": 500.0, "train/tokens": 100.0}, 10)) == 10
    assert pace_of(row({"final/tokens_per_second": 500.0, "train/tokens": 100.0}, 0)) == 500
    assert pace_of(row({"train/tokens": 100.0}, 10)) == 10
    assert pace_of(row({"train/tokens": 100.0}, None)) is None
    assert pace_of(row({}, 10)) is None
    assert pace_of(row({"train/tokens": 100.0}, 0)) is None
