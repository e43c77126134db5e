"""Law 10: which trial is number k depends on the sweep and the values before it; not on timing, not on restarts."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import qmc

from sweeps import Choice, Range, Sweep
from sweeps.search.ask_tell import Setting, TrialSearch, learns
from sweeps.search.importance import importances
from sweeps.search.points import sobol_sequence
from sweeps.spec.searches import COUNTED
from sweeps.spec.settings import grid_settings, is_varied, sampled_settings
from sweeps.spec.space import Space
from tinylm_core import RunConfig

SPACE = {
    "learning_rate": Range(1e-4, 1e-2, 5, log=True),
    "warmup_ratio": Range(0.0, 0.3, 2),
    "d_ff": Range(32, 128, 3, log=True),
    "num_layers": Range(1, 3, 3),
    "max_grad_norm": Choice(None, 0.5, 1.0),
    "bias": Choice(True, False),
}
# num_layers is an integer, so that ends and kinds of all sorts are there
BASE = RunConfig(d_ff=64)
POINTS = tuple(
    {"learning_rate": rate, "warmup_ratio": 0.1, "d_ff": 64, "num_layers": 2, "max_grad_norm": None, "bias": True}
    for rate in (3e-4, 2e-3)
)
SWEEPS = {
    "grid": Sweep(base=BASE, space=SPACE, concurrency=3),
    "random": Sweep(base=BASE, space=SPACE, search="random", num_trials=20, concurrency=3),
    "sobol": Sweep(base=BASE, space=SPACE, search="sobol", num_trials=20, concurrency=3),
    "tpe": Sweep(base=BASE, space=SPACE, search="tpe", num_trials=20, concurrency=4),
    "tpe after points": Sweep(base=BASE, space=SPACE, search="tpe", num_trials=20, concurrency=4, points=POINTS),
    "sobol after points": Sweep(base=BASE, space=SPACE, search="sobol", num_trials=20, points=POINTS),
    "points": Sweep(base=BASE, space=SPACE, search="points", points=POINTS * 10),
    "tpe, one at a time": Sweep(base=BASE, space=SPACE, search="tpe", num_trials=20, concurrency=1),
}


def is_allowed(config: RunConfig) -> bool:
    """About half of the space, and both POINTS."""
    assert config.d_ff is not None
    return config.learning_rate * config.d_ff <= 0.13


CONSTRAINED = {
    f"{name}, constrained": replace(SWEEPS[name], allowed=is_allowed)
    for name in ("grid", "random", "sobol", "tpe", "tpe after points")
}

CONDITIONAL_SPACE: Space = {
    "schedule": Choice("cosine", "wsd", "linear"),
    "learning_rate": Range(1e-4, 1e-2, 2, log=True),
    "decay_ratio": Range(0.05, 0.5, 3, when={"schedule": "wsd"}),
    "min_lr_ratio": Choice(0.0, 0.2, when={"schedule": ("cosine", "linear")}),
    "warmup_ratio": Range(0.0, 0.3, 2),
    "d_ff": Choice(32, 64, when={"schedule": "wsd", "min_lr_ratio": 0.2}),
}
CONDITIONAL_BASE = RunConfig(min_lr_ratio=0.2, decay_ratio=0.6)
CONDITIONAL = {
    f"{name}, conditional": replace(
        SWEEPS[name], base=CONDITIONAL_BASE, space=CONDITIONAL_SPACE, allowed=allowed, num_trials=num_trials
    )
    for name, allowed, num_trials in (
        ("grid", None, None),
        ("random", None, 30),
        ("sobol", None, 30),
        ("tpe", None, 30),
        ("tpe, one at a time", lambda c: c.warmup_ratio + c.decay_ratio < 0.85, 30),
    )
}
CONDITIONAL["tpe after points, conditional"] = replace(
    CONDITIONAL["tpe, conditional"],
    points=[
        {"schedule": "linear", "learning_rate": 1e-3, "min_lr_ratio": 0.0, "warmup_ratio": 0.1},
        {"schedule": "wsd", "learning_rate": 1e-3, "decay_ratio": 0.1, "warmup_ratio": 0.1, "d_ff": 64},
    ],
)
ALL = SWEEPS | CONSTRAINED | CONDITIONAL
sweeps = pytest.mark.parametrize("sweep", ALL.values(), ids=ALL.keys())
Value = Callable[[int, Setting], float | None]


def value(number: int, setting: Setting) -> float:
    """A smooth function with one minimum."""
    rate, warmup = setting["learning_rate"], setting["warmup_ratio"]
    assert isinstance(rate, float)
    assert isinstance(warmup, float)
    return 5 + (math.log10(rate) + 3) ** 2 + (warmup - 0.1) ** 2 + 0.01 * (number % 3)


def proceed(
    search: TrialSearch, sweep: Sweep, settings: list[Setting], until: int, told: int = 0, value: Value = value
) -> list[Setting]:
    """Ask up to trial `until` - 1, having told exactly trials 0 … k - concurrency before trial k."""
    for k in range(len(settings), until):
        while told <= k - sweep.concurrency:
            search.tell(told, value(told, settings[told]))
            told += 1
        settings.append(search.ask())
    return settings


def sequence(sweep: Sweep, until: int = 20, value: Value = value) -> list[Setting]:
    return proceed(TrialSearch(sweep), sweep, [], until, value=value)


def through_json(settings: Iterable[Setting]) -> list[Setting]:
    back: list[Setting] = json.loads(json.dumps(list(settings)))
    return back


@sweeps
def test_every_setting_is_in_the_space(sweep: Sweep) -> None:
    for setting in sequence(sweep):
        assert list(setting) == list(sweep.space)
        for name, dimension in sweep.space.items():
            if not is_varied(dimension, setting):
                assert setting[name] == getattr(sweep.base, name)
            elif isinstance(dimension, Choice):
                dimension.position(setting[name])
            else:
                assert dimension.low <= setting[name] <= dimension.high  # type: ignore[operator]
                assert isinstance(setting[name], int) == dimension.is_integer
        assert sweep.allows(setting)
        sweep.base.replace(setting)


@sweeps
def test_the_sequence_is_the_same_in_every_process(sweep: Sweep) -> None:
    assert sequence(sweep) == sequence(sweep)


@sweeps
def test_the_sequence_is_the_same_after_a_restart_before_any_trial(sweep: Sweep) -> None:
    whole = sequence(sweep)
    for k in range(20):
        search = TrialSearch(sweep)
        known = through_json(whole[:k])
        for setting in known:
            search.adopt(setting)
        assert search.num_asked == k
        assert proceed(search, sweep, known, 20) == whole


@sweeps
def test_the_sequence_is_the_same_after_a_restart_before_every_trial(sweep: Sweep) -> None:
    settings: list[Setting] = []
    for k in range(16):
        search = TrialSearch(sweep)
        for setting in settings:
            search.adopt(setting)
        settings = through_json(proceed(search, sweep, settings, k + 1))
    assert settings == sequence(sweep, 16)


@sweeps
def test_more_trials_keep_the_first_ones(sweep: Sweep) -> None:
    if sweep.search not in COUNTED:
        assert sequence(replace(sweep, num_trials=25), 25)[:20] == sequence(sweep)


@pytest.mark.parametrize("search", ["random", "sobol", "tpe"])
def test_another_search_seed_is_another_sequence(search: str) -> None:
    sweep = SWEEPS[search]
    assert sequence(replace(sweep, search_seed=1)) != sequence(sweep)


def test_a_grids_trial_k_is_its_cell_k() -> None:
    assert sequence(SWEEPS["grid"], 50) == grid_settings(SPACE, BASE)[:50]


def test_a_space_without_fields_has_one_trial() -> None:
    assert sequence(Sweep(base=BASE, space={}), 1) == [{}]
    for search in ("random", "sobol", "tpe"):
        assert sequence(Sweep(base=BASE, space={}, search=search, num_trials=1), 1) == [{}]  # type: ignore[arg-type]


def test_sobols_points_are_one_sequence_and_fill_the_space() -> None:
    space: Any = {"learning_rate": Range(0.0, 1.0), "warmup_ratio": Range(0.0, 1.0), "bias": Choice(True, False)}
    points = list(islice(sobol_sequence(space, 3, BASE), 64))
    at_once = qmc.Sobol(d=3, scramble=True, rng=3).random(512)
    assert [p["learning_rate"] for p in islice(sobol_sequence(space, 3, BASE), 512)] == pytest.approx(
        at_once[:, 0].tolist()
    )
    numeric = [[p["learning_rate"], p["warmup_ratio"]] for p in points]
    assert qmc.discrepancy(numeric) < 0.005  # of random points about 0.02
    assert sum(p["bias"] is True for p in points) == 32


def test_a_constraint_leaves_out_what_it_refuses_and_no_more() -> None:
    """What is allowed comes in the order that it has without the constraint."""
    cells = [cell for cell in grid_settings(SPACE, BASE) if is_allowed(BASE.replace(cell))]
    assert 20 < len(cells) < len(grid_settings(SPACE, BASE))
    assert sequence(CONSTRAINED["grid, constrained"], len(cells)) == cells
    points = [
        point for point in sequence(replace(SWEEPS["sobol"], num_trials=80), 80) if is_allowed(BASE.replace(point))
    ]
    assert len(points) > 20
    assert sequence(CONSTRAINED["sobol, constrained"]) == points[:20]
    for name in ("random", "tpe"):
        before, after = sequence(SWEEPS[name]), sequence(CONSTRAINED[f"{name}, constrained"])
        fine = [is_allowed(BASE.replace(setting)) for setting in before]
        first = fine.index(False)  # from there on TPE has learned other things
        until = 20 if name == "random" else first + 1
        assert [a == b for a, b in zip(before, after, strict=True)][:until] == fine[:until]


@pytest.mark.parametrize("search", ["random", "sobol", "tpe"])
def test_a_constraint_that_leaves_too_little_is_told(search: str) -> None:
    rate = sampled_settings(SPACE, BASE, 1)[0]["learning_rate"]  # one of those that a sweep looks at is let through
    sweep = replace(SWEEPS[search], allowed=lambda config: config.learning_rate == rate)
    with pytest.raises(ValueError, match=rf"refuses 1,000 proposals of search='{search}' in a row for trial 0; narrow"):
        TrialSearch(sweep).ask()


def test_a_constraint_that_refuses_nothing_changes_no_trial() -> None:
    for name in ("grid", "random", "sobol", "tpe"):
        assert sequence(replace(SWEEPS[name], allowed=lambda _: True)) == sequence(SWEEPS[name])


def test_a_grid_has_each_cell_of_a_conditional_space_once() -> None:
    cells = grid_settings(CONDITIONAL_SPACE, CONDITIONAL_BASE)
    # Where the schedule is wsd, min_lr_ratio is the base's 0.2, and so d_ff is varied.
    assert len({json.dumps(cell) for cell in cells}) == len(cells) == 2 * 2 * (2 + 3 * 2 + 2)
    assert sequence(CONDITIONAL["grid, conditional"], 40) == cells


@pytest.mark.parametrize("name", ["random", "sobol", "tpe", "tpe, one at a time"])
def test_where_a_field_is_not_varied_the_search_learns_nothing_of_it(name: str) -> None:
    """What the base says there changes no proposal."""
    sweep = replace(CONDITIONAL[f"{name}, conditional"], allowed=None)
    other = replace(sweep, base=sweep.base.replace({"decay_ratio": 0.1}))
    some, others = sequence(sweep, 30), sequence(other, 30)
    not_varied = [setting["schedule"] != "wsd" for setting in some]
    assert 2 < sum(not_varied) < 28
    for setting, is_base in zip(others, not_varied, strict=True):
        if is_base:
            setting["decay_ratio"] = 0.6
    assert some == others


def test_tpe_learns_of_a_field_where_it_is_varied() -> None:
    sweep = replace(CONDITIONAL["tpe, conditional"], num_trials=80)

    def cost(_: int, setting: Setting) -> float:
        share = setting["decay_ratio"] if setting["schedule"] == "wsd" else 0.3
        assert isinstance(share, float)
        return 3 + share

    last = [setting for setting in sequence(sweep, 80, cost)[40:] if setting["schedule"] == "wsd"]
    assert len(last) > 20  # better than the others where its share is small
    assert sum(float(setting["decay_ratio"]) for setting in last) / len(last) < 0.15  # type: ignore[arg-type]


def test_a_conditional_search_is_the_same_whatever_the_order_of_sets() -> None:
    """Optuna keeps the fields of a group in a set, and Python orders sets of texts anew in every process."""
    program = "import json; from test_search import *\nprint(json.dumps(sequence(CONDITIONAL['tpe, conditional'], 24)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "1"}, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert json.loads(done.stdout) == sequence(CONDITIONAL["tpe, conditional"], 24)


def test_random_trials_differ_and_do_not_learn() -> None:
    settings = sequence(SWEEPS["random"])
    assert len({json.dumps(setting) for setting in settings}) == 20
    assert sequence(SWEEPS["random"], value=lambda number, _: float(number)) == settings


def test_tpe_learns() -> None:
    assert learns(SWEEPS["tpe"])
    assert not any(learns(SWEEPS[search]) for search in ("grid", "random", "sobol"))
    settings = sequence(SWEEPS["tpe"], 60)
    first, last = (sum(value(0, s) for s in some) / 20 for some in (settings[:20], settings[40:]))
    assert last < first
    assert sequence(SWEEPS["tpe"], 60, lambda number, s: -value(number, s)) != settings


def test_tpe_depends_on_how_many_are_in_flight() -> None:
    assert sequence(SWEEPS["tpe"]) != sequence(SWEEPS["tpe, one at a time"])


def test_values_that_may_not_be_known_yet_change_nothing() -> None:
    """Before trial k exactly trials 0 … k - concurrency count: what the others say later is for later asks."""
    sweep = SWEEPS["tpe"]
    for k in range(4, 16):
        settings = sequence(sweep, k + 1, lambda n, s, k=k: value(n, s) if n <= k - 4 else 99.0)
        assert settings[k] == sequence(sweep, k + 1)[k]


@pytest.mark.parametrize("name", ["tpe", "tpe, one at a time", "random", "sobol"])
def test_a_trial_that_failed_has_no_value_and_the_search_goes_on(name: str) -> None:
    sweep = SWEEPS[name]

    def sometimes(number: int, setting: Setting) -> float | None:
        return None if number % 4 == 1 else value(number, setting)

    whole = sequence(sweep, value=sometimes)
    assert len(whole) == 20
    search = TrialSearch(sweep)
    for setting in whole[:13]:
        search.adopt(setting)
    assert proceed(search, sweep, whole[:13], 20, value=sometimes) == whole


def test_a_trial_proposed_twice_is_told_twice() -> None:
    space = {"bias": Choice(True, False)}
    sweep = Sweep(base=BASE, space=space, search="tpe", num_trials=12, concurrency=2)
    settings = sequence(sweep, 12, lambda _, setting: 1.0 if setting["bias"] else 2.0)
    assert len({setting["bias"] for setting in settings}) < len(settings)
    assert settings == sequence(sweep, 12, lambda _, setting: 1.0 if setting["bias"] else 2.0)


def test_worst_values_are_results() -> None:
    sweep = SWEEPS["tpe"]
    assert len(sequence(sweep, value=lambda number, _: math.log(1000) if number % 2 else 3.0)) == 20


def test_hundreds_of_trials_are_asked() -> None:
    sweep = replace(SWEEPS["tpe"], num_trials=310)
    search = TrialSearch(sweep)
    settings = sequence(replace(sweep, search="random"), 300)
    for setting in settings:
        search.adopt(setting)
    assert len(proceed(search, sweep, settings, 303)) == 303


def test_optunas_importance_finds_the_field_that_matters() -> None:
    sweep = SWEEPS["random"]
    settings = sequence(sweep, 20)
    found = importances(sweep.space, settings, [math.log10(float(setting["learning_rate"])) for setting in settings])  # type: ignore[arg-type]
    assert found.keys() == sweep.space.keys()
    assert max(found, key=lambda name: found[name]) == "learning_rate"
    assert sum(found.values()) == pytest.approx(1)
    assert importances(sweep.space, settings, [1.0] * 20) == {}
