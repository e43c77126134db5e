"""What is said of a command's cost, held against what is planned and what is there."""

from dataclasses import replace
from typing import Any

import pytest
from synthetic import BASE, choice, lr_warmup_space, make_plan, make_sweep, value_range

from sweeps.analysis.results import Results
from sweeps.answer.advice.cost import cost
from sweeps.answer.advice.next_steps import advise
from sweeps.answer.sentences import answer
from sweeps.plan.record import PlanRecord
from sweeps.spec.command import Command

COMMAND = Command("lr_warmup")
SECONDS = 40.0  # a run


def results(plan: PlanRecord, **options: Any) -> Results:
    trials, history = make_sweep(plan, **options)
    return Results(plan, trials.assign(duration_seconds=SECONDS), history)


def command(flags: str) -> Command:
    words = flags.split()
    return Command("lr_warmup", tuple(zip(words[::2], words[1::2], strict=True)))


def small_grid() -> PlanRecord:
    return make_plan({"learning_rate": choice(1e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.1)}, seeds=[0, 1])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", ""),
        ("--sweep learning_rate=0.0001,0.001,0.003,0.01", "4 new runs of about 40 s each"),
        ("--sweep learning_rate=0.001,0.002", "4 new runs of about 40 s each"),
        ("--sweep learning_rate=1e-4,1e-3", ""),
        ("--sweep warmup_ratio=0,0.1,0.2,0.3 --seeds 3", "24 new runs of about 40 s each"),
        ("--seeds 3", "6 new runs of about 40 s each"),
        ("--set warmup_ratio=0.1", ""),
        ("--set warmup_ratio=0.1 --seeds 3", "3 new runs of about 40 s each"),
        ("--set dropout=0.3", "12 new runs of about 40 s each"),
        ("--set batch_size=4", "12 new runs"),  # how long a token takes there nobody knows
        ("--sweep d_model=256,512", "12 new runs"),  # 256 is the base's
        (f"--set train_tokens={4 * BASE.train_tokens}", "12 new runs of about 3 min each"),
        ("--sweep max_grad_norm=0.5,1", "12 new runs of about 40 s each"),  # 1 is the base's
        ("--confirm 2 --seeds 5", "6 new runs of about 40 s each"),
        ("--confirm 1 --seeds 3", "1 new run of about 40 s"),
        (f"--confirm 2 --at train_tokens={2 * BASE.train_tokens}", "4 new runs of about 80 s each"),
        (f"--confirm 2 --at train_tokens={BASE.train_tokens}", ""),
    ],
)
def test_runs_that_are_there_cost_nothing(flags: str, said: str) -> None:
    assert cost(results(small_grid()), command(flags)) == said


def test_runs_that_are_missing_or_failed_are_still_to_be_paid_for() -> None:
    states = {(0, 0): "MISSING", (1, 1): "FAILED", (2, 0): "DIVERGED"}
    assert cost(results(small_grid(), states=states), COMMAND) == "2 new runs of about 40 s each"


def test_another_range_is_searched_anew() -> None:
    plan = make_plan({"learning_rate": value_range(1e-4, 1e-2, log=True)}, seeds=[0, 1], num_trials=20)
    found = results(plan, states={(3, 0): "MISSING"})
    assert cost(found, COMMAND) == "1 new run of about 40 s"
    assert cost(found, command("--sweep learning_rate=1e-4:3e-2:log")) == "40 new runs of about 40 s each"
    assert cost(found, command("--confirm 4 --seeds 3")) == "4 new runs of about 40 s each"


def test_runs_of_another_size_take_what_like_ones_took() -> None:
    plan = make_plan({"d_model": choice(64, 512)}, seeds=[0])
    trials, history = make_sweep(plan)
    found = Results(plan, trials.assign(duration_seconds=[10.0, 90.0]), history)
    assert cost(found, command("--seeds 2")) == "2 new runs of about 50 s each"
    assert cost(found, command(f"--sweep d_model=64,512 --set train_tokens={2 * BASE.train_tokens}")).startswith(
        "2 new runs of about 2 min"
    )
    assert cost(found, command("--sweep d_model=64,512,1024")) == "1 new run"


def test_tokens_that_are_swept_are_those_of_each_run() -> None:
    plan = make_plan({"train_tokens": choice(BASE.train_tokens, 2 * BASE.train_tokens)}, seeds=[0], matched=False)
    longer = command(f"--sweep train_tokens={BASE.train_tokens},{8 * BASE.train_tokens}")
    assert cost(results(plan), longer) == f"1 new run of about {round(8 * SECONDS / 60)} min"


def test_more_seeds_of_confirmed_settings_are_new() -> None:
    plan = replace(small_grid(), command=command("--confirm 6"), search="points")
    assert cost(results(plan), command("--confirm 6 --seeds 5")) == "18 new runs of about 40 s each"
    halfway = results(plan, states={(0, 1): "MISSING"})
    assert cost(halfway, plan.command) == "1 new run of about 40 s"


def test_what_can_not_be_known_from_here_is_not_said() -> None:
    plan = small_grid()
    for unknown in ({"trainer": "1"}, {"allowed": "0123"}, {"search": "points"}, {"base": {"of": "another version"}}):
        assert cost(results(replace(plan, **unknown)), command("--seeds 3")) == ""
    assert cost(results(plan), Command("lr_warmup", (("--seeds", "3"),), is_call=True)) == ""


def test_what_is_advised_first_comes_with_its_cost() -> None:
    """Of each advice whose command can be run, the cost is that of the grid which the command spans."""
    found = results(make_plan(lr_warmup_space()), effect=lambda s: -1000 * s["learning_rate"])
    first = next(one.command for one in advise(found) if one.command)
    (listed,) = first.values("--sweep")
    rates = listed.removeprefix("learning_rate=").count(",") + 1
    said = f"{(rates - 4) * 4 * 2} new runs of about 40 s each"
    assert answer(found)[-1].endswith(f"; {said}).")
    assert cost(found, first) == said
