"""What is said and advised of the ranges that a search sampled, held against simulated sweeps."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import BASE, NOISE, choice, make_plan, make_sweep, results_of, value_range

from sweeps import Range, Sweep
from sweeps.analysis import best_quarter
from sweeps.analysis.results import Results
from sweeps.answer import sentences
from sweeps.answer.advice import next_steps
from sweeps.search.ask_tell import TrialSearch

SAMPLED = {"learning_rate": value_range(1e-4, 1e-2, log=True), "weight_decay": value_range(0.0, 0.3)}


def sampled(seed, effect, *, space=SAMPLED, num_trials=32, noise=NOISE):
    plan = make_plan(space, num_trials=num_trials, seeds=[0])
    shuffled = np.random.default_rng(seed).permutation(num_trials)
    mixed = [
        replace(trial, setting=trial.setting | {field: plan.trials[k].setting[field] for field in list(space)[1:]})
        for trial, k in zip(plan.trials, shuffled, strict=True)
    ]  # other pairs of values in each sweep
    plan = replace(plan, trials=tuple(mixed))
    return results_of(plan, seed=seed, effect=effect, noise=noise)


def swept(one, field):
    flags = one.command.flags if one.command else ()
    return next((value.partition("=")[2] for _, value in flags if value.startswith(f"{field}=")), None)


def test_a_sampled_range_is_extended_by_a_factor_of_three_or_a_third_of_its_width():
    def rate(seed, planted):
        found = next_steps.advise(sampled(seed, lambda s: 0.5 * math.log10(s["learning_rate"] / planted) ** 2))
        return [one for one in found if "end of what was searched" in one.text]

    beyond = [rate(seed, 0.1) for seed in range(10)]
    assert sum(map(bool, beyond)) >= 8
    assert {swept(one[0], "learning_rate") for one in beyond if one} == {"0.0001:0.03:log"}
    below = [one for seed in range(10) for one in rate(seed, 1e-5)]
    assert {swept(one, "learning_rate") for one in below} == {"3.3e-05:0.01:log"}
    assert not any(rate(seed, 1e-3) for seed in range(10))
    linear = [
        one for seed in range(10) for one in next_steps.advise(sampled(seed, lambda s: -4 * s["weight_decay"]))
        if "end of what was searched" in one.text
    ]  # fmt: skip
    assert len(linear) >= 8
    assert {swept(one, "weight_decay") for one in linear} == {"0:0.4"}


def test_a_sampled_range_is_not_extended_beyond_what_its_field_allows():
    for field, effect, low, high in [
        ("weight_decay", lambda s: 4 * s["weight_decay"], 0.0, 0.3),  # none below 0
        ("dropout", lambda s: -4 * s["dropout"], 0.0, 0.85),  # below 1: not by a third, but by a sixth
    ]:
        space = {"learning_rate": SAMPLED["learning_rate"], field: value_range(low, high)}
        found = [swept(one, field) for seed in range(5) for one in next_steps.advise(sampled(seed, effect, space=space))
                 if "end of what was searched" in one.text]  # fmt: skip
        assert set(found) == ({"0:0.99"} if field == "dropout" else set())


def test_listed_numbers_that_a_search_samples_are_extended_by_one_value():
    space = {"learning_rate": choice(1e-3, 1e-2, 1e-1), "weight_decay": SAMPLED["weight_decay"]}
    found = [one for one in next_steps.advise(sampled(0, lambda s: -math.log10(s["learning_rate"]), space=space))
             if "end of what was searched" in one.text]  # fmt: skip
    assert [swept(one, "learning_rate") for one in found] == ["0.001,0.01,0.1,0.3"]


def test_a_range_is_narrowed_to_where_the_best_quarter_lies_and_never_one_that_does_nothing():
    for seed in range(5):
        results = sampled(seed, lambda s: 0.5 * (math.log10(s["learning_rate"]) + 3) ** 2)
        found = [one for one in next_steps.advise(results) if "narrower" in one.text]
        assert len(found) == 1
        low, high = map(float, swept(found[0], "learning_rate").split(":")[:2])
        assert 1e-4 < low < 1e-3 < high < 1e-2
        best = results.board.head(8)["learning_rate"]
        assert low <= best.min() <= best.max() <= high
        assert swept(found[0], "weight_decay") is None


@pytest.mark.parametrize("sweeps", [pytest.param(60, id="60"), pytest.param(400, id="400", marks=pytest.mark.slow)])
def test_where_nothing_matters_another_range_is_advised_in_at_most_five_percent(sweeps):
    distinguished = [
        any(one.distinguished for one in sampled(seed, lambda _: 0.0).concentrations) for seed in range(sweeps)
    ]
    assert np.mean(distinguished) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)


def test_how_seldom_settings_lie_so_close_together_is_counted_over_all_choices():
    place = np.random.default_rng(0).random(9)
    extents = [np.ptp(place[list(chosen)]) for chosen in itertools.combinations(range(9), 3)]
    expected = np.mean(np.array(extents) <= np.ptp(place[:3]) + 1e-12)
    assert best_quarter._p_of_extent(place, 3) == pytest.approx(expected)


def test_nothing_is_said_of_the_ranges_of_a_few_trials_and_one_seed_confirms_the_best():
    assert sampled(0, lambda s: -s["weight_decay"], num_trials=7).concentrations == []
    found = next_steps.advise(sampled(0, lambda s: -s["weight_decay"]))
    assert any(str(one.command).endswith("--confirm 4 --seeds 3") for one in found)


@pytest.mark.slow
def test_tpe_gathers_its_trials_in_fields_that_do_nothing_too_so_of_it_no_chance_is_spoken():
    """In about a third of sweeps over three fields of which one matters, as docs/report.md says."""
    space = {
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "warmup_ratio": Range(0.0, 0.3),
        "weight_decay": Range(0.0, 0.3),
    }
    idle, sweeps = 0, 40
    for seed in range(sweeps):
        rng = np.random.default_rng(seed)
        sweep = Sweep(base=BASE, space=space, search="tpe", num_trials=40, search_seed=seed)
        search, settings = TrialSearch(sweep), []
        for number in range(40):
            if number >= sweep.concurrency:
                search.tell(number - sweep.concurrency, settings[number - sweep.concurrency]["loss"])
            setting = dict(search.ask())
            loss = 3.6 + 0.5 * (math.log10(setting["learning_rate"]) + 3) ** 2 + rng.normal(0, NOISE)
            settings.append(setting | {"loss": loss})
        plan = make_plan(space, num_trials=40, seeds=[0])
        drawn = zip(plan.trials, settings, strict=True)
        proposed = [replace(trial, setting={name: setting[name] for name in space}) for trial, setting in drawn]
        plan = replace(plan, search="tpe", trials=tuple(proposed))
        trials, history = make_sweep(plan, with_history=False)
        results = Results(plan, trials.assign(objective=[setting["loss"] for setting in settings]), history)
        distinguished = {one.field for one in results.concentrations if one.distinguished}
        idle += bool(distinguished - {"learning_rate"})
        assert "chance" not in " ".join(sentences.answer(results))
    assert 0.15 < idle / sweeps < 0.5
