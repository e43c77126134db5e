"""What the report claims, held against simulated sweeps with known truth and against statsmodels."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from synthetic import NOISE, choice, lr_effect, lr_warmup_space, make_plan, make_sweep, results_of, value_range

from sweeps.analysis import decomposition, distributions, noise, ranking, rates, settings
from sweeps.analysis.results import Results
from sweeps.answer import sentences

# --- Claims


def test_sweeps_without_an_effect_claim_a_difference_in_at_most_five_percent():
    """16 settings and 3 seeds; three binomial deviations above 5 % allowed.

    The whole path from rows to leaderboard takes 20 ms, its test 1 ms: that they say the same is seen in the first 60.
    """
    plan = make_plan(lr_warmup_space(), seeds=[0, 1, 2])
    trials, history = make_sweep(plan, with_history=False)
    rng, claims, sweeps = np.random.default_rng(14), 0, 2000
    for number in range(sweeps):
        by_seed = trials["seed"].map(dict(enumerate(rng.normal(0, NOISE, 3)))).astype(float)
        drawn = 3.6 + by_seed.to_numpy() + rng.normal(0, NOISE, len(trials))
        objective = drawn.reshape(-1, 3)  # rows are a trial's seeds, trial after trial
        objective = objective[objective.mean(1).argsort()]
        p_values = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
        claims += bool((p_values < noise.SIGNIFICANCE).any())
        if number < 60:
            board = Results(plan, trials.assign(objective=drawn), history).board
            np.testing.assert_array_equal(board["p_value"], p_values)
            np.testing.assert_array_equal(~board["tied_with_best"].astype(bool), p_values < noise.SIGNIFICANCE)
    assert claims <= 0.05 * sweeps + 3 * math.sqrt(0.05 * 0.95 * sweeps)


@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
def test_a_planted_effect_is_found_with_the_power_of_the_t_test(size):
    """Two settings that differ by so many noise deviations, 5 seeds: the noncentral t distribution says how often."""
    rng, sweeps, seeds = np.random.default_rng(11), 1500, 5
    found = 0
    for _ in range(sweeps):
        objective = rng.normal(size=(2, seeds)) + rng.normal(size=(1, seeds))
        objective[1] += size
        found += bool(
            ranking.p_values_against_first(objective, noise.noise_by_setting(objective))[1] < noise.SIGNIFICANCE
        )
    critical = scipy_stats.t.isf(noise.SIGNIFICANCE / 2, seeds - 1)
    effect = size / math.sqrt(2 / seeds)
    power = scipy_stats.nct.sf(critical, seeds - 1, effect) + scipy_stats.nct.cdf(-critical, seeds - 1, effect)
    assert found / sweeps == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / sweeps) + 1e-9)


def test_so_many_seeds_as_it_says_tell_two_settings_apart_in_four_of_five_sweeps():
    rng = np.random.default_rng(12)
    seeds = ranking.seeds_to_tell(1.5, 1.0)
    assert seeds is not None
    found = 0
    for _ in range(1000):
        objective = rng.normal(size=(2, seeds))
        objective[1] += 1.5
        found += bool(
            ranking.p_values_against_first(objective, noise.noise_by_setting(objective))[1] < noise.SIGNIFICANCE
        )
    assert 0.77 < found / 1000 < 0.9
    assert ranking.seeds_to_tell(0.01, 1.0) is None


def test_a_setting_that_fails_with_some_seeds_hides_nothing_of_the_others():
    """As post-norm without warmup does; with and without it the quiet settings are told apart alike."""
    rng, found, claims, sweeps = np.random.default_rng(15), 0, 0, 200
    for _ in range(sweeps):
        quiet = rng.normal(0, 0.01, (8, 3)) + rng.normal(0, 0.02, (1, 3)) + 4
        quiet[0] -= 0.2
        failing = np.array([[3.95, 5.95, 5.94], [5.95, 3.9, 5.96]]) + rng.normal(0, 0.01, (2, 3))
        objective = np.vstack([quiet, failing])
        assert noise.noisy(objective)[-2:].all()
        p = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
        found += bool((p[1:8] < noise.SIGNIFICANCE).all())
        equal = np.vstack([quiet[1:], failing])
        equal = equal[equal.mean(1).argsort()]
        claims += bool(
            (ranking.p_values_against_first(equal, noise.noise_by_setting(equal))[1:7] < noise.SIGNIFICANCE).any()
        )
    assert found / sweeps > 0.8  # now and then a pair looks noisier than the rest, and stands on its own three seeds
    assert claims <= 0.05 * sweeps + 3 * math.sqrt(0.05 * 0.95 * sweeps)


def test_noise_that_differs_between_values_is_told_and_where_it_does_not_in_at_most_five_percent():
    """36 settings and 2 seeds: one level of noise; a setting that fails with a seed; four times as much at a value."""
    space = {"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3), "gradient_accumulation_steps": choice(1, 2, 4)}
    plan = make_plan(space | {"warmup_ratio": choice(0.0, 0.1, 0.2)}, seeds=[0, 1])
    trials, history = make_sweep(plan, with_history=False)
    runs = settings.planned_runs(plan, trials)
    rng, false, found, sweeps = np.random.default_rng(16), [0, 0], [], 100
    loud = 4.0 ** (runs["gradient_accumulation_steps"] == 4).to_numpy(dtype=float)
    fails = 50.0 ** (runs["trial"] == 0).to_numpy(dtype=float)
    for _ in range(sweeps):
        by_seed = runs["seed"].map(dict(enumerate(rng.normal(0, NOISE, 2)))).to_numpy(dtype=float)
        noises = rng.normal(0, NOISE, len(runs))
        for i, scale in enumerate([1.0, fails]):
            false[i] += noise.uneven(plan, runs.assign(objective=3.6 + by_seed + noises * scale)) is not None
        found.append(noise.uneven(plan, runs.assign(objective=3.6 + by_seed + noises * loud)))
    assert max(false) <= 0.05 * sweeps + 3 * math.sqrt(0.05 * 0.95 * sweeps)
    told = [one for one in found if one is not None and (one.field, one.value) == ("gradient_accumulation_steps", "4")]
    assert len(told) > 0.8 * sweeps
    assert np.median([one.ratio for one in told]) == pytest.approx(4, rel=0.3)
    answer = " ".join(sentences.answer(Results(plan, trials.assign(objective=3.6 + noises * loud), history)))
    assert "times as much at gradient_accumulation_steps 4 as elsewhere, which the tests allow for in part" in answer


def test_noise_that_rises_with_a_rate_leads_to_few_claims_where_nothing_differs():
    """Tenfold from the first rate to the last of six, six settings each, 3 seeds: half of such sweeps with one noise
    for all, some 15 % with each setting's."""
    rng, claims, sweeps = np.random.default_rng(18), 0, 300
    rising = np.repeat(np.geomspace(1, 10, 6), 6)[:, None]
    for _ in range(sweeps):
        objective = rising * rng.normal(size=(36, 3)) + 2 * rng.normal(size=(1, 3))
        objective = objective[objective.mean(1).argsort()]
        p_values = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
        claims += bool((p_values < noise.SIGNIFICANCE).any())
    assert claims < 0.22 * sweeps


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.49), (3, 0.23), (5, 0.05)])
@pytest.mark.parametrize("num_settings", [8, 16, 36, 100])
def test_where_a_quarter_is_eight_times_as_noisy_so_many_sweeps_claim_what_is_not_there(num_settings, seeds, most):
    """As `docs/report.md` says; three binomial deviations above allowed."""
    rng, claims, sweeps = np.random.default_rng(5), 0, 200
    deviation = np.where(np.arange(num_settings) < num_settings / 4, 8.0, 1.0)[:, None]
    for _ in range(sweeps):
        objective = deviation * rng.normal(size=(num_settings, seeds)) + 2 * rng.normal(size=(1, seeds))
        objective = objective[objective.mean(1).argsort()]
        p_values = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
        claims += bool((p_values < noise.SIGNIFICANCE).any())
    assert claims <= most * sweeps + 3 * math.sqrt(most * (1 - most) * sweeps)


@pytest.mark.parametrize("degrees", [1, 2, 4])
def test_the_prior_of_variances_is_that_which_they_were_drawn_from(degrees):
    """A variance 0.5 that is itself drawn, with 5 degrees of freedom, or is the same each time."""
    rng = np.random.default_rng(17)
    drawn = 0.5 * 5 / rng.chisquare(5, 200_000)
    variance, its_degrees = noise.prior_of(drawn * rng.chisquare(degrees, 200_000) / degrees, degrees)
    assert variance == pytest.approx(0.5, rel=0.1)
    assert its_degrees == pytest.approx(5, rel=0.15)
    variance, its_degrees = noise.prior_of(0.5 * rng.chisquare(degrees, 200_000) / degrees, degrees)
    assert variance == pytest.approx(0.5, rel=0.05)
    assert its_degrees > 40


def test_settings_that_are_as_noisy_as_one_another_share_their_noise_and_another_has_more_of_its_own():
    """Of two halves, one ten times as noisy, each setting's noise is near its own half's; a wild one has its own."""
    rng = np.random.default_rng(19)
    deviation = np.where(np.arange(60) < 30, 1.0, 10.0)
    objective = deviation[:, None] * rng.normal(size=(60, 5)) + rng.normal(size=(1, 5))
    found = np.sqrt(noise.noise_by_setting(objective).variance)
    assert 1 < np.median(found[:30]) < 2  # what a seed does to all is known but roughly, for the noisy ones
    assert np.median(found[30:]) == pytest.approx(10, rel=0.4)
    pairs = noise.noise_by_setting(objective[:, :2])  # two seeds only ever raise a setting's noise above the pool's
    assert (pairs.variance >= noise.residual_variance(objective[:, :2])[0]).all()
    assert (pairs.degrees == 59).all()
    even = rng.normal(size=(12, 3))
    assert len(set(noise.noise_by_setting(even).variance)) == 1
    even[3] = [0, 80, -80]
    wild = noise.noise_by_setting(even)
    assert wild.degrees[3] == 2
    assert wild.variance[3] > 1000 * np.delete(wild.variance, 3).max()
    even[5, 0] = np.nan  # a seed still to come
    assert noise.noise_by_setting(even).degrees[5] > 0


def test_a_thousand_settings_and_more_are_corrected_for_all_their_pairs():
    rng = np.random.default_rng(13)
    objective = rng.normal(size=(1200, 3))
    objective[0] = -20
    p = ranking.p_values_against_first(objective, noise.noise_by_setting(objective))
    assert (p[1:] < 1e-6).mean() > 0.9  # a pair noisier than the pool stands on its own three seeds
    objective = rng.normal(size=(1200, 3))
    ordered = objective[objective.mean(1).argsort()]
    assert (ranking.p_values_against_first(ordered, noise.noise_by_setting(ordered))[1:] >= noise.SIGNIFICANCE).all()


# --- Against statsmodels


def test_holm_is_statsmodels_holm():
    p_values = np.random.default_rng(1).random(40) ** 4
    np.testing.assert_allclose(ranking.holm(p_values), multipletests(p_values, method="holm")[1])


def test_a_grids_decomposition_is_statsmodels_analysis_of_variance():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.1)}, seeds=[0, 1, 2])
    results = results_of(plan, seed=3, effect=lambda s: 0.02 * math.log10(s["learning_rate"]) * s["warmup_ratio"])
    runs = results.runs.assign(objective=results.runs["objective"].astype(float))
    runs = runs.assign(rate=runs["learning_rate"].map(str), warmup=runs["warmup_ratio"].map(str))
    fit = smf.ols("objective ~ C(rate) * C(warmup) + C(seed)", runs).fit()
    table = sm.stats.anova_lm(fit, typ=1)
    names = {"C(rate)": ("learning_rate",), "C(warmup)": ("warmup_ratio",)}
    names["C(rate):C(warmup)"] = ("learning_rate", "warmup_ratio")
    found = results.decomposition.set_index("fields")
    assert set(found["method"]) == {"exact"}
    between = table.loc[list(names), "sum_sq"].sum()
    for name, fields in names.items():
        assert found.loc[[fields], "share"].iloc[0] == pytest.approx(table.loc[name, "sum_sq"] / between)
    adjusted = multipletests(table.loc[list(names), "PR(>F)"], method="holm")[1]
    for p, fields in zip(adjusted, names.values(), strict=True):
        assert found.loc[[fields], "p_value"].iloc[0] == pytest.approx(p)


# --- Against SciPy's own classes

DEGREES = st.integers(1, 400)
TAILS = st.floats(1e-12, 0.5)


@given(degrees=DEGREES, other=DEGREES, p=TAILS, x=st.floats(0, 50))
def test_tails_are_those_of_scipys_distributions(degrees: int, other: int, p: float, x: float) -> None:
    assert distributions.t_sf(x, degrees) == pytest.approx(scipy_stats.t.sf(x, degrees), rel=1e-9, abs=1e-300)
    assert distributions.t_isf(p, degrees) == pytest.approx(scipy_stats.t.isf(p, degrees), rel=1e-7)
    assert distributions.f_sf(x, degrees, other) == pytest.approx(scipy_stats.f.sf(x, degrees, other), rel=1e-9)
    assert distributions.chi2_median(degrees) == pytest.approx(scipy_stats.chi2.median(degrees))
    assert distributions.standard_error(np.array([x, p, 1.0])) == pytest.approx(scipy_stats.sem([x, p, 1.0]))


@pytest.mark.parametrize("x", [np.inf, np.nan, 0.0])
def test_tails_of_what_is_no_number(x: float) -> None:
    assert distributions.t_sf(x, 3) == pytest.approx(scipy_stats.t.sf(x, 3), nan_ok=True)
    assert distributions.f_sf(x, 3, 4) == pytest.approx(scipy_stats.f.sf(x, 3, 4), nan_ok=True)


# --- Learning rate


VALLEYS = {
    "parabola": lambda x: 0.8 * x**2,
    "steeper above": lambda x: np.where(x < 0, 0.35, 3.0) * x**2,
    "a cliff above": lambda x: np.where(x < 0, -0.5 * x, 2.0),
    "a wedge": lambda x: 0.5 * np.abs(x),
    "flat": lambda x: 0.0 * x,
}


@pytest.mark.parametrize("valley", VALLEYS)
@pytest.mark.parametrize("seeds", [2, 5])
def test_the_optimum_lies_in_its_interval_as_often_as_it_says_whatever_the_valleys_shape(valley, seeds):
    """Planted anywhere; what a seed does to all rates is larger than its noise. A flat valley has no interval."""
    swept, sweeps = np.log10(np.geomspace(1e-4, 7.29e-2, 7)), 300
    rng, held, closed = np.random.default_rng(6), 0, 0
    for _ in range(sweeps):
        planted = rng.uniform(swept[0], swept[-1])
        truth = VALLEYS[valley](swept - planted)
        loss = truth[:, None] + rng.normal(0, 0.02, (7, seeds)) + rng.normal(0, 0.1, (1, seeds))
        best = int(loss.mean(1).argmin())
        low, high = rates.valley(10**swept, loss, best, noise.noise_by_setting(loss))
        held += (math.isnan(low) or low <= 10**planted) and (math.isnan(high) or 10**planted <= high)
        closed += not (math.isnan(low) and math.isnan(high))
    assert held >= (0.95 - 3 * math.sqrt(0.05 * 0.95 / sweeps)) * sweeps
    assert closed <= (0.05 + 3 * math.sqrt(0.05 * 0.95 / sweeps)) * sweeps if valley == "flat" else closed == sweeps


@pytest.mark.parametrize("valley", ["steeper above", "a cliff above"])
@pytest.mark.parametrize("step", [2.0, 3.0])
def test_an_estimate_is_too_low_where_the_loss_is_steeper_above_the_optimum(valley, step):
    swept, shares = np.log10(1e-4 * step ** np.arange(8)), []
    for planted in np.linspace(swept[1], swept[-2], 200):
        loss = VALLEYS[valley](swept - planted)
        best = int(loss.argmin())
        if 0 < best < len(swept) - 1:
            window = rates._window(10**swept, best)
            shares.append(rates.parabola_minimum(10 ** swept[window], loss[window]) / 10**planted)
    assert max(shares) < 1
    assert 0.35 < np.median(shares) < 0.8


def test_where_a_field_does_nothing_its_values_are_no_further_evidence_of_where_the_optimum_lies():
    """A seed does the same at a rate whatever that field is, and the rate does nothing: no rate is told to be worse."""
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2, 1e-1), "warmup_ratio": choice(0.0, 0.1, 0.2, 0.3)})
    trials, history = make_sweep(plan, with_history=False)
    rng, claims, sweeps = np.random.default_rng(7), 0, 150
    for _ in range(sweeps):
        noise = {rate: rng.normal(0, NOISE, 2) for rate in plan.space["learning_rate"].grid()}
        pairs = zip(trials["learning_rate"], trials["seed"], strict=True)
        trials["objective"] = [3.6 + float(noise[rate][seed]) for rate, seed in pairs]
        whole = Results(plan, trials, history).rates.iloc[0]
        claims += not (math.isnan(whole["optimum_low"]) and math.isnan(whole["optimum_high"]))
    assert claims <= (0.05 + 3 * math.sqrt(0.05 * 0.95 / sweeps)) * sweeps


def test_an_optimum_is_estimated_by_the_parabola_that_numpy_fits():
    rate = np.array([3e-4, 1e-3, 3e-3, 6e-3])
    loss = 0.5 * (np.log10(rate) + 2.9) ** 2 + np.array([0.01, -0.01, 0.0, 0.02])
    fit = np.polynomial.Polynomial.fit(np.log(rate), loss, 2).convert()
    assert rates.parabola_minimum(rate, loss) == pytest.approx(math.exp(-fit.coef[1] / (2 * fit.coef[2])))
    assert math.isnan(rates.parabola_minimum(rate, -loss))
    assert math.isnan(rates.parabola_minimum(rate, np.log(rate)))


def test_a_field_with_one_value_left_is_not_among_what_is_tested():
    """As after --confirm: of two settings that differ in one field, the test of that field is that of the settings."""
    rates_alone = {"learning_rate": choice(1e-4, 1e-3)}
    tables = []
    for space in (rates_alone, rates_alone | {"warmup_ratio": choice(0.1)}):
        plan = make_plan(space, seeds=[0, 1, 2])
        tables.append(decomposition.decompose(plan, results_of(plan, seed=0, effect=lr_effect).runs))
    assert list(tables[1]["fields"]) == [("learning_rate",)]
    assert tables[1]["p_value"].tolist() == tables[0]["p_value"].tolist()
    assert tables[1]["share"].tolist() == pytest.approx([1.0])


def test_sensitivity_is_the_mean_loss_over_the_rates_above_the_best():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2), "warmup_ratio": choice(0.0, 0.1)}, seeds=[0, 1])
    results = results_of(
        plan, seed=0, effect=lambda s: 5.0 * (s["learning_rate"] == 1e-2) * (s["warmup_ratio"] == 0), noise=0.0
    )
    table = rates.rate_table(plan, results.runs, initial_loss=6.6).set_index(["parameter", "value"])
    # Without warmup: 3.6, 3.6 and min(8.6 capped to ln V, 6.6); with it 3.6 everywhere.
    assert table.loc[("warmup_ratio", "0"), "sensitivity"] == pytest.approx((6.6 - 3.6) / 3)
    assert table.loc[("warmup_ratio", "0.1"), "sensitivity"] == pytest.approx(0.0)


@pytest.mark.parametrize(("power", "said"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_growth_of_the_best_rate_with_the_batch_is_found(power, said):
    space = {
        "gradient_accumulation_steps": choice(1, 2, 4, 8),
        "learning_rate": choice(*(float(rate) for rate in np.geomspace(1e-4, 1e-1, 13))),
    }
    plan = make_plan(space, seeds=[0, 1, 2])

    def effect(setting):
        best = 1e-3 * setting["gradient_accumulation_steps"] ** power
        return 0.3 * math.log10(setting["learning_rate"] / best) ** 2

    growth = rates.batch_growth(results_of(plan, seed=1, effect=effect, noise=0.005).rates)
    assert growth is not None
    assert growth.num_batches == 4
    assert growth.low <= said <= growth.high
    assert growth.high - growth.low < 0.4


# --- Effects


def test_a_forest_finds_what_a_random_search_sampled():
    space = {"learning_rate": value_range(1e-4, 1e-2, log=True), "weight_decay": value_range(0.0, 0.3)}
    space["warmup_ratio"] = value_range(0.0, 0.2)
    plan = make_plan(space, seeds=[0], num_trials=120)
    results = results_of(
        plan,
        seed=2,
        noise=0.001,
        effect=lambda s: 0.4 * (math.log10(s["learning_rate"]) + 3) ** 2 + 0.3 * s["weight_decay"],
    )
    found = results.decomposition
    share = dict(zip(found["fields"], found["share"], strict=True))
    assert set(found["method"]) == {"forest"}
    assert found["p_value"].isna().all()
    assert found["fields"].iloc[0] == ("learning_rate",)
    assert share[("learning_rate",)] > 0.8
    assert share[("weight_decay",)] > 5 * share[("warmup_ratio",)]


def test_of_noise_a_forest_explains_nothing():
    space = {"learning_rate": value_range(1e-4, 1e-2, log=True), "weight_decay": value_range(0.0, 0.3)}
    plan = make_plan(space, seeds=[0], num_trials=32)
    told = [not results_of(plan, seed=seed, effect=lambda _: 0.0).decomposition.empty for seed in range(20)]
    assert sum(told) <= 4


def test_an_interaction_is_told_from_two_main_effects():
    plan = make_plan(lr_warmup_space(), seeds=[0, 1, 2])
    additive = results_of(plan, seed=4, effect=lambda s: 100 * s["learning_rate"] + s["warmup_ratio"]).decomposition
    crossed = results_of(plan, seed=4, effect=lambda s: 1000 * s["learning_rate"] * s["warmup_ratio"]).decomposition
    pair = [("learning_rate", "warmup_ratio")]
    assert additive.set_index("fields").loc[pair, "p_value"].iloc[0] > 0.05
    assert crossed.set_index("fields").loc[pair, "p_value"].iloc[0] < 0.001


def test_a_parabola_through_sampled_rates_is_one_of_the_rate_alone():
    """With another parameter drawn beside it, a point's neighbours in rate differ in that too."""
    space = {"learning_rate": value_range(1e-4, 1e-2, log=True)}
    alone = make_plan(space, num_trials=32)
    beside = make_plan(space | {"weight_decay": value_range(0.0, 0.3)}, num_trials=32)
    effect = lambda s: 0.3 * (math.log10(s["learning_rate"]) + 3) ** 2  # noqa: E731
    (row,) = results_of(alone, seed=1, effect=effect).rates.to_dict("records")
    assert row["optimum"] == pytest.approx(1e-3, rel=0.2)
    (row,) = results_of(beside, seed=1, effect=effect).rates.to_dict("records")
    assert math.isnan(row["optimum"])
    assert row["best_rate"] in [trial.setting["learning_rate"] for trial in beside.trials]
