"""Two sides held against each other: what is claimed where nothing changed, and found where it did."""

import math

import numpy as np
import pandas as pd
import pytest
from synthetic import NOISE, choice, make_plan, make_sweep

from sweeps.analysis import comparison
from sweeps.analysis.results import Results
from sweeps.answer.advice import next_steps


def test_a_change_is_claimed_in_five_percent_where_nothing_changed_and_found_where_it_did():
    rng = np.random.default_rng(8)

    def sides(change):
        index = pd.MultiIndex.from_product([["a", "b", "c", "d"], [0, 1, 2]], names=["setting", "seed"])
        shift = np.tile(rng.normal(0, 1, 3), 4)
        one = pd.DataFrame({"objective": shift + rng.normal(0, NOISE, 12)}, index=index).reset_index()
        other = pd.DataFrame({"objective": shift + rng.normal(0, NOISE, 12) - change}, index=index).reset_index()
        return comparison.hold_together(one.assign(state="COMPLETE"), other.assign(state="COMPLETE"))

    claims = sum(bool((sides(0.0).cells["p_value"] < 0.05).any()) for _ in range(200))
    assert claims <= 0.05 * 200 + 3 * math.sqrt(0.05 * 0.95 * 200)
    found = sides(0.2)
    assert found.overall.high < 0
    assert "below" in comparison.verdict(found, "before", "after")[1]


def test_what_a_seed_does_to_one_side_is_no_change_of_that_side():
    """Another width draws other weights from the same seed, which moves all its settings alike."""
    rng = np.random.default_rng(9)

    def side(num_settings, num_seeds):
        index = pd.MultiIndex.from_product([map(str, range(num_settings)), range(num_seeds)], names=["setting", "seed"])
        shift = np.tile(rng.normal(0, NOISE, num_seeds), num_settings)
        objective = shift + rng.normal(0, NOISE / 2, len(index))
        return pd.DataFrame({"objective": objective, "state": "COMPLETE"}, index=index).reset_index()

    def overall(num_settings, num_seeds):
        return comparison.hold_together(side(num_settings, num_seeds), side(num_settings, num_seeds))

    told = [not found.low <= 0 <= found.high for _ in range(200) for found in [overall(16, 3).overall]]
    assert np.mean(told) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    alone = overall(16, 1)
    assert math.isnan(alone.overall.low)
    assert all("with one seed that can't be tested" in said for said in comparison.verdict(alone, "a", "b"))
    one = overall(1, 3)
    assert (one.overall.low, one.overall.high) == pytest.approx((one.tuned.low, one.tuned.high))
    ragged = side(2, 2).drop(index=[0, 3])  # each setting has a seed of its own
    worse = ragged.assign(objective=ragged["objective"] + 0.1)
    assert (
        "with no seed that all of them share"
        in comparison.verdict(comparison.hold_together(ragged, worse), "a", "b")[1]
    )


def test_a_setting_of_which_only_some_seeds_diverged_spoils_no_other():
    index = pd.MultiIndex.from_product([["calm", "edge"], range(4)], names=["setting", "seed"])
    rng = np.random.default_rng(3)
    before = pd.DataFrame({"objective": 3 + rng.normal(0, 0.002, 8), "state": "COMPLETE"}, index=index).reset_index()
    after = before.assign(objective=before["objective"] - 0.05 + rng.normal(0, 0.002, 8))
    after.loc[5, ["state", "objective"]] = ["DIVERGED", math.log(1000)]
    found = comparison.hold_together(before, after)
    assert found.mixed == ["edge"]
    cells = found.cells.set_index("setting")
    assert cells.loc["calm", "high"] < 0
    assert cells.loc["edge", ["low", "high", "p_value"]].isna().all()
    assert found.overall.high < 0
    first, _, overall = comparison.verdict(found, "before", "after")
    assert "Only some seeds diverged of edge" in first
    assert "Over the one setting without such a one" in overall


def test_a_pair_that_is_clearly_noisier_than_the_rest_stands_on_its_own_noise():
    quiet, loud = np.array([0.1, 0.101, 0.099]), np.array([0.4, -0.3, 0.2])
    assert comparison._noise_of_pair(quiet, 1e-5, 20) == (1e-5, 20)
    assert comparison._noise_of_pair(loud, 1e-5, 20) == (pytest.approx(loud.var(ddof=1)), 2)
    assert comparison._noise_of_pair(loud[:1], 1e-5, 20) == (1e-5, 20)
    assert comparison._noise_of_pair(quiet, math.nan, 0) == (pytest.approx(quiet.var(ddof=1)), 2)

    values = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    plan = make_plan({"learning_rate": choice(*values)}, seeds=[0, 1, 2])
    trials, history = make_sweep(
        plan, with_history=False, noise=0.001, effect=lambda s: -0.1 * math.log10(s["learning_rate"])
    )
    scattered = trials["objective"].where(
        trials["trial"] != 5, trials["objective"] + trials["seed"].map({0: -0.3, 1: 0.28, 2: 0.0}).astype(float)
    )
    found = next_steps.advise(Results(plan, trials.assign(objective=scattered), history))
    edge = next(one for one in found if "3e-2" in one.text or "0.03" in one.text)
    assert "noise may have put it there" in edge.text
