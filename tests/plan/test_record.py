"""The record of a plan comes back as it was written, and of earlier versions as what it was."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.plan.record import NEEDED, PlanRecord, TrialRecord, plan_from_json, trial_from_json
from sweeps.spec.command import Command
from sweeps.spec.searches import SEARCHES
from sweeps.spec.space import Choice, Range, Space, Value

ONE = TrialRecord(0, {"learning_rate": 1e-3}, "lr=1e-3", {0: "aa", 1: "bb"}, 128, 1024)
PLAN = PlanRecord(
    name="question",
    definition="0123456789abcdef",
    question="Does it?",
    command=Command("question", (("--set", "dropout=0.1"), ("--seeds", "2"))),
    search="grid",
    space={"learning_rate": Choice(1e-3, 3e-3)},
    base={"learning_rate": 1e-3, "dropout": 0.1},
    seeds=(0, 1),
    num_trials=2,
    matched=True,
    trials=(ONE,),
    file="question.py",
    keep_checkpoints=3,
    numerics_version=1,
    created_ms=1_750_000_000_000,
)
FIELDS = ("learning_rate", "schedule", "decay_ratio", "max_grad_norm")

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
lists = st.lists(values, min_size=1, max_size=4, unique_by=lambda value: (type(value), value)).map(tuple)
ends = st.lists(st.integers(1, 10**6) | st.floats(1e-6, 1e6), min_size=2, max_size=2, unique=True).map(sorted)
json_values = st.recursive(values, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner))
commands = st.builds(Command, st.text(), st.lists(st.tuples(st.text(), st.text())).map(tuple), st.booleans())


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Choices and ranges, some of them under a condition on a field before."""
    space: Space = {}
    for field in draw(st.lists(st.sampled_from(FIELDS), unique=True)):
        choices = [name for name, dimension in space.items() if isinstance(dimension, Choice)]
        when = {choices[0]: draw(lists)} if choices and draw(st.booleans()) else {}
        if draw(st.booleans()):
            space[field] = Choice(*draw(lists), when=when)
        else:
            low, high = draw(ends)
            space[field] = Range(low, high, draw(st.none() | st.integers(2, 9)), draw(st.booleans()), when)
    return space


trials = st.builds(
    TrialRecord,
    number=st.integers(0, 999),
    setting=st.dictionaries(st.sampled_from(FIELDS), values),
    label=st.text(),
    runs=st.dictionaries(st.integers(), st.text()),
    num_steps=st.none() | st.integers(0),
    tokens_per_step=st.none() | st.integers(0),
)
plans = st.builds(
    PlanRecord,
    name=st.text(),
    definition=st.text(),
    question=st.text(),
    command=commands,
    search=st.sampled_from(SEARCHES),
    space=spaces(),
    base=st.dictionaries(st.text(), json_values),
    seeds=st.lists(st.integers()).map(tuple),
    num_trials=st.integers(0),
    matched=st.booleans(),
    trials=st.lists(trials, max_size=3).map(tuple),
    file=st.text(),
    search_seed=st.integers(),
    concurrency=st.integers(1),
    trainer=st.none() | st.integers() | st.text(),
    allowed=st.none() | st.text(min_size=1),
    keep_checkpoints=st.just("all") | st.integers(0),
    numerics_version=st.none() | st.integers(),
    created_ms=st.none() | st.integers(0),
)


def written(content: object) -> Any:
    """As a file gives it back."""
    return json.loads(json.dumps(content))


def typed(listed: list[Value]) -> list[tuple[type, Value]]:
    return [(type(value), value) for value in listed]


@given(plans)
def test_a_plan_comes_back_as_it_was_written(plan: PlanRecord) -> None:
    again = plan_from_json(written(plan.to_json()))
    assert again == plan
    assert again.swept == plan.swept
    for mine, its in zip(plan.trials, again.trials, strict=True):
        assert typed([*mine.setting.values()]) == typed([*its.setting.values()])
    for one, other in zip(plan.space.values(), again.space.values(), strict=True):
        assert repr(one) == repr(other)
        assert {name: typed([*held]) for name, held in one.when.items()} == {
            name: typed([*held]) for name, held in other.when.items()
        }


def test_one_and_one_point_zero_and_true_stay_three_values() -> None:
    three: list[Value] = [1, 1.0, True]
    trial = TrialRecord(0, dict(zip("abc", three, strict=True)), "", {})
    assert typed([*trial_from_json(written(trial.to_json())).setting.values()]) == typed(three)
    again = plan_from_json(written(replace(PLAN, space={"a": Choice(*three)}).to_json()))
    assert typed([*again.space["a"].grid()]) == typed(three)


def test_what_repeats_is_counted_and_never_written() -> None:
    assert plan_from_json(written(replace(PLAN, num_repeated=2).to_json())) == PLAN


@pytest.mark.parametrize("command", [PLAN.command, Command("question"), Command("question", is_call=True)])
def test_a_plan_of_an_earlier_version_is_read_as_what_it_was(command: Command) -> None:
    content = replace(PLAN, command=command).to_json() | {"command": str(command)}
    for key in ("created_ms", "keep_checkpoints", "num_trials", "trainer", "numerics_version"):
        del content[key]
    for trial in content["trials"]:
        del trial["num_steps"], trial["tokens_per_step"]
    assert plan_from_json(written(content)) == replace(
        PLAN,
        command=command,
        created_ms=None,
        keep_checkpoints="all",
        numerics_version=None,
        num_trials=1,
        trials=(replace(ONE, num_steps=None, tokens_per_step=None),),
    )


@pytest.mark.parametrize("key", NEEDED)
def test_a_plan_that_lacks_what_is_needed_says_what(key: str) -> None:
    content = PLAN.to_json()
    del content[key]
    with pytest.raises(ValueError, match=f"lacks {key}: another version wrote it"):
        plan_from_json(content)


@pytest.mark.parametrize("content", [None, [], "plan", 1])
def test_what_is_no_plan_is_said_to_be_none(content: object) -> None:
    with pytest.raises(ValueError, match="is no plan"):
        plan_from_json(content)


@pytest.mark.parametrize(
    "damage",
    [
        {"command": "python -m sweeps.run"},
        {"command": None},
        {"search": "exhaustive"},
        {"space": {"learning_rate": {"kind": "range", "low": 2, "high": 1, "points": None, "log": False}}},
        {"trials": [{"trial": 0}]},
        {"seeds": None},
        {"base": 5},
    ],
)
def test_a_damaged_plan_is_said_to_be_one(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is damaged"):
        plan_from_json(PLAN.to_json() | damage)


@given(st.dictionaries(st.sampled_from([*PLAN.to_json()]), json_values, min_size=1))
def test_whatever_stands_in_a_plan_it_is_read_or_refused_in_a_line(damage: dict[str, Any]) -> None:
    said = ""
    try:
        plan_from_json(written(PLAN.to_json() | damage))
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
