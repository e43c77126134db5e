"""The report's numbers and words against planted truth, SciPy and the counts that chance allows."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from synthetic import (
    BASE,
    NUM_STEPS,
    TOKENS_PER_STEP,
    WORST,
    choice,
    lr_warmup_space,
    make_plan,
    make_sweep,
    value_range,
)

from sweeps.analysis import curves, diagnosis, noise, ranking, settings
from sweeps.analysis.rates import rate_table
from sweeps.analysis.results import Results
from sweeps.answer import sentences
from sweeps.answer.advice.next_steps import advise
from sweeps.answer.page import write_report
from sweeps.answer.tables import leaderboard_table
from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.spec.command import Command
from sweeps.spec.settings import grid_settings
from sweeps.spec.space import Choice

TRUTH = "lr=1e-3 warmup=0.1"


def test_planted_best_leads_and_rows_are_ordered():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.1)})
    trials, _ = make_sweep(plan, with_history=False)
    board = Results(plan, trials, trials).board
    assert board["label"].iloc[0] == TRUTH
    assert board["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert board["objective"].is_monotonic_increasing
    finals = trials.loc[trials["setting"] == TRUTH, "final_val_loss"]
    assert board["objective"].iloc[0] == pytest.approx(finals.mean())
    assert board["standard_error"].iloc[0] == pytest.approx(scipy_stats.sem(finals))
    assert board["val_perplexity"].iloc[0] == pytest.approx(math.exp(finals.mean()))
    assert board["run_ids"].iloc[0].split() == trials.loc[finals.index, "run_id"].tolist()


def test_two_settings_are_compared_by_the_ordinary_paired_t_test():
    rng = np.random.default_rng(3)
    objective = rng.normal(size=(2, 5))
    p = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
    assert p[1] == pytest.approx(scipy_stats.ttest_rel(*objective).pvalue)


def test_noise_is_pooled_as_in_a_two_way_layout():
    """The residual mean square of the additive model setting + seed, fitted by least squares."""
    rng = np.random.default_rng(4)
    num_settings, seeds = 5, 3
    objective = rng.normal(size=(num_settings, seeds))
    design = np.hstack([np.repeat(np.eye(num_settings), seeds, 0), np.tile(np.eye(seeds), (num_settings, 1))])
    residual = objective.ravel() - design @ np.linalg.lstsq(design, objective.ravel(), rcond=None)[0]
    degrees = (num_settings - 1) * (seeds - 1)
    error = math.sqrt(2 * (residual**2).sum() / degrees / seeds)
    means = objective.mean(1)
    raw = [2 * scipy_stats.t.sf(abs(means[i] - means[j]) / error, degrees) for i in range(5) for j in range(i)]
    order = means.argsort()[[0, 4, 1, 2, 3]]  # the two that differ most come first
    p = ranking.p_values_against_first(objective[order], noise.noise_by_setting(objective[order]))
    assert p[1] == pytest.approx(min(1.0, 10 * min(raw)))


@pytest.mark.parametrize(("num_settings", "seeds"), [(3, 4), (8, 2), (16, 3)])
def test_without_an_effect_a_difference_is_claimed_in_at_most_five_percent(num_settings, seeds):
    """The best of many is chosen by looking, which must not count as evidence. 5 % of 400, plus 3 deviations: 33."""
    rng = np.random.default_rng(5)
    false_claims = 0
    for _ in range(400):
        objective = rng.normal(size=(num_settings, seeds)) + rng.normal(size=(1, seeds))
        order = objective.mean(1).argsort()
        p = ranking.p_values_against_first(objective[order], noise.noise_by_setting(objective[order]))
        false_claims += bool((p[1:] < noise.SIGNIFICANCE).any())
    assert false_claims <= 33


def test_a_large_planted_effect_is_told_apart_with_two_seeds():
    plan = make_plan(lr_warmup_space())
    trials, _ = make_sweep(plan, with_history=False, noise=0.004)
    board = Results(plan, trials, trials).board.set_index("label")
    assert not board.loc["lr=1e-4 warmup=0.1", "tied_with_best"]  # 0.45 nats behind
    assert board.loc["lr=1e-3 warmup=0.2", "tied_with_best"]  # planted equal


def test_with_one_seed_nothing_is_claimed():
    plan = make_plan(lr_warmup_space(), seeds=[0])
    trials, history = make_sweep(plan)
    board = Results(plan, trials, trials).board
    assert board["tied_with_best"].iloc[1:].isna().all()
    assert board["standard_error"].isna().all()
    assert any(
        "with one seed, differences can't be told from seed noise" in line
        for line in sentences.answer(Results(plan, trials, history))
    )


def test_diverged_counts_as_ln_vocabulary_and_partly_diverged_is_not_tested():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 3e-3)})
    trials, _ = make_sweep(
        plan, with_history=False, states={(2, 0): "DIVERGED", (0, 0): "DIVERGED", (0, 1): "DIVERGED"}
    )
    board = Results(plan, trials, trials).board.set_index("trial")
    assert board.loc[0, "objective"] == pytest.approx(WORST)
    assert board.loc[2, "objective"] > 5
    assert board.loc[2, "state"] == "1 complete, 1 diverged"
    assert pd.isna(board.loc[2, "tied_with_best"])


def test_settings_with_a_seed_to_come_stand_after_complete_ones_without_a_rank():
    plan = make_plan(lr_warmup_space())
    trials, _ = make_sweep(plan, with_history=False, states={(10, 1): "MISSING", (9, 0): "RUNNING", (9, 1): "FAILED"})
    board = Results(plan, trials, trials).board
    assert board["trial"].iloc[-2:].tolist() == [10, 9]
    assert board["rank"].iloc[-2:].isna().all()
    assert board["num_seeds_done"].iloc[-2:].tolist() == [1, 0]


def test_what_is_no_better_than_chance_is_not_ranked():
    plan = make_plan({"learning_rate": choice(0.01, 0.1, 0.2)}, seeds=[0, 1])
    results = Results(plan, *make_sweep(plan, effect=lambda _: 10.0))
    first, *rest = sentences.answer(results)
    assert first.startswith("No setting is better than chance: every finished run ends at or above ln(vocabulary)")
    assert not any("runner-up" in sentence or "best at" in sentence or "seeds" in sentence for sentence in rest)
    assert "No run does better than chance" in advise(results)[-1].text
    table = leaderboard_table(results)
    assert (set(table["#"]), set(table["against the best"])) == ({"\N{EN DASH}"}, {"no better than chance"})
    assert not results.has_best


@pytest.mark.parametrize("field", ["eval_tokens", "val_ratio"])
def test_losses_of_different_parts_of_a_text_are_not_ranked(field: str):
    plan = make_plan({field: choice(*((64, 512) if field == "eval_tokens" else (0.1, 0.2)))})
    first, *rest = sentences.answer(Results(plan, *make_sweep(plan, effect=lambda _: 0.0)))
    assert first.startswith(f"Settings differ in {field}, so their losses are of different parts of the text")
    assert not any("runner-up" in sentence for sentence in rest)


def test_a_swept_none_is_a_value_of_its_own():
    plan = make_plan({"max_grad_norm": choice(None, 1.0)})
    trials, _ = make_sweep(plan, with_history=False)
    assert Results(plan, trials, trials).gaps["value"].tolist() == ["1", "none"]


def test_gaps_are_the_groupwise_means_and_ranges_are_cut_into_quarters():
    plan = make_plan(
        {"learning_rate": value_range(1e-4, 1e-2, log=True), "schedule": choice("linear", "cosine")}, num_trials=40
    )
    trials, _ = make_sweep(plan, with_history=False, noise=0.02)
    table = Results(plan, trials, trials).gaps
    assert len(table) == 4 + 2
    linear = trials[trials["schedule"] == "linear"]
    row = table[table["value"] == "linear"].iloc[0]
    assert row["gap"] == pytest.approx(linear["final_gap"].mean())
    assert row["gap_standard_error"] == pytest.approx(scipy_stats.sem(linear["final_gap"]))
    assert table.loc[table["parameter"] == "learning_rate", "num_runs"].sum() == 80


def test_effects_are_the_spread_of_the_marginal_means():
    plan = make_plan(lr_warmup_space())
    trials, _ = make_sweep(plan, with_history=False, noise=0.0)
    table = Results(plan, trials, trials).main_effects.set_index("parameter")
    assert table.loc["learning_rate", "spread"] == pytest.approx(0.45)
    assert table.loc["learning_rate", "best"] == "1e-3"
    assert table.loc["warmup_ratio", "spread"] == pytest.approx(0.05)
    assert table.loc["warmup_ratio", "worst"] == "0"


def test_tokens_to_target_interpolates_between_evaluations():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3)}, seeds=[0, 1])
    trials, history = make_sweep(plan)
    run_id = trials["run_id"].iloc[0]
    curve = curves.evaluations(trials, history).query("run_id == @run_id")
    target = float(curve["val_loss"].iloc[2:4].mean())
    tokens = curves.tokens_to_target(trials, curves.evaluations(trials, history), target).set_index("run_id")
    assert tokens.loc[run_id, "tokens"] == pytest.approx(curve["tokens"].iloc[2:4].mean())
    assert curves.tokens_to_target(trials, curves.evaluations(trials, history), 0.1)["tokens"].isna().all()
    default = curves.tokens_to_target(trials, curves.evaluations(trials, history))
    assert default["tokens"].notna().all()
    assert default["target"].iloc[0] == pytest.approx(trials["final_val_loss"].max())
    assert (default.groupby("trial")["tokens"].mean() == default.groupby("trial")["setting_tokens"].first()).all()


def test_trials_that_a_search_has_yet_to_propose_are_still_to_come():
    plan = make_plan({"learning_rate": value_range(1e-4, 1e-2, log=True)}, seeds=[0, 1], num_trials=4)
    trials, history = make_sweep(plan)
    assert "half-finished" not in " ".join(sentences.answer(Results(plan, trials, history)))
    paused = Results(replace(plan, num_trials=10), trials, history)
    assert "half-finished, 8 of 20 runs done" in " ".join(sentences.answer(paused))
    assert "12 of 20 runs are still to come; the same command goes on." in [one.text for one in advise(paused)]


def test_each_planted_pathology_is_found_and_nothing_else():
    plan = make_plan({"learning_rate": choice(3e-3), "warmup_ratio": choice(0.0, 0.05, 0.1, 0.2, 0.3)}, seeds=[0])
    trials, history = make_sweep(plan, states={(0, 0): "DIVERGED"}, overfitting=[1], spiking=[2], clipped=[3])
    found = Results(plan, trials, history).diagnoses.groupby("trial")["finding"].agg(set)
    still = {"still falling"}
    assert found[0] == {"diverged"}
    assert found[1] == {"overfitting"}
    assert found[2] - still == {"spikes"}
    assert found[3] - still == {"mostly clipped"}
    assert found[4] - still <= {"healthy"}


def test_diagnosis_names_the_step_and_the_tokens():
    plan = make_plan({"learning_rate": choice(1e-3, 3e-3)}, seeds=[0])
    trials, history = make_sweep(plan, states={(1, 0): "DIVERGED"}, overfitting=[0])
    lines = [diagnosis.diagnose(run, history[history["run_id"] == run["run_id"]]) for _, run in trials.iterrows()]
    assert lines[0].startswith(f"overfitting: from {NUM_STEPS // 2 * TOKENS_PER_STEP:,} tokens on")
    assert lines[1] == "diverged: at step 39"


def test_a_loss_that_counts_as_that_of_chance_is_said_to():
    plan = make_plan({"learning_rate": choice(1e-3)}, seeds=[0])
    trials, history = make_sweep(plan)
    flat = history.assign(val_loss=history["val_loss"].where(history["val_loss"].isna(), 3.6))
    capped = trials.iloc[0].copy()
    capped["objective"] = capped["final_val_loss"] - 0.5
    said = f"validation loss ends at {capped['final_val_loss']:.3f}, ln(vocabulary) is {capped['objective']:.3f}"
    assert diagnosis.diagnose(capped, flat) == f"no better than chance: {said}"


def test_a_flat_end_is_healthy_and_a_falling_one_is_said_to_fall():
    plan = make_plan({"learning_rate": choice(1e-3)}, seeds=[0])
    trials, history = make_sweep(plan)
    run = trials.iloc[0]
    flat = history.assign(val_loss=history["val_loss"].where(history["val_loss"].isna(), 3.6))
    assert diagnosis.diagnose(run, flat) == "healthy"
    steep = history.assign(val_loss=(6.0 - 0.01 * history["step"]).where(history["val_loss"].notna()))
    assert diagnosis.diagnose(run, steep) == "still falling: by 0.160 nats over the last 16,384 tokens"
    evaluated = steep["val_loss"].notna()
    # What fell before the last evaluation is not said of the end, least of all the fall from what knows nothing.
    last = evaluated & (steep["step"] == steep["step"].max())
    stopped = steep.assign(val_loss=steep["val_loss"].where(~last, steep.loc[evaluated, "val_loss"].iloc[-2]))
    assert diagnosis.diagnose(run, stopped) == "healthy"
    few = steep[~evaluated | steep["step"].isin([0, 112, 128])]
    assert few["val_loss"].notna().sum() == 3
    assert diagnosis.diagnose(run, few) == "healthy: but 3 evaluations are needed to see whether it still falls"
    unreadable = dict(run) | {"tokens_per_step": pd.NA}  # of another version's config
    assert diagnosis.diagnose(unreadable, steep) == "healthy"


def test_gaussian_loss_noise_is_no_spike():
    plan = make_plan({"learning_rate": choice(1e-3)}, seeds=list(range(40)))
    trials, history = make_sweep(plan)
    assert "spikes" not in set(Results(plan, trials, history).diagnoses["finding"])


def test_answer_names_the_best_the_trouble_and_what_is_missing():
    plan = make_plan(lr_warmup_space(), matched=False)
    states = {(12, 0): "DIVERGED", (2, 0): "FAILED", (3, 1): "MISSING"}
    said = sentences.answer(Results(plan, *make_sweep(plan, states=states)))
    text = " ".join(said)
    assert 3 <= len(said) <= 5
    assert "lr=1e-3" in said[0]
    assert "can't be told from it" in said[1]
    assert "1 of 32 runs diverged (lr=3e-3 warmup=0); 1 of 32 runs failed (lr=1e-4 warmup=0.1)" in text
    assert "30 of 32 runs done" in text
    assert "not matched" in text


def test_answer_is_honest_when_all_diverged_or_nothing_ran():
    plan = make_plan(lr_warmup_space())
    every = [(trial.number, seed) for trial in plan.trials for seed in (0, 1)]
    diverged = sentences.answer(Results(plan, *make_sweep(plan, states=dict.fromkeys(every, "DIVERGED"))))
    nothing = sentences.answer(Results(plan, *make_sweep(plan, states=dict.fromkeys(every, "MISSING"))))
    assert diverged[0].startswith("Every finished run diverged (32 of 32 runs)")
    assert not any("runner-up" in sentence for sentence in diverged)
    assert nothing == ["No run has finished yet (0 of 32)."]


def test_what_is_not_tested_is_said_to_be_untested_and_unlike_means_are_not_said() -> None:
    def said(plan: PlanRecord, **options: Any) -> str:
        return " ".join(sentences.answer(Results(plan, *make_sweep(plan, with_history=False, **options))))

    alone = said(make_plan(lr_warmup_space(), seeds=[0]), effect=lambda _: 0.0)
    assert "the means differ by " in alone
    assert "untested, since there is one seed" in alone
    assert "moves the loss" not in alone
    plan = make_plan(lr_warmup_space())
    diverged = said(plan, states={(12, 0): "DIVERGED"})
    assert "untested, since not all runs are complete, and a divergence is no seed noise" in diverged
    assert "moves the loss" in said(plan)
    assert "Averaged" not in said(plan, states={(12, 0): "MISSING", (12, 1): "MISSING"})
    crossed = said(plan, effect=lambda s: 0.2 * ((s["learning_rate"] < 5e-4) != (s["warmup_ratio"] < 0.07)))
    assert re.search("With the rest at its best, .*learning_rate makes no difference that can be told", crossed)
    assert "learning_rate and warmup_ratio interact" in crossed
    # Only with much warmup is the largest rate the best: on average it is the worst, which nobody asks.
    edge = said(plan, effect=lambda s: 0.0 if s["learning_rate"] < 3e-3 else 0.3 if s["warmup_ratio"] < 0.15 else -0.2)
    assert re.search(r"With the rest at its best, .*learning_rate by 0\.[12]\d* nats \(best at 3e-3, worst at", edge)


def test_the_best_of_several_that_can_not_be_told_apart_is_said_to_be_likely_too_low() -> None:
    plan = make_plan(lr_warmup_space())
    clear = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2)}, seeds=[0, 1, 2])
    assert "likely too low" in sentences.answer(Results(plan, *make_sweep(plan, effect=lambda _: 0.0)))[0]
    assert "likely too low" not in sentences.answer(Results(clear, *make_sweep(clear)))[0]


def test_confirmed_settings_keep_the_ends_of_the_space_they_were_chosen_from() -> None:
    """Of 3e-4 … 3e-2 the best two were confirmed; rates with a schedule each say nothing of the rate alone."""
    whole = make_plan({"learning_rate": choice(3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}, seeds=[0, 1, 2])
    kept = tuple(trial for trial in whole.trials if trial.setting["learning_rate"] in (1e-3, 3e-3))
    plan = replace(whole, search="points", trials=kept)
    results = Results(plan, *make_sweep(plan, effect=lambda s: -20 * s["learning_rate"]))
    assert not any("that was tried" in one.text for one in advise(results))
    assert results.rates["edge"].tolist() == [""]
    assert results.rates["optimum"].isna().all()

    whole = make_plan(lr_warmup_space())
    pairs = {(3e-4, 0.0), (1e-3, 0.1), (3e-3, 0.2)}
    kept = tuple(trial for trial in whole.trials if tuple(trial.setting.values()) in pairs)
    plan = replace(whole, search="points", trials=kept)
    results = Results(plan, *make_sweep(plan))
    assert results.rates.empty
    assert "Averaged" not in " ".join(sentences.answer(results))


@pytest.mark.parametrize("values", [(0.0, 0.1, 0.3, 1.0), (None, 0.1, 0.3, 1.0)])
def test_of_a_space_with_zero_or_none_in_it_any_settings_may_be_confirmed(values: tuple[float | None, ...]) -> None:
    """Those that are left span a factor of ten, and the space no factor at all."""
    whole = make_plan({"max_grad_norm": choice(*values)}, seeds=[0, 1, 2])
    kept = tuple(trial for trial in whole.trials if trial.setting["max_grad_norm"] in (0.1, 1.0))
    command = Command("lr_warmup", (("--confirm", "2"),))
    plan = replace(whole, search="points", trials=kept, num_trials=len(kept), command=command)

    def advised(effect: float) -> str:
        results = Results(plan, *make_sweep(plan, effect=lambda s: effect * s["max_grad_norm"]))
        return " ".join(one.text for one in advise(results))

    assert "1, is the highest that was tried" in advised(-1.0)
    assert ("0.1, is the lowest that was tried" in advised(1.0)) == (values[0] is None)


def test_what_a_rate_drawn_with_another_field_costs_is_not_known() -> None:
    space = {"learning_rate": value_range(1e-4, 1e-2, log=True), "weight_decay": value_range(0.0, 0.3)}
    drawn = make_plan(space, num_trials=20)
    assert Results(drawn, *make_sweep(drawn)).rates["sensitivity"].isna().all()
    alone = make_plan({"learning_rate": space["learning_rate"]}, num_trials=20)
    assert Results(alone, *make_sweep(alone)).rates["sensitivity"].notna().all()
    listed = make_plan(
        {"learning_rate": choice(1e-4, 1e-3, 1e-2), "weight_decay": space["weight_decay"]}, num_trials=20
    )
    assert Results(listed, *make_sweep(listed)).rates.empty


def test_a_trainer_whose_seeds_change_nothing_is_told() -> None:
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2)}, seeds=[0, 1, 2])
    said = "a setting's seeds all give the same loss, so the trainer may not use them"
    assert said in " ".join(sentences.answer(Results(plan, *make_sweep(plan, noise=0.0)))).lower()
    assert said not in " ".join(sentences.answer(Results(plan, *make_sweep(plan)))).lower()


def test_where_some_seeds_of_the_leaders_diverged_that_is_the_reason_given() -> None:
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2)}, seeds=[0, 1, 2, 3])
    effect = {1e-4: 0.0, 1e-3: 3.0, 1e-2: 4.0}
    results = Results(plan, *make_sweep(plan, states={(1, 0): "DIVERGED"}, effect=lambda s: effect[s["learning_rate"]]))
    assert "some of their runs diverged, which is no seed noise" in sentences.answer(results)[1]


# --- A grid with cells left out


def test_of_a_grid_with_cells_left_out_no_mean_over_unlike_cells_is_called_an_optimum() -> None:
    whole = make_plan(lr_warmup_space())
    kept = [
        trial for trial in whole.trials if trial.setting["warmup_ratio"] > 0 or trial.setting["learning_rate"] < 1e-3
    ]
    plan = replace(whole, trials=tuple(kept))
    trials, history = make_sweep(plan, with_history=False)
    results = Results(plan, trials, history)
    assert "Averaged over the rest" not in " ".join(sentences.answer(results))
    found = rate_table(plan, results.runs, WORST)
    assert set(found["parameter"]) == {"warmup_ratio"}
    assert found.set_index("value").loc["0", "num_rates"] == 2
    runs = Results(whole, *make_sweep(whole, with_history=False)).runs
    assert set(rate_table(whole, runs, WORST)["parameter"]) == {"", "warmup_ratio"}


# --- A field that is varied under a condition


def conditional_plan() -> PlanRecord:
    """Four rates and three schedules, of which one has a share to vary; elsewhere it is the base's 0.2."""
    space = {
        "learning_rate": choice(3e-4, 1e-3, 3e-3, 1e-2),
        "schedule": choice("cosine", "linear", "wsd"),
        "decay_ratio": Choice(0.1, 0.3, when={"schedule": "wsd"}),
    }
    trials = [
        TrialRecord(number, cell, f"cell {number}", {0: f"a{number}", 1: f"b{number}"})
        for number, cell in enumerate(grid_settings(space, BASE))
    ]
    return replace(make_plan(space), trials=tuple(trials))


def test_where_a_field_is_not_varied_its_value_counts_for_nothing(tmp_path):
    plan = conditional_plan()

    def effect(setting):  # the best schedule is cosine, and of wsd the larger share
        return (setting["schedule"] != "cosine") * 0.5 - (setting["schedule"] == "wsd") * setting["decay_ratio"]

    results = Results(plan, *make_sweep(plan, effect=effect))
    assert len(plan.trials) == 4 * (2 + 2)
    gaps = results.gaps[results.gaps["parameter"] == "decay_ratio"]
    assert gaps.set_index("value")["num_runs"].to_dict() == {"0.1": 8, "0.3": 8}
    effects = results.main_effects.set_index("parameter")
    assert effects.loc["decay_ratio", ["best", "worst"]].tolist() == ["0.3", "0.1"]
    assert effects.loc["decay_ratio", "spread"] == pytest.approx(0.2, abs=0.02)
    assert {field for fields in results.decomposition["fields"] for field in fields} == {"learning_rate", "schedule"}
    assert set(results.rates["parameter"]) == {"", "schedule"}
    assert not settings.is_full_grid(plan)
    assert all("decay_ratio" not in advice.text for advice in advise(results))  # the best setting does not vary it
    page = write_report(results, tmp_path / "page", {}).read_text()
    assert "Left out are fields that not all settings vary: decay_ratio." in page
    assert {"gap", "isolation", "heat_maps", "rates", "schedule"} <= {
        path.stem for path in (tmp_path / "page" / "figures").iterdir()
    }
