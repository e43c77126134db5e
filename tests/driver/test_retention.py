"""Which weights stay: the best k of each definition, and all of one that keeps all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launcher import Launcher
from safetensors.numpy import load_file
from small_sweeps import GRID, Kept, run_sweep, write_experiment
from synthetic import make_plan

from sweeps import Sweep
from sweeps.driver.retention import keepers
from sweeps.plan.record import PlanRecord, TrialRecord, plan_from_json
from tinylm_core import RunConfig

RUNS = [f"run-{number}" for number in range(8)]
objectives = st.dictionaries(st.sampled_from(RUNS), st.sampled_from([1.0, 2.0, 3.0]))


def plan(runs: list[str], keep: Any) -> PlanRecord:
    """A plan of two seeds a trial."""
    pairs = [dict(enumerate(runs[start : start + 2])) for start in range(0, len(runs), 2)]
    trials = [TrialRecord(number, {}, f"t{number}", pair) for number, pair in enumerate(pairs)]
    return replace(make_plan({}), keep_checkpoints=keep, trials=tuple(trials))


@given(objectives, st.lists(st.sampled_from(RUNS), unique=True), st.integers(0, 9))
def test_the_best_k_runs_that_have_ended_are_kept(known: dict[str, float], runs: list[str], k: int) -> None:
    kept = keepers([plan(runs, k)], known, {})
    ended = [run for run in runs if run in known]
    assert kept <= set(ended)
    assert len(kept) == min(k, len(ended))
    assert all(known[stays] <= known[goes] for stays in kept for goes in set(ended) - kept)


def test_of_equal_runs_the_earlier_trial_is_kept() -> None:
    assert keepers([plan(["b", "a", "c"], 1)], {"a": 1.0, "b": 1.0, "c": 1.0}, {}) == {"b"}


@given(objectives, st.integers(0, 3))
def test_what_another_definition_keeps_is_kept(known: dict[str, float], k: int) -> None:
    mine, other = plan(RUNS[:6], k), plan(RUNS[4:], 1)
    assert keepers([mine, other], known, {}) == keepers([mine], known, {}) | keepers([other], known, {})
    assert set(RUNS[4:]) <= keepers([mine, plan(RUNS[4:], "all")], known, {})
    content = {key: value for key, value in other.to_json().items() if key != "keep_checkpoints"}
    before_there_was_a_choice = plan_from_json(content)
    assert set(RUNS[4:]) <= keepers([mine, before_there_was_a_choice], known, {})


def test_what_a_plan_of_before_a_field_was_added_keeps_is_kept() -> None:
    before, after = plan(["old"], "all"), plan(["new"], 0)
    assert keepers([before, after], {"new": 1.0}, {"old": "new"}) == {"new"}


@pytest.mark.parametrize("keep", [-1, 1.5, True, "best", None])
def test_what_is_no_number_of_runs_is_refused(keep: Any) -> None:
    with pytest.raises(ValueError, match="keep_checkpoints="):
        Sweep(base=RunConfig(data="text.txt"), space={}, keep_checkpoints=keep)


@pytest.mark.slow
def test_the_best_runs_keep_their_weights_and_any_other_is_made_again(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    file = write_experiment(tmp_path, GRID.replace("seeds=2", "seeds=2, keep_checkpoints=1"), text_file)
    kept = Kept(tmp_path / "store")
    for _ in range(2):  # a second start changes nothing
        assert run_sweep(launcher, file, kept.store).code == 0
        best, *others = sorted(kept.runs, key=lambda run: run.data.metrics["objective"])
        assert "checkpoint" in kept.files(best)
        assert "weights.kept" not in best.data.tags
        for run in others:
            assert "checkpoint" not in kept.files(run)
            assert {"config.json", "history.parquet", "samples.txt"} <= kept.files(run)
            assert run.data.tags["weights.kept"] == "false"
            assert len(run.data.tags["weights.sha256"]) == 64

    worst = others[-1]
    refused = launcher.run("sweeps.sample", worst.info.run_id, "--store", kept.store)
    assert (refused.code, f"sweeps.reproduce {worst.info.run_id}" in refused.one_line) == (2, True), refused
    result = launcher.run("sweeps.reproduce", worst.info.run_id, "--store", kept.store)
    assert (result.code, "and the final weights" in result.out) == (0, True), result
    (again,) = kept.of("reproduction")
    assert again.data.tags["weights.sha256"] == worst.data.tags["weights.sha256"]
    weights = load_file(kept.artifact(again, "checkpoint/model.safetensors"))
    assert sum(tensor.size for tensor in weights.values()) == int(worst.data.tags["model.num_parameters"])
    sampled = launcher.run("sweeps.sample", again.info.run_id, "--prompt", "the ", "--store", kept.store)
    assert (sampled.code, sampled.out[:4]) == (0, "the "), sampled
