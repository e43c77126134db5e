"""What a plan refuses, notes, names and counts (laws 4, 5, 7)."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps import Choice, Range, Sweep
from sweeps.plan.plan import Plan, make_plan
from sweeps.spec.catalog import Experiment
from sweeps.spec.naming import setting_label
from sweeps.spec.settings import grid_settings
from sweeps.spec.space import Space
from tinylm_core import RunConfig
from tinylm_core.machine import Machine

PLAIN = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)
Tiny = Callable[..., RunConfig]


def experiment(base: RunConfig, space: Space, **fields: Any) -> Experiment:
    return Experiment("question", "question.py", "Does it?", Sweep(base=base, space=space, **fields))


def plan_of(base: RunConfig, space: Space, machine: Machine = PLAIN, **fields: Any) -> Plan:
    return make_plan(experiment(base, space, **fields), machine)


# --- Law 4: equal budgets


@pytest.mark.parametrize(
    ("train_tokens", "space"),
    [
        (64 * 12 + 1, {}),
        (1000, {"gradient_accumulation_steps": Choice(1, 2, 4, 8)}),
        (64 * 13, {"batch_size": Choice(4, 6), "gradient_accumulation_steps": Choice(1, 3)}),
        (1, {"num_evals": Choice(2, 3)}),
        (5000, {"max_seq_len": Choice(8, 12)}),
        (5000, {"train_tokens": Choice(64 * 12, 5000)}),
    ],
)
def test_a_budget_that_is_no_common_multiple_is_refused_and_the_nearest_named_one_works(
    tiny: Tiny, train_tokens: int, space: Space
) -> None:
    base = tiny(train_tokens=train_tokens)
    with pytest.raises(ValueError, match=r"^train_tokens=[\d,]+ is no multiple of [\d,]+ ") as error:
        plan_of(base, space)
    nearest = int(str(error.value).rpartition("the nearest is train_tokens=")[2])
    changed = {name: dimension for name, dimension in space.items() if name != "train_tokens"}
    plan = plan_of(base.replace({"train_tokens": nearest}), changed)
    for trial in plan.known_trials():
        assert trial.runs[0].config.num_steps % trial.runs[0].config.num_evals == 0


@pytest.mark.parametrize("search", ["random", "sobol", "tpe"])
def test_what_a_search_may_propose_later_is_refused_before_anything_is_made(tiny: Tiny, search: str) -> None:
    later = {"search": search, "num_trials": 2}
    with pytest.raises(ValueError, match="is no multiple of"):
        plan_of(tiny(), {"gradient_accumulation_steps": Choice(1, 7)}, **later)
    with pytest.raises(ValueError, match="d_model=16 is not divisible by num_heads=3"):
        plan_of(tiny(), {"num_heads": Range(1, 4)}, **later)
    with pytest.raises(ValueError, match="d_model=20 is not divisible by num_heads=8"):
        plan_of(tiny(), {"d_model": Choice(16, 20), "num_heads": Choice(4, 8)}, **later)
    with pytest.raises(ValueError, match="the training part has 5 tokens"):
        plan_of(tiny(), {"max_tokens": Range(5, 1000)}, **later)


def test_a_field_with_one_value_unmatches_nothing(tiny: Tiny) -> None:
    plan = plan_of(tiny(), {"batch_size": Choice(4), "learning_rate": Choice(1e-3, 1e-2)})
    assert plan.matched
    assert plan.notes == []


@pytest.mark.parametrize("beta2", [Choice(0.9, 0.99999991, 0.99999992), Range(0.9, 0.90000002, 3)])
def test_values_that_look_alike_are_refused_before_anything_is_made(tiny: Tiny, beta2: Choice | Range) -> None:
    with pytest.raises(
        ValueError, match=r"^space: beta2: [\d.]+ and [\d.]+ are one value as a label, [\d.]+; take values"
    ):
        plan_of(tiny(), {"beta2": beta2})


def test_a_range_of_many_points_is_read_in_quarters_and_its_labels_may_be_alike(tiny: Tiny) -> None:
    assert plan_of(tiny(), {"learning_rate": Range(1e-4, 1e-3, points=5000, log=True)}).num_trials == 5000


def test_values_that_differ_within_six_digits_have_labels_of_their_own(tiny: Tiny) -> None:
    plan = plan_of(tiny(), {"beta2": Choice(0.99, 0.9995, 0.9999, 0.999999)})
    labels = [trial.label for trial in plan.known_trials()]
    assert labels == ["beta2=0.99", "beta2=0.9995", "beta2=0.9999", "beta2=0.999999"]


@pytest.mark.parametrize(
    ("space", "matched"),
    [
        ({"learning_rate": Choice(1e-3, 3e-3), "gradient_accumulation_steps": Choice(1, 2)}, True),
        ({"dropout": Choice(0.0, 0.1), "d_model": Choice(16, 32)}, True),
        ({"batch_size": Choice(2, 4)}, False),
        ({"stride": Choice(4, 8)}, False),
        ({"max_seq_len": Choice(4, 8)}, False),
        ({"max_tokens": Choice(2000, 4000)}, False),
        ({"train_tokens": Choice(64 * 12, 64 * 24)}, False),
    ],
)
def test_settings_that_see_other_tokens_are_marked_not_matched(tiny: Tiny, space: Space, matched: bool) -> None:
    plan = plan_of(tiny(train_tokens=64 * 24), space)
    assert plan.matched is matched
    assert [note.split(":")[0] for note in plan.notes] == ([] if matched else ["not matched"])
    assert plan.record([]).matched is matched


def test_a_budget_of_tokens_pays_for_whole_trials_with_all_their_seeds(tiny: Tiny) -> None:
    later = {"search": "random", "seeds": 2}
    config = tiny()
    tokens = config.train_tokens
    assert plan_of(config, {"dropout": Range(0.0, 0.3)}, total_tokens=7 * tokens, **later).num_trials == 3
    with pytest.raises(ValueError, match=r"^total_tokens=1,535: one trial takes 1,536 \(768 x seeds 2\)$"):
        plan_of(config, {"dropout": Range(0.0, 0.3)}, total_tokens=2 * tokens - 1, **later)


# --- Constraints


def test_a_grid_without_the_cells_that_are_refused_numbers_the_others(tiny: Tiny) -> None:
    space: Space = {"learning_rate": Choice(1e-3, 3e-3, 1e-2), "dropout": Choice(0.0, 0.1)}
    plan = plan_of(tiny(), space, allowed=lambda c: c.learning_rate < 1e-2 or c.dropout > 0)
    assert [(trial.number, trial.label) for trial in plan.known_trials()][3:] == [
        (3, "lr=3e-3 dropout=0.1"),
        (4, "lr=0.01 dropout=0.1"),
    ]
    assert plan.num_trials == 5
    assert plan.notes == ["left out: 1 of 6 cells, which allowed refuses"]
    assert len(plan.record([]).to_json()["allowed"]) == 12
    assert "allowed" not in plan_of(tiny(), space).record([]).to_json()


@pytest.mark.parametrize("search", ["grid", "random", "tpe"])
def test_what_is_refused_needs_no_common_budget_and_no_shape(tiny: Tiny, search: str) -> None:
    later = {} if search == "grid" else {"search": search, "num_trials": 2}
    batches: Space = {"batch_size": Choice(4, 8, 7), "gradient_accumulation_steps": Choice(1, 2, 4)}
    plan = plan_of(tiny(), batches, allowed=lambda c: c.batch_size * c.gradient_accumulation_steps == 8, **later)
    assert not plan.known_trials() or [trial.label for trial in plan.known_trials()] == [
        "batch_size=4 accum=2",
        "batch_size=8 accum=1",
    ]
    with pytest.raises(ValueError, match="is no multiple of"):
        plan_of(tiny(), batches, allowed=lambda c: c.batch_size != 4, **later)
    shapes: Space = {"d_model": Choice(16, 24), "num_heads": Choice(2, 3)}
    plan = plan_of(tiny(), shapes, allowed=lambda c: c.d_model % c.num_heads == 0, **later)
    assert search != "grid" or plan.num_trials == 3
    with pytest.raises(ValueError, match="d_model=16 is not divisible by num_heads=3"):
        plan_of(tiny(), shapes, allowed=lambda c: c.d_model == 16, **later)


# --- Conditions

SCHEDULES: Space = {"schedule": Choice("cosine", "wsd"), "decay_ratio": Choice(0.1, 0.3, when={"schedule": "wsd"})}


def test_a_field_is_varied_where_its_condition_holds_and_a_label_says_what_is_varied(tiny: Tiny) -> None:
    plan = plan_of(tiny(), SCHEDULES)
    trials = plan.known_trials()
    assert [trial.label for trial in trials] == ["schedule=cosine", "schedule=wsd decay_ratio=0.1",
                                                 "schedule=wsd decay_ratio=0.3"]  # fmt: skip
    assert [trial.setting["decay_ratio"] for trial in trials] == [0.2, 0.1, 0.3]
    assert [trial.runs[0].config.decay_ratio for trial in trials] == [0.2, 0.1, 0.3]
    assert plan.notes == []
    space = plan.record(trials).to_json()["space"]
    assert space["decay_ratio"] == {"kind": "choice", "values": [0.1, 0.3], "when": {"schedule": ["wsd"]}}
    assert "when" not in space["schedule"]


@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_budget_is_common_to_what_may_be_proposed_under_a_condition(tiny: Tiny, search: str) -> None:
    later = {} if search == "grid" else {"search": search, "num_trials": 2}
    space: Space = {"batch_size": Choice(4, 8), "gradient_accumulation_steps": Choice(1, 7, when={"batch_size": 8})}
    with pytest.raises(ValueError, match="is no multiple of"):
        plan_of(tiny(), space, **later)
    space = {"batch_size": Choice(4, 8, 28), "gradient_accumulation_steps": Choice(1, 7, when={"batch_size": 4})}
    plan_of(tiny(train_tokens=4 * 7 * 8 * 3 * 4), space, **later)  # 28 x 7 would be no part of it


def test_what_depends_on_a_precision_that_is_left_out_is_left_out_too(tiny: Tiny) -> None:
    space: Space = {
        "precision": Choice("fp32", "fp16"),
        "dropout": Choice(0.0, 0.3, when={"precision": "fp16"}),
        "bias": Choice(True, False, when={"precision": ("fp32", "fp16")}),
    }
    plan = plan_of(tiny(), space)
    assert [trial.label for trial in plan.known_trials()] == ["precision=fp32 bias=True", "precision=fp32 bias=False"]
    assert plan_of(tiny(), space, replace(PLAIN, fast_fp16=True)).num_trials == 2 + 2 * 2


# --- Law 5: schedules


def test_settings_of_one_schedule_are_named(tiny: Tiny) -> None:
    plan = plan_of(tiny(), {"warmup_ratio": Choice(0.0, 0.01, 0.05, 0.1), "dropout": Choice(0.0, 0.1)})
    assert plan.notes == [  # of 12 steps
        "the same schedule twice: t002 (warmup=0.01 dropout=0) and t004 (warmup=0.05 dropout=0)",
        "the same schedule twice: t003 (warmup=0.01 dropout=0.1) and t005 (warmup=0.05 dropout=0.1)",
    ]


# --- What this machine can't run


def test_a_precision_that_the_machine_lacks_is_left_out_with_a_line(tiny: Tiny) -> None:
    space = {"precision": Choice("fp32", "fp16", "fp64")}
    plan = plan_of(tiny(), space)
    assert [trial.setting["precision"] for trial in plan.known_trials()] == ["fp32", "fp64"]
    assert plan.num_trials == 2
    assert [re.sub(r":.*?:.*", "", note) for note in plan.notes] == ["left out"]
    assert "precision='fp16'" in plan.notes[0]
    assert plan_of(tiny(), space, replace(PLAIN, fast_fp16=True)).num_trials == 3


@pytest.mark.parametrize("space", [{}, {"precision": Choice("fp16")}])
def test_fp16_alone_is_refused_where_it_can_not_run(tiny: Tiny, space: Space) -> None:
    with pytest.raises(ValueError, match=r"^precision='fp16': cpu \(AVX2\) has no fp16 arithmetic"):
        plan_of(tiny(precision="fp16"), space)


# --- Trials


def test_a_grid_is_every_combination_the_last_field_fastest() -> None:
    space: Space = {"learning_rate": Range(1e-3, 1e-1, 3, log=True), "bias": Choice(True, False)}
    assert [tuple(setting.values()) for setting in grid_settings(space, RunConfig())] == [
        (rate, bias) for rate in (1e-3, 1e-2, 1e-1) for bias in (True, False)
    ]
    assert grid_settings({}, RunConfig()) == [{}]


def test_a_run_is_named_by_what_differs(tiny: Tiny) -> None:
    space: Space = {"learning_rate": Choice(3e-4, 1e-2), "warmup_ratio": Choice(0.1), "schedule": Choice("wsd")}
    plan = plan_of(tiny(seed=5), space, seeds=2)
    names = [run.name for trial in plan.known_trials() for run in trial.runs]
    assert names == [
        "t000 lr=3e-4 warmup=0.1 schedule=wsd seed=5",
        "t000 lr=3e-4 warmup=0.1 schedule=wsd seed=6",
        "t001 lr=0.01 warmup=0.1 schedule=wsd seed=5",
        "t001 lr=0.01 warmup=0.1 schedule=wsd seed=6",
    ]
    assert setting_label({}) == "base"


def test_a_trial_names_the_setting_whose_values_do_not_fit_together(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"d_model=16 is not divisible by num_heads=3 \(setting num_heads=3\)"):
        plan_of(tiny(), {"num_heads": Choice(2, 3)})


def test_a_run_trains_what_its_setting_says(tiny: Tiny) -> None:
    plan = plan_of(tiny(seed=3), {"learning_rate": Choice(1e-3, 3e-3), "max_grad_norm": Choice(None, 1.0)}, seeds=2)
    for trial in plan.known_trials():
        for seed, run in zip((3, 4), trial.runs, strict=True):
            dumped = run.config.model_dump()
            assert {name: dumped[name] for name in trial.setting} == trial.setting
            assert (run.seed, run.config.seed, run.trial) == (seed, seed, trial.number)
            assert "auto" not in dumped.values()


# --- Law 7: identity


def test_identities_differ_exactly_where_configs_do(tiny: Tiny) -> None:
    space: Space = {
        "learning_rate": Choice(1e-3, 3e-3),
        "d_ff": Choice(None, 64, 65),  # None is 4 * 16
        "warmup_ratio": Choice(0.0, 0.1),
    }
    runs = [run for trial in plan_of(tiny(), space, seeds=2).known_trials() for run in trial.runs]
    for one in runs:
        for other in runs:
            assert (one.identity == other.identity) == (one.config == other.config)
    assert len(runs) == 24
    assert len({run.identity for run in runs}) == 16


def test_the_same_text_elsewhere_makes_the_same_runs(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny()
    copy = tmp_path / "copy.txt"
    copy.write_bytes(Path(base.data).read_bytes())
    one, other = (
        plan_of(base.replace({"data": str(path)}), {}).known_trials()[0].runs[0] for path in (base.data, copy)
    )
    assert one.identity == other.identity
    copy.write_text(copy.read_text() + "the cat has a dog.\n")
    other = plan_of(base.replace({"data": str(copy)}), {}).known_trials()[0].runs[0]
    assert one.identity != other.identity


def test_the_plans_json_says_what_belongs_to_the_definition(tiny: Tiny) -> None:
    plan = plan_of(tiny(), {"dropout": Choice(0.0, 0.1)}, seeds=2)
    trials = plan.known_trials()
    kept = plan.record(trials).to_json()
    assert [trial["runs"] for trial in kept["trials"]] == [
        {str(run.seed): run.identity for run in trial.runs} for trial in trials
    ]
    assert kept["definition"] == plan.sweep.definition
    assert (kept["num_trials"], kept["seeds"], kept["swept"]) == (2, [0, 1], ["dropout"])
