"""Who leads, and what can be distinguished: settings by their mean objective, tested in pairs by seed. Pure functions.

A diverged run counts as ln(vocabulary), as the objective has it; its gap and train loss count nowhere.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sweeps.analysis.distributions import t_isf, t_sf
from sweeps.analysis.noise import SIGNIFICANCE, Noise, noise_of
from sweeps.analysis.settings import Floats, comparable_objectives
from tinylm_core.records import RESULTS

MOST_FOR_HOLM = 1000  # settings; of more, the half million pairs are corrected for by Bonferroni
POWER = 0.8
MOST_SEEDS = 100


def leaderboard(runs: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """One row a setting over its seeds, best objective first, settings with a seed still to come after all others.

    `runs` are `planned_runs`. Columns: rank (NA unless complete), trial, label, the swept fields, objective and
    standard_error over seeds (nats per token), num_seeds_done, num_seeds_planned, val_perplexity = exp(objective),
    train_loss and gap (means over COMPLETE runs), tokens_per_second, tied_with_best, p_value, state, run_ids.

    tied_with_best is True where the setting can't be distinguished from the best one at 5 % (`p_values_against_first`),
    NA where that can't be known: fewer than two seeds in common, or only some of them diverged, which is no seed noise.
    """
    board = _settings(runs, swept)
    incomplete = board["num_seeds_done"] < board["num_seeds_planned"]
    board = board.assign(_incomplete=incomplete).sort_values(
        ["_incomplete", "objective", "trial"], ignore_index=True, na_position="last"
    )
    num_complete = int((~board["_incomplete"]).sum())
    ranks = pd.Series([*range(1, num_complete + 1), *[pd.NA] * (len(board) - num_complete)], dtype="Int64")
    board = board.drop(columns="_incomplete")
    board.insert(0, "rank", ranks)
    if num_complete:
        objective_TS = comparable_objectives(runs, board["trial"])
        p_values = p_values_against_first(objective_TS, noise_of(runs, board["trial"]))
        board["p_value"] = p_values
        tied = pd.array(p_values >= SIGNIFICANCE, dtype="boolean")
        tied[np.isnan(p_values)] = pd.NA
        tied[0] = True
        board["tied_with_best"] = tied
    return board


def _settings(runs: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    trial = runs["trial"]
    done, complete = runs["state"].isin(RESULTS), runs["state"] == "COMPLETE"
    objective = runs["objective"].astype(float).where(done).groupby(trial, sort=False)

    def complete_mean(column: str) -> pd.Series:
        return runs[column].astype(float).where(complete).groupby(trial, sort=False).mean()

    first = runs.drop_duplicates("trial").set_index("trial")
    table = pd.DataFrame(
        {
            "label": first["label"],
            **{field: first[field] for field in swept},
            "objective": objective.mean(),
            "standard_error": objective.sem(),
            "num_seeds_done": done.groupby(trial, sort=False).sum(),
            "num_seeds_planned": trial.groupby(trial, sort=False).size(),
            "val_perplexity": np.exp(objective.mean()),
            "train_loss": complete_mean("final_train_loss"),
            "gap": complete_mean("final_gap"),
            "tokens_per_second": complete_mean("final_tokens_per_second"),
            "tied_with_best": pd.array([pd.NA] * len(first), dtype="boolean"),
            "p_value": np.nan,
            "state": _states(runs),
            "run_ids": runs.dropna(subset="run_id").groupby("trial", sort=False)["run_id"].agg(" ".join),
        },
        index=first.index,
    )
    return table.assign(run_ids=table["run_ids"].fillna("").astype(str)).rename_axis("trial").reset_index()


def _states(runs: pd.DataFrame) -> pd.Series:
    """Of each setting: `complete`, or how many of its runs are in which state."""
    counts = runs.groupby(["trial", "state"], sort=False).size()
    states = runs.drop_duplicates("trial").set_index("trial")["state"].str.lower()
    order = ("COMPLETE", "DIVERGED", "RUNNING", "INTERRUPTED", "FAILED", "MISSING")
    of_several = counts.groupby(level=0).size() > 1
    for trial in of_several.index[of_several]:
        its = counts[trial]
        states[trial] = ", ".join(f"{its[state]} {state.lower()}" for state in order if state in its)
    return states


def p_values_against_first(objective_TS: Floats, noise: Noise) -> Floats:
    """Adjusted p-values [T] that each setting T differs from the first, by paired t-tests over their shared seeds S.

    Seeds pair because they share initial weights and data order. `noise` is the settings', moderated
    (`noise.noise_by_setting`): with two settings it is the ordinary paired t-test. Where nothing is known of it a pair
    stands on its own S-1 degrees of freedom. All pairs are the family that is corrected for (Holm 1979; of more than a
    thousand settings Bonferroni), because the best setting was chosen by looking: against the best alone, false claims
    were measured in 5-24 % of sweeps without an effect. Where a quarter of the settings has eight times the others'
    noise and nothing differs, one is in 15-49 % of sweeps with two seeds, 14-23 % with three, 0-5 % with five and more.
    NaN for the first and where fewer than two seeds are shared.
    """
    T = len(objective_TS)
    adjusted_T = np.full(T, np.nan)
    if T < 2:
        return adjusted_T
    if T > MOST_FOR_HOLM:
        rest = np.arange(1, T)
        p_P = _p_values(objective_TS[0] - objective_TS[1:], *noise.of_pairs(np.zeros_like(rest), rest))
        adjusted_T[1:] = np.minimum(p_P * T * (T - 1) / 2, 1)
        return adjusted_T
    rows, columns = np.triu_indices(T, 1)
    p_P = _p_values(objective_TS[rows] - objective_TS[columns], *noise.of_pairs(rows, columns))
    tested = ~np.isnan(p_P)
    p_P[tested] = holm(p_P[tested])
    adjusted_T[1:] = p_P[: T - 1]  # the pairs of the first come first
    return adjusted_T


def _p_values(diff_PS: Floats, variance_P: Floats, degrees_P: Floats) -> Floats:
    """Two-sided p-values [P] of paired differences, whose variance by one seed is known with so many degrees or 0."""
    known_PS = np.isfinite(diff_PS)
    count_P = known_PS.sum(1)
    mean_P = np.where(known_PS, diff_PS, 0).sum(1) / np.maximum(count_P, 1)
    own_degrees_P = np.maximum(count_P - 1, 1)
    own_P = (np.where(known_PS, diff_PS - mean_P[:, None], 0) ** 2).sum(1) / own_degrees_P
    with np.errstate(divide="ignore", invalid="ignore"):
        t_P = np.abs(mean_P) / np.sqrt(np.where(degrees_P > 0, variance_P, own_P) / count_P)
    p_P = np.where(mean_P == 0, 1.0, 2 * t_sf(t_P, np.where(degrees_P > 0, degrees_P, own_degrees_P)))
    return np.where(count_P >= 2, p_P, np.nan)


def holm(p_values: Floats) -> Floats:
    """Adjusted p-values of a family (Holm 1979)."""
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def seeds_to_tell(difference: float, deviation: float, comparisons: int = 1) -> int | None:
    """Seeds with which a paired t-test finds a difference of two settings with 80 % power; None above a hundred.

    `deviation` is that of one run's residual, so a difference by one seed has √2 of it; the 5 % are shared by the
    comparisons (Bonferroni). The power is that of the noncentral t distribution.
    """
    if not (difference > 0 and deviation >= 0):
        return None
    from scipy.stats import nct  # SciPy's function of it, scipy.special.nctdtr, is NaN here and there

    for seeds in range(2, MOST_SEEDS + 1):
        degrees = seeds - 1
        critical = t_isf(SIGNIFICANCE / comparisons / 2, degrees)
        effect = difference / max(np.sqrt(2 * deviation**2 / seeds), 1e-12)
        if effect > 30 or nct.sf(critical, degrees, effect) >= POWER:
            return seeds
    return None
