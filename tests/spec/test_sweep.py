"""A sweep refuses what can't be swept, and its definition is the digest of what makes its trials (DESIGN, Words)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sweeps import Choice, Range, Sweep
from tinylm_core import RunConfig

SPACE = {"learning_rate": Range(1e-4, 1e-2, 3, log=True), "warmup_ratio": Choice(0.0, 0.1)}
RANDOM = Sweep(base=RunConfig(), space=SPACE, search="random", num_trials=5)
BY_TOKENS = {"num_trials": None, "total_tokens": 9_999_999}
GRID = Sweep(base=RunConfig(), space=SPACE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "evolution"}, "search='evolution' is not one of grid, random, sobol, tpe"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"concurrency": 0}, "concurrency=0 must be at least 1"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"search_seed": -1}, "search_seed=-1 must be at least 0"),
        ({"objective": "accuracy"}, "objective='accuracy' is not val_loss"),
        ({"num_trials": None}, "num_trials=None: search='random' needs a number"),
        ({"num_trials": 0}, "num_trials=0: search='random' needs a number, at least 1"),
        ({"search": "grid"}, "num_trials=5: a grid has as many trials as cells"),
        (
            {"total_tokens": 10**9},
            "total_tokens=1000000000 and num_trials=5: one says how many trials; leave the other",
        ),
        ({**BY_TOKENS, "search": "grid"}, "total_tokens=9999999: a grid has as many trials as cells; leave it out"),
        ({"num_trials": None, "total_tokens": 1e9}, "total_tokens=1000000000.0 must be a whole number of tokens"),
        (
            {**BY_TOKENS, "space": {"train_tokens": Choice(1, 2)}},
            "total_tokens=9999999: with train_tokens swept, trials",
        ),
        ({"space": {"seed": Choice(0, 1)}}, "seed is not swept; seeds=N"),
        ({"space": {"learning_rat": Choice(1e-3)}}, "unknown field in the space 'learning_rat'; did you mean learning"),
        ({"space": {"learning_rate": [1e-3]}}, r"learning_rate=\[0.001\] must be Choice"),
        ({"space": {"batch_size": Range(1, 8)}}, r"batch_size decides the tokens per step, so it takes Choice"),
        ({"space": {"num_evals": Range(1, 8)}}, r"num_evals decides"),
        ({"space": {"bias": Range(0, 1)}}, r"bias is no number, so it takes Choice"),
        ({"space": {"schedule": Range(1, 8)}}, r"schedule is no number, so it takes Choice"),
        ({"space": {"learning_rate": Choice(1e-3, -1.0)}}, r"space: learning_rate=-1.0: .*greater than 0"),
        ({"space": {"warmup_ratio": Range(0.0, 1.0)}}, r"space: warmup_ratio=1.0: .*less than 1"),
        ({"space": {"dropout": Choice("much")}}, r"space: dropout='much': .*number"),
        ({"space": {"num_layers": Range(1.0, 4.0)}}, r"space: num_layers=2\.8.*integer"),
        ({"search": "grid", "num_trials": None, "space": {"learning_rate": Range(1e-4, 1e-2)}}, "needs points"),
    ],
)
def test_what_can_not_be_swept_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(RANDOM, **changes)
    assert "\n" not in str(error.value)


def test_values_that_only_fit_together_are_no_mistake_alone() -> None:
    Sweep(base=RunConfig(d_model=64), space={"d_model": Choice(48, 66), "num_heads": Choice(3, 6)})


def test_a_field_whose_default_is_none_takes_a_range() -> None:
    Sweep(base=RunConfig(), space={"d_ff": Range(32, 64)}, search="random", num_trials=1)


def test_each_trial_trains_with_the_seeds_from_the_bases_on() -> None:
    assert replace(GRID, base=RunConfig(seed=7), seeds=3).seed_values == (7, 8, 9)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, base=s.base.replace({"d_model": 64})),
        lambda s: replace(s, base=s.base.replace({"seed": 1})),
        lambda s: replace(s, base=s.base.replace({"data": "elsewhere.txt"})),
        lambda s: replace(s, space=s.space | {"weight_decay": Choice(0.1)}),
        lambda s: replace(s, space=s.space | {"warmup_ratio": Choice(0.0, 0.2)}),
        lambda s: replace(s, space=dict(reversed(s.space.items()))),
        lambda s: replace(s, search="tpe"),
        lambda s: replace(s, search_seed=1),
        lambda s: replace(s, concurrency=2),
        lambda s: replace(s, seeds=2),
    ],
    ids=["base", "seed", "data", "a field more", "other values", "order", "search", "search_seed", "concurrency", "n"],
)
def test_the_definition_depends_on_what_makes_the_trials(change: Callable[[Sweep], Sweep]) -> None:
    assert change(RANDOM).definition != RANDOM.definition


@pytest.mark.parametrize("changes", [{"num_trials": 50}, {"log_every": 10}, BY_TOKENS])
def test_the_definition_does_not_depend_on_how_many_trials_nor_on_what_is_logged(changes: dict[str, Any]) -> None:
    assert replace(RANDOM, **changes).definition == RANDOM.definition


def test_the_definition_tells_types_apart() -> None:
    definitions = {
        replace(RANDOM, space={"weight_decay": values}).definition for values in (Choice(1), Choice(1.0), Range(1, 2))
    }
    assert len(definitions) == 3


def test_the_definition_is_the_same_in_every_process() -> None:
    assert GRID.definition == Sweep(base=RunConfig(), space=dict(SPACE)).definition
    assert len(GRID.definition) == 12


def test_a_set_field_is_pinned() -> None:
    pinned = GRID.override(settings={"warmup_ratio": "0.2"})
    assert list(pinned.space) == ["learning_rate"]
    assert pinned.base.warmup_ratio == 0.2
    assert pinned.definition != GRID.definition


def test_a_swept_field_is_added_or_replaced() -> None:
    changed = GRID.override(dimensions={"warmup_ratio": Choice(0.3), "dropout": Choice(0.0, 0.1)})
    assert list(changed.space) == ["learning_rate", "warmup_ratio", "dropout"]
    assert changed.space["warmup_ratio"] == Choice(0.3)


def test_another_search_takes_its_number_of_trials() -> None:
    assert GRID.override(search="tpe", num_trials=3).num_trials == 3
    assert RANDOM.override(search="grid").num_trials is None
    assert RANDOM.override(num_trials=9).num_trials == 9
    with pytest.raises(ValueError, match="needs a number"):
        GRID.override(search="tpe")
    with pytest.raises(ValueError, match="num_trials=3: a grid"):
        GRID.override(num_trials=3)


def test_tokens_pay_for_as_many_trials_as_fit() -> None:
    sweep = replace(RANDOM, **BY_TOKENS)
    assert sweep.num_proposed == 9
    assert replace(sweep, seeds=2).num_proposed == sweep.override(seeds=2).num_proposed == 4
    assert sweep.override(settings={"train_tokens": 3_000_000}).num_proposed == 3
    assert sweep.override(search="tpe").num_proposed == 9
    assert sweep.override(num_trials=7).num_proposed == 7
    assert sweep.override(search="grid") == GRID.override()


def test_an_override_leaves_the_rest() -> None:
    assert GRID.override() == GRID
    assert GRID.override(seeds=3) == replace(GRID, seeds=3)


def test_a_whole_range_on_a_field_of_real_numbers_is_continuous() -> None:
    sweep = Sweep(base=RunConfig(), space={"weight_decay": Range(0, 1, points=5)})
    assert sweep.space["weight_decay"].grid() == (0.0, 0.25, 0.5, 0.75, 1.0)


# --- Constraints


def is_gentle(config: RunConfig) -> bool:
    return config.learning_rate <= 1e-3 or config.warmup_ratio > 0


def is_gentle_in_other_words(config: RunConfig) -> bool:
    # Written otherwise, it does the same.
    if config.warmup_ratio == 0:
        return not config.learning_rate > 0.001
    return True


@pytest.mark.parametrize(
    ("sweep", "changes", "message"),
    [
        (GRID, {"allowed": lambda _: False}, "allowed: refuses every cell of the grid; narrow"),
        (RANDOM, {"allowed": lambda _: False}, "allowed: refuses each of 1,000 settings of the space; narrow"),
        (GRID, {"allowed": lambda c: c.d_ff > 2}, r"^allowed: TypeError: .*\(setting learning_rate=0.0001, warmup_rat"),
        (RANDOM, {"allowed": lambda c: c.rate}, r"^allowed: AttributeError: .*rate.* \(setting learning_rate="),
        (
            GRID,
            {"allowed": lambda _: None},
            r"^allowed: gave None, and must give True or False \(setting learning_rate=0.0001",
        ),
        (GRID, {"allowed": lambda c: c.num_layers}, "^allowed: gave 4, and must give"),
        (GRID, {"allowed": 3}, "allowed=3 is no function"),
        (
            RANDOM,
            {"allowed": is_gentle, "points": [{"learning_rate": 1e-2, "warmup_ratio": 0.0}]},
            "points: allowed refuses learning_rate=0.01, warmup_ratio=0.0",
        ),
    ],
)
def test_a_constraint_that_can_not_be_used_is_told_in_one_line(
    sweep: Sweep, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace(sweep, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sweep", [GRID, RANDOM, replace(RANDOM, search="tpe"), replace(RANDOM, search="sobol")])
def test_the_definition_depends_on_what_a_constraint_does_and_not_on_how_it_is_written(sweep: Sweep) -> None:
    gentle = replace(sweep, allowed=is_gentle)
    assert gentle.definition == replace(sweep, allowed=is_gentle_in_other_words).definition != sweep.definition
    assert gentle.definition != replace(sweep, allowed=lambda c: c.learning_rate < 2e-3).definition


def test_a_definition_stays_what_it_is() -> None:
    """Whoever changes one of these, as a new field of RunConfig does, lets all sweeps begin their trials anew."""
    assert GRID.definition == "29296741b5f3"
    assert RANDOM.definition == "1cd5def5ae04"
    assert replace(GRID, allowed=is_gentle).definition == "515e85747797"
    assert replace(RANDOM, allowed=is_gentle).definition == "70ba48dad367"


def test_a_constraint_sees_the_whole_config_and_stays_when_the_sweep_is_changed() -> None:
    seen: list[RunConfig] = []

    def remember(config: RunConfig) -> bool:
        seen.append(config)
        return is_gentle(config)

    sweep = replace(GRID, base=RunConfig(d_model=64), allowed=remember)
    assert {(c.d_model, c.learning_rate, c.warmup_ratio) for c in seen} == {
        (64, rate, warmup) for rate in (1e-4, 1e-3, 1e-2) for warmup in (0.0, 0.1)
    }
    changed = sweep.override(settings={"warmup_ratio": 0.0}, dimensions={"dropout": Choice(0.0, 0.5)})
    assert [changed.allows({"learning_rate": rate, "dropout": 0.0}) for rate in (1e-3, 1e-2)] == [True, False]
    with pytest.raises(ValueError, match="refuses every cell"):
        sweep.override(settings={"learning_rate": 1e-2}, dimensions={"warmup_ratio": Choice(0.0)})


def test_a_constraint_may_leave_out_values_that_do_not_fit_together() -> None:
    space = {"d_model": Choice(48, 64), "num_heads": Choice(3, 4)}
    sweep = Sweep(base=RunConfig(), space=space, allowed=lambda c: c.d_model % c.num_heads == 0)
    assert not sweep.allows({"d_model": 64, "num_heads": 3})
    assert sweep.allows({"d_model": 48, "num_heads": 3})


# --- Conditions

WSD = {"schedule": "wsd"}
SCHEDULES = {
    "schedule": Choice("cosine", "wsd"),
    "decay_ratio": Choice(0.1, 0.3, when=WSD),
    "learning_rate": Choice(1e-3, 3e-3),
}
CONDITIONAL = Sweep(base=RunConfig(), space=SCHEDULES)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"decay_ratio": Choice(0.1, when=WSD)},
            "decay_ratio is varied under a condition on schedule, which must be s",
        ),
        ({"decay_ratio": Choice(0.1, when=WSD), "schedule": Choice("wsd")}, "which must be swept before it, by Choice"),
        (
            {"dropout": Range(0.0, 0.3, 2), "bias": Choice(True, when={"dropout": 0.3})},
            "bias is varied under a condition on dropout, which must be swept before it, by Choice",
        ),
        ({"bias": Choice(True, when={"bias": True})}, "which must be swept before it"),
        (
            {"schedule": Choice("cosine", "wsd"), "decay_ratio": Choice(0.1, when={"schedule": ("wsd", "linear")})},
            "decay_ratio is varied when schedule='linear', which Choice.* doesn't hold",
        ),
    ],
)
def test_a_condition_that_can_not_hold_is_told_in_one_line(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Sweep(base=RunConfig(), space=space)
    assert "\n" not in str(error.value)


def test_a_condition_is_part_of_the_definition() -> None:
    without = replace(CONDITIONAL, space=SCHEDULES | {"decay_ratio": Choice(0.1, 0.3)})
    other = replace(CONDITIONAL, space=SCHEDULES | {"decay_ratio": Choice(0.1, 0.3, when={"schedule": "cosine"})})
    assert len({sweep.definition for sweep in (CONDITIONAL, without, other)}) == 3


def test_a_point_may_leave_out_what_is_not_varied_in_it() -> None:
    points = [
        {"schedule": "cosine", "learning_rate": 1e-3},
        {"schedule": "wsd", "decay_ratio": 0.3, "learning_rate": 1e-3},
    ]
    sweep = replace(CONDITIONAL, search="points", points=points)
    assert sweep.points == (
        {"schedule": "cosine", "decay_ratio": 0.2, "learning_rate": 1e-3},
        {"schedule": "wsd", "decay_ratio": 0.3, "learning_rate": 1e-3},
    )
    assert replace(sweep).definition == sweep.definition
    for point, message in [
        ({"schedule": "wsd", "learning_rate": 1e-3}, "must give each of schedule, decay_ratio, learning_rate a value"),
        (
            {"schedule": "cosine", "decay_ratio": 0.3, "learning_rate": 1e-3},
            "decay_ratio=0.3 is not varied in .*; leave",
        ),
        ({"schedule": "wsd", "decay_ratio": 0.2, "learning_rate": 1e-3}, "decay_ratio=0.2 is not in Choice"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(CONDITIONAL, search="points", points=[point])


def test_an_override_keeps_a_condition_or_decides_it() -> None:
    changed = CONDITIONAL.override(dimensions={"decay_ratio": Range(0.1, 0.4, 4)})
    assert changed.space["decay_ratio"] == Range(0.1, 0.4, 4, when=WSD)
    assert list(changed.space) == list(SCHEDULES)
    assert CONDITIONAL.override(settings={"schedule": "wsd"}).space == {
        "decay_ratio": Choice(0.1, 0.3),
        "learning_rate": Choice(1e-3, 3e-3),
    }
    assert list(CONDITIONAL.override(settings={"schedule": "linear"}).space) == ["learning_rate"]
    with pytest.raises(ValueError, match="decay_ratio is varied when schedule='wsd', which"):
        CONDITIONAL.override(dimensions={"schedule": Choice("cosine", "linear")})
