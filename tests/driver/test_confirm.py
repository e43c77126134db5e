"""The best settings with more seeds, and two definitions side by side; in processes of their own, on a real store."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from launcher import Launcher
from small_sweeps import GRID, Kept, write_experiment

from sweeps.answer.compare import Side
from sweeps.store import open_store
from sweeps.store.layout import Layout
from sweeps.terminal import summary

STORE = "store"
BASES = {
    "small": {"vocab_size": None, "dropout": 0.0, "d_model": 64},
    "large": {"vocab_size": 500, "dropout": 0.1, "d_model": 64},
    "part": {},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, text_file: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("confirm")
    file = write_experiment(folder, GRID, text_file)
    assert launcher.run("sweeps.run", file, "--store", folder / STORE).code == 0
    return file, folder / STORE


def test_confirming_runs_the_best_settings_with_the_seeds_that_are_missing(
    swept: tuple[Path, Path], launcher: Launcher
) -> None:
    file, store = swept
    kept = Kept(store)
    before = {run.info.run_id for run in kept.of("run")}
    best = open_store(store).trials("question").groupby("setting")["objective"].mean().idxmin()
    done = launcher.run("sweeps.run", file, "--store", store, "--confirm", 1, "--seeds", 3)
    assert done.code == 0, done
    new = [run for run in kept.of("run") if run.info.run_id not in before]
    assert [(run.data.tags["sweep.setting"], run.data.params["seed"]) for run in new] == [(best, "2")]
    plan = open_store(store).plan("question")
    assert plan.search == "points"
    assert [trial.label for trial in plan.trials] == [best]
    assert plan.seeds == (0, 1, 2)
    assert str(plan.command).endswith("question.py --seeds 3 --confirm 1")
    again = launcher.run("sweeps.run", file, "--store", store, "--confirm", 1, "--seeds", 3)
    assert again.code == 0
    assert len(kept.of("run")) == len(before) + 1


def test_the_best_are_confirmed_with_another_base(swept: tuple[Path, Path], launcher: Launcher) -> None:
    """As with more tokens: the settings are those that were found with fewer, and train anew."""
    file, store = swept
    kept = Kept(store)
    before = {run.info.run_id for run in kept.of("run")}
    trials = open_store(store).trials("question")
    tokens = 2 * int(trials["train_tokens"].iloc[0])
    arguments = ("--confirm", 2, "--at", f"train_tokens={tokens}", "--at", "eval_tokens=128", "--seeds", 1)
    done = launcher.run("sweeps.run", file, "--store", store, *arguments)
    assert done.code == 0, done
    assert f"nats per token after {tokens:,} tokens" in " ".join(done.out.split())
    new = [run for run in kept.of("run") if run.info.run_id not in before]
    assert {run.data.tags["sweep.setting"] for run in new} == {"lr=1e-3", "lr=3e-3"}
    assert {(run.data.params["train_tokens"], run.data.params["eval_tokens"]) for run in new} == {(str(tokens), "128")}
    plan = open_store(store).plan("question")
    assert str(plan.command).endswith(f"--seeds 1 --confirm 2 --at train_tokens={tokens} --at eval_tokens=128")


@pytest.mark.slow
def test_the_best_are_those_of_a_definition_that_is_finished(
    swept: tuple[Path, Path], launcher: Launcher, tmp_path: Path, text_file: Path
) -> None:
    """Not those that a later one, with more seeds, happens to have; a search counts when all its trials are made."""
    file, store = swept
    assert launcher.run("sweeps.run", file, "--store", store, "--seeds", 4, "--max-hours", 1e-6).code == 75
    done = launcher.run("sweeps.run", file, "--store", store, "--confirm", 2, "--dry-run")
    assert (done.code, "--confirm: the best 2 of 2 settings of definition" in done.out) == (0, True), done
    drawn = GRID.replace("Choice(1e-3, 3e-3)", "Range(1e-3, 1e-1, log=True)").replace(
        "seeds=2", 'search="random", num_trials=3'
    )
    drawn_file = write_experiment(tmp_path, drawn, text_file)
    assert launcher.run("sweeps.run", drawn_file, "--store", tmp_path / STORE, "--num-trials", 2).code == 0
    refused = launcher.run("sweeps.run", drawn_file, "--store", tmp_path / STORE, "--confirm", 1)
    assert (refused.code, "2 of 3 trials" in refused.one_line) == (2, True), refused
    arguments = ("--num-trials", 2, "--confirm", 1, "--dry-run")
    assert launcher.run("sweeps.run", drawn_file, "--store", tmp_path / STORE, *arguments).code == 0


@pytest.mark.slow
def test_listed_points_are_confirmed_whatever_was_confirmed_of_them_before(
    tmp_path: Path, launcher: Launcher, text_file: Path
) -> None:
    """What was confirmed is listed points too, with the same base and space."""
    listed = GRID.replace("seeds=2", 'search="points", points=[{{"learning_rate": 1e-3}}, {{"learning_rate": 3e-3}}]')
    assert listed != GRID
    file = write_experiment(tmp_path, listed, text_file)
    for arguments in ((), ("--confirm", 1, "--seeds", 2), ("--confirm", 2)):
        done = launcher.run("sweeps.run", file, "--store", tmp_path / STORE, *arguments)
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "train_tokens=4096"], "--at is of --confirm K"),
        (["--confirm", 1, "--at", "learning_rate=1e-3"], "--at learning_rate: it is swept"),
        (["--confirm", 1, "--at", "lerning_rate=1e-3"], "did you mean learning_rate"),
        (["--confirm", 9], "--confirm 9: only 2 of 2 settings of question are complete"),
        (["--set", "dropout=0.3", "--confirm", 1], "--confirm: question with these settings has not been run"),
    ],
)
def test_what_can_not_be_confirmed_is_said_in_a_line(
    swept: tuple[Path, Path], launcher: Launcher, arguments: list[object], message: str
) -> None:
    file, store = swept
    done = launcher.run("sweeps.run", file, "--store", store, *arguments)
    assert done.code == 2
    assert message in done.one_line


@pytest.mark.slow
def test_two_definitions_are_held_side_by_side(swept: tuple[Path, Path], launcher: Launcher) -> None:
    file, store = swept
    first = open_store(store).definitions("question")[-1].definition
    changed = launcher.run("sweeps.run", file, "--store", store, "--set", "max_grad_norm=0.1")
    assert changed.code == 0
    second = open_store(store).definitions("question")[0].definition
    done = launcher.run("sweeps.report", "question", "--compare", first, second, "--store", store)
    assert done.code == 0, done
    assert "The two differ in max_grad_norm (1, 0.1)." in done.out
    assert "Each at its best setting" in done.out
    a, b = (
        open_store(store).trials("question", one).set_index(["setting", "seed"])["objective"] for one in (first, second)
    )
    assert f"{(b - a).groupby('setting').mean().iloc[0]:+.4f}" in done.out
    itself = launcher.run("sweeps.report", "question", "--compare", first, first, "--store", store)
    assert (itself.code, "so there is nothing to compare" in itself.one_line) == (2, True)
    commit = Kept(store).of("run")[0].data.tags["mlflow.source.git.commit"]
    by_commit = launcher.run("sweeps.report", "question", "--compare", first, commit[:10], "--store", store)
    assert by_commit.code == 2
    assert "name one. The two differ in max_grad_norm (1, 0.1)" in by_commit.one_line
    unknown = launcher.run("sweeps.report", "question", "--compare", first, "fffffff", "--store", store)
    assert unknown.code == 2
    assert "neither a definition nor a commit 'fffffff'" in unknown.one_line


def test_runs_that_both_sides_have_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def side(*run_ids: str) -> pd.DataFrame:
        runs = [(run_id, f"lr={number}", 0, "COMPLETE", 3.0 + len(run_id)) for number, run_id in enumerate(run_ids)]
        return pd.DataFrame(runs, columns=["run_id", "setting", "seed", "state", "objective"])

    sides = {"small": side("aa", "b"), "large": side("aaa", "b", "c"), "part": side("aa")}
    monkeypatch.setattr(summary, "read_side", lambda _store, _name, which: Side(sides[which], BASES[which]))
    store: Any = SimpleNamespace(layout=Layout(tmp_path))
    summary.print_comparison(store, None, "small", "large")
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out: 1 run that both have." in said
    assert "The two differ in vocab_size (none, 500), dropout (0, 0.1); by vocab_size a token is another one" in said
    assert "lr=1" not in said
    with pytest.raises(ValueError, match="every run of part is one of small too"):
        summary.print_comparison(store, None, "small", "part")


def test_a_plan_that_another_version_wrote_is_said_in_a_line(swept: tuple[Path, Path], launcher: Launcher) -> None:
    _, store = swept
    for file in store.rglob("plan.json"):
        plan = json.loads(file.read_text())
        del plan["base"], plan["sha256"]
        file.write_text(json.dumps(plan))
    done = launcher.run("sweeps.report", "question", "--store", store)
    assert done.code == 2
    assert "lacks base: another version wrote it" in done.one_line
