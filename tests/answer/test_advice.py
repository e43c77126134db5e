"""What the report advises: of sweeps with a planted truth, and of commands that go on from one."""

import math
from dataclasses import replace

import pytest
from synthetic import BASE, choice, lr_effect, lr_warmup_space, make_plan, make_sweep, results_of, value_range

from sweeps.analysis import effects, settings
from sweeps.analysis.results import Results
from sweeps.answer import sentences
from sweeps.answer.advice import next_steps
from sweeps.answer.figures import parameters
from sweeps.spec.command import Command
from tinylm_core.config import check_budget


def test_an_optimum_at_the_edge_is_told_from_one_inside():
    """Planted at 1e-3, inside of 1e-4 … 1e-2, and at 1e-2, its end; in each of 12 sweeps."""
    plan = make_plan({"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}, seeds=[0, 1, 2])

    def at_the_end(planted, seed):
        results = results_of(plan, seed=seed, effect=lambda s: 0.2 * math.log10(s["learning_rate"] / planted) ** 2)
        return [one for one in next_steps.advise(results) if "that was tried" in one.text]

    assert not any(at_the_end(1e-3, seed) for seed in range(12))
    found = [at_the_end(3e-2, seed) for seed in range(12)]
    assert all(found)
    assert all("may lie beyond" in one[0].text for one in found)
    assert str(found[0][0].command).endswith("--sweep learning_rate=0.0001,0.0003,0.001,0.003,0.01,0.03,0.1")


def test_a_step_beyond_an_end_is_at_most_four_times_as_far():
    plan = make_plan({"learning_rate": choice(1e-3, 1e-2)}, seeds=[0, 1])
    found = next_steps.advise(results_of(plan, seed=0, effect=lambda s: -s["learning_rate"]))
    assert any(str(one.command).endswith("--sweep learning_rate=0.001,0.01,0.04,0.2") for one in found)


def test_losses_of_different_tokens_are_not_ranked_and_no_advice_is_drawn_from_them():
    plan = make_plan({"tokenizer": choice("bpe", "char"), "learning_rate": choice(1e-3, 1e-2)}, seeds=[0, 1, 2])
    effect = {"bpe": 2.5, "char": 0.0}
    results = results_of(plan, seed=0, effect=lambda s: effect[s["tokenizer"]] - 10 * s["learning_rate"], noise=0.01)
    first, *others = sentences.answer(results)
    assert first.startswith("Settings differ in tokenizer, so their losses are nats per token of different tokens")
    assert not any(word in " ".join(others).lower() for word in ("best", "runner-up", "moves the loss"))
    assert results.board["tied_with_best"].isna().all()
    assert not any("that was tried" in one.text for one in next_steps.advise(results))
    alike = results_of(
        replace(plan, trainer=1), seed=0, effect=lambda s: effect[s["tokenizer"]]
    )  # whose words these aren't
    assert sentences.answer(alike)[0].startswith("Best of 4 settings")


def test_the_first_ten_trials_of_tpe_are_drawn_and_so_tested_as_those_of_a_random_search():
    space = {"learning_rate": value_range(1e-4, 1e-1, log=True)}
    for num_trials, gathered in ((10, False), (11, True)):
        plan = replace(make_plan(space, num_trials=num_trials), search="tpe")
        assert settings.is_gathered(plan) is gathered
        assert not settings.is_gathered(replace(plan, search="random"))


def test_a_whole_number_among_others_makes_a_field_no_whole_one():
    plan = make_plan({"weight_decay": choice(0, 0.1, 0.3)}, seeds=[0, 1])
    found = next_steps.advise(results_of(plan, seed=0, effect=lambda s: -s["weight_decay"]))
    assert any(str(one.command).endswith("--sweep weight_decay=0,0.1,0.3,0.5,0.7") for one in found)


def test_more_accumulation_is_advised_with_a_budget_that_it_fits():
    plan = make_plan({"gradient_accumulation_steps": choice(1, 3)}, seeds=[0, 1])
    found = next_steps.advise(results_of(plan, seed=0, effect=lambda s: -0.1 * s["gradient_accumulation_steps"]))
    command = next(str(one.command) for one in found if "that was tried" in one.text)
    assert "--sweep gradient_accumulation_steps=1,3,9,27" in command
    budget = int(command.rpartition("train_tokens=")[2])
    settings = [BASE.replace({"gradient_accumulation_steps": k, "train_tokens": budget}) for k in (1, 3, 9, 27)]
    check_budget(settings)
    assert budget != BASE.train_tokens


def test_where_not_to_accumulate_is_best_a_smaller_batch_is_advised():
    plan = make_plan({"gradient_accumulation_steps": choice(1, 2, 4)}, seeds=[0, 1])
    found = next_steps.advise(results_of(plan, seed=0, effect=lambda s: 0.1 * s["gradient_accumulation_steps"]))
    (one,) = [one for one in found if "gradient_accumulation_steps" in one.text]
    assert "The best gradient_accumulation_steps, 1, is the least there is" in one.text
    assert str(one.command).endswith(f"--set batch_size={BASE.batch_size // 2}")


def test_batches_that_see_other_tokens_are_advised_as_accumulation_and_other_fields_at_their_best():
    plan = make_plan({"batch_size": choice(4, 8, 16)}, seeds=[0, 1], matched=False)
    first, *_ = next_steps.advise(results_of(plan, seed=0, effect=lambda s: 0.01 * s["batch_size"]))
    assert "gradient accumulation makes the same effective batches" in first.text
    assert str(first.command).endswith("--set batch_size=4 --sweep gradient_accumulation_steps=1,2,4")
    plan = make_plan({"max_seq_len": choice(64, 128), "learning_rate": choice(1e-3, 3e-3)}, seeds=[0, 1], matched=False)
    first, *_ = next_steps.advise(results_of(plan, seed=0, effect=lambda s: s["max_seq_len"] / 100))
    assert "hold it to compare the rest" in first.text
    assert str(first.command).endswith("--set max_seq_len=64")  # the best, whatever the base has


def test_more_tokens_are_for_the_best_settings_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(next_steps, "_best_has", lambda _, finding: finding == "still falling")

    def said(rates, *flags):
        command = Command("lr_warmup", flags)
        plan = replace(make_plan({"learning_rate": choice(*rates)}, seeds=[0, 1]), command=command)
        found = next_steps.advise(results_of(plan, seed=0, effect=lr_effect))
        return str(next(one.command for one in found if "still improving" in one.text)).removeprefix(str(command))

    longer = f"train_tokens={2 * BASE.train_tokens}"
    assert said([1e-4, 3e-4, 1e-3, 3e-3, 1e-2]) == f" --confirm 4 --at {longer}"
    assert said([1e-3]) == f" --set {longer}"
    assert said([1e-3], ("--confirm", "1")) == f" --at {longer}"


def test_more_tokens_are_more_than_those_of_the_best_setting(monkeypatch: pytest.MonkeyPatch):
    plan = make_plan({"train_tokens": choice(1024, 4096)}, seeds=[0, 1], matched=False)
    monkeypatch.setattr(next_steps, "_best_has", lambda _, finding: finding == "still falling")
    found = next_steps.advise(results_of(plan, seed=0, effect=lambda s: -s["train_tokens"] / 1e4))
    assert not any("may lie beyond" in one.text for one in found)  # of tokens there is no optimum
    assert [str(one.command) for one in found if one.command] == [
        "python -m sweeps.run lr_warmup --set train_tokens=8192"
    ]


def test_settings_whose_labels_read_alike_are_settings_of_their_own():
    """Labels have three digits; a random search may draw two rates that differ in the fourth."""
    plan = make_plan(lr_warmup_space(), seeds=[0, 1])
    plan = replace(plan, trials=tuple(replace(trial, label="lr=1e-3") for trial in plan.trials))
    results = results_of(plan, seed=0, effect=lambda s: abs(math.log10(s["learning_rate"]) + 3))
    best = effects.isolated(plan, results.board, "learning_rate")
    assert best["learning_rate"].tolist() == [1e-4, 3e-4, 1e-3, 3e-3]
    assert best["trial"].nunique() == 4
    assert len(next_steps.advise(results)) > 0
    parameters.isolation(results)


def test_nothing_is_advised_beyond_what_a_field_allows():
    plan = make_plan({"weight_decay": choice(0.0, 0.1, 0.2)}, seeds=[0, 1])
    results = results_of(plan, seed=0, effect=lambda s: s["weight_decay"])
    assert not any("weight_decay" in one.text and "tried" in one.text for one in next_steps.advise(results))


def test_one_seed_is_advised_more_and_equal_settings_are_not_worth_more():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2)}, seeds=[0])
    one = next_steps.advise(results_of(plan, seed=0, effect=lambda s: abs(math.log10(s["learning_rate"]) + 3)))
    assert any(str(found.command) == "python -m sweeps.run lr_warmup --seeds 3" for found in one)
    plan = make_plan({"warmup_ratio": choice(0.05, 0.1, 0.2)}, seeds=[0, 1, 2])
    equal = next_steps.advise(results_of(plan, seed=7, effect=lambda _: 0.0, noise=0.0001))
    assert any("can't be told from the best" in found.text for found in equal)


def test_leaders_that_more_seeds_would_tell_apart_are_confirmed():
    plan = make_plan({"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}, seeds=[0, 1])
    shape = {3e-4: 0.5, 1e-3: 0.0, 3e-3: 0.05, 1e-2: 0.6, 1e-4: 1.0}
    commands = [
        str(found.command)
        for seed in range(8)
        for found in next_steps.advise(
            results_of(plan, seed=seed, effect=lambda s: shape[s["learning_rate"]], noise=0.03)
        )
    ]
    assert any("--confirm 2 --seeds" in command for command in commands)


def test_more_seeds_for_settings_that_are_confirmed_are_for_these():
    """Which of the search they come from may be others than its first two."""
    plan = make_plan({"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3)}, seeds=[0, 1, 2])
    shape = {3e-4: 0.0, 1e-3: 0.5, 3e-3: 0.02, 1e-4: 1.0}
    command = Command("lr_warmup", (("--confirm", "4"), ("--at", "train_tokens=262144")))
    plan = replace(plan, command=command, search="points")
    said = set()
    for seed in range(8):
        trials, history = make_sweep(plan, effect=lambda s: shape[s["learning_rate"]], noise=0.03, rng_seed=seed)
        found = next_steps.advise(Results(plan, trials, history))
        said |= {str(one.command) for one in found if "would tell them apart" in one.text}
    assert said
    assert all(one.startswith(f"{command} --seeds ") for one in said)


def test_steps_of_the_rate_are_coarse_where_a_step_from_the_best_is_told_to_be_worse():
    """At the best value of the other field, whose neighbours' best rate is another one."""
    space = {"learning_rate": choice(1e-4, 1e-3, 1e-2, 1e-1), "warmup_ratio": choice(0.0, 0.1, 0.2)}

    def effect(setting):
        optimum = {0.0: -3, 0.1: -2, 0.2: -3}[setting["warmup_ratio"]]
        return 0.3 * (math.log10(setting["learning_rate"]) - optimum) ** 2 + 0.1 * (setting["warmup_ratio"] != 0.1)

    plan = make_plan(space, seeds=[0, 1, 2])
    (found,) = [one for one in next_steps.advise(results_of(plan, seed=0, effect=effect)) if "coarse" in one.text]
    assert "which lies between 1e-3 and 0.1: a step away costs" in found.text
    assert str(found.command).endswith("--sweep learning_rate=0.0001,0.001,0.0032,0.01,0.032,0.1")
    for hidden in (results_of(plan, seed=0, effect=effect, noise=0.5), results_of(plan, seed=0, effect=lambda _: 0.0)):
        assert not any("coarse" in one.text for one in next_steps.advise(hidden))


def test_no_seeds_are_advised_for_a_setting_that_fails_with_some_of_them():
    plan = make_plan(
        {"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.1)}, seeds=[0, 1, 2]
    )
    trials, history = make_sweep(plan)
    fails = (trials["setting"] == "lr=3e-3 warmup=0") & (trials["seed"] > 0)
    trials.loc[fails, "objective"] += [1.5, 2.0]
    results = Results(plan, trials, history)
    assert results.noisy == ["lr=3e-3 warmup=0"]
    board = results.board.set_index("label")
    assert board.loc["lr=3e-3 warmup=0", "tied_with_best"]
    assert not any("lr=3e-3 warmup=0" in one.text for one in next_steps.advise(results))
