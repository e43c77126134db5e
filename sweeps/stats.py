"""The numbers of a sweep, from its plan and its rows: who leads, what can be told apart, where the gap is.

Pure functions; knows neither MLflow nor matplotlib. A plan is the content of `plan.json`, `trials` has one row a run
and `history` one row a (run, step). A diverged run counts as ln(vocabulary), as the objective has it; its gap and train
loss count nowhere.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sweeps.space import short

Plan = Mapping[str, Any]
Floats = NDArray[np.float64]

SIGNIFICANCE = 0.05
FINISHED = ("COMPLETE", "DIVERGED")
MAX_VALUES = 8  # a range with more distinct values than this is read in quarters
_BEST_ATTEMPT_FIRST = ("COMPLETE", "DIVERGED", "RUNNING", "INTERRUPTED", "FAILED")


def planned_runs(plan: Plan, trials: pd.DataFrame) -> pd.DataFrame:
    """One row a planned run, in the plan's order: that run's row of `trials`, or state MISSING where it has none.

    Of several attempts at one run the one that got furthest counts, of equals the last. Swept fields hold the plan's
    values. Rows of other plans are left out.
    """
    swept = list(plan["swept"])
    planned = pd.DataFrame(
        [
            {"trial": trial["trial"], "seed": int(seed), "label": trial["label"]}
            | {field: trial["setting"][field] for field in swept}
            for trial in plan["trials"]
            for seed in trial["runs"]
        ],
        columns=["trial", "seed", "label", *swept],
        dtype=object,  # a None among numbers stays None
    ).astype({"trial": "int64", "seed": "int64"})
    attempts = trials.drop(columns=["label", *swept], errors="ignore").assign(
        _order=trials["state"].map(_BEST_ATTEMPT_FIRST.index)
    )
    attempts = attempts[::-1].sort_values("_order", kind="stable").drop_duplicates(["trial", "seed"])
    attempts = attempts.drop(columns="_order").astype({"trial": "int64", "seed": "int64"})
    runs = planned.merge(attempts, on=["trial", "seed"], how="left")
    runs["state"] = runs["state"].astype(object).where(runs["state"].notna(), "MISSING")
    return runs


def worst_loss(trials: pd.DataFrame) -> float:
    """ln(vocabulary) in nats per token, the loss of knowing nothing; NaN where no row tells the vocabulary."""
    for column in ("model_vocab_size", "vocab_size"):
        if column in trials and trials[column].notna().any():
            return float(np.log(float(trials[column].dropna().max())))
    return float(trials.loc[trials["state"] == "DIVERGED", "objective"].astype(float).max())


def leaderboard(plan: Plan, trials: pd.DataFrame) -> pd.DataFrame:
    """One row a setting over its seeds, best objective first, settings with a seed still to come after all others.

    Columns: rank (NA unless complete), trial, label, the swept fields, objective and standard_error over seeds (nats
    per token), num_seeds_done, num_seeds_planned, val_perplexity = exp(objective), train_loss and gap (means over
    COMPLETE runs), tokens_per_second, tied_with_best, p_value, state, run_ids.

    tied_with_best is True where the setting can't be told from the best one at 5 % (see `told_apart`), NA where that
    can't be known: fewer than two seeds in common, or only some of them diverged, which is no seed noise.
    """
    runs = planned_runs(plan, trials)
    rows = [_setting(setting, plan) for _, setting in runs.groupby("trial", sort=False)]
    board = pd.DataFrame(rows).astype({"tied_with_best": "boolean"})
    incomplete = board["num_seeds_done"] < board["num_seeds_planned"]
    board = board.assign(_incomplete=incomplete).sort_values(
        ["_incomplete", "objective", "trial"], ignore_index=True, na_position="last"
    )
    num_complete = int((~board["_incomplete"]).sum())
    ranks = pd.Series([*range(1, num_complete + 1), *[pd.NA] * (len(board) - num_complete)], dtype="Int64")
    board = board.drop(columns="_incomplete")
    board.insert(0, "rank", ranks)
    if num_complete:
        complete_T = _all_complete(runs, board["trial"])
        p_values = told_apart(_objectives(runs, board["trial"]), complete_T)[0]
        board["p_value"] = p_values
        tied = pd.array(p_values >= SIGNIFICANCE, dtype="boolean")
        tied[np.isnan(p_values)] = pd.NA
        tied[0] = True
        board["tied_with_best"] = tied
    return board


def _setting(runs: pd.DataFrame, plan: Plan) -> dict[str, Any]:
    first = runs.iloc[0]
    done = runs[runs["state"].isin(FINISHED)]
    complete = runs[runs["state"] == "COMPLETE"]
    objective = done["objective"].astype(float)
    return {
        "trial": first["trial"],
        "label": first["label"],
        **{field: first[field] for field in plan["swept"]},
        "objective": objective.mean(),
        "standard_error": objective.sem(),
        "num_seeds_done": len(done),
        "num_seeds_planned": len(runs),
        "val_perplexity": float(np.exp(objective.mean())),
        "train_loss": complete["final_train_loss"].astype(float).mean(),
        "gap": complete["final_gap"].astype(float).mean(),
        "tokens_per_second": complete["final_tokens_per_second"].astype(float).mean(),
        "tied_with_best": pd.NA,
        "p_value": float("nan"),
        "state": _state(runs["state"]),
        "run_ids": " ".join(runs["run_id"].dropna()),
    }


def _state(states: pd.Series) -> str:
    counts = states.value_counts()
    if len(counts) == 1:
        return str(counts.index[0]).lower()
    order = [*_BEST_ATTEMPT_FIRST, "MISSING"]
    return ", ".join(f"{counts[state]} {state.lower()}" for state in order if state in counts)


def _objectives(runs: pd.DataFrame, order: pd.Series) -> Floats:
    """Objective by setting (in this order) and seed; NaN where not finished, and where only some seeds diverged."""
    diverged = (runs["state"] == "DIVERGED").groupby(runs["trial"])
    comparable = runs["state"].isin(FINISHED) & (diverged.transform("all") | ~diverged.transform("any"))
    value = runs["objective"].astype(float).where(comparable)
    table = runs.assign(objective=value).pivot_table(
        index="trial", columns="seed", values="objective", dropna=False, aggfunc="first"
    )
    return table.reindex(order).to_numpy(dtype=np.float64)


def _all_complete(runs: pd.DataFrame, order: pd.Series) -> NDArray[np.bool_]:
    complete = (runs["state"] == "COMPLETE").groupby(runs["trial"]).all()
    return complete.reindex(order).to_numpy(dtype=np.bool_)


def told_apart(objective_TS: Floats, poolable_T: NDArray[np.bool_]) -> Floats:
    """Holm-adjusted p-values [T, T] that settings T differ, by paired t-tests over their shared seeds S.

    Seeds pair because they share initial weights and data order. The noise of a difference is pooled over the settings
    named poolable (all seeds complete, none diverged), since two seeds alone say almost nothing about noise; degrees of
    freedom as in a two-way layout, (T-1)(S-1). A pair clearly noisier than the pool (F test, 5 %) stands on its own
    noise with S-1. All pairs are in Holm's family (Holm 1979), because the best setting was chosen by looking: against
    the best alone, false claims were measured in 5-24 % of sweeps without an effect. With two settings it is the
    ordinary paired t-test. It assumes one noise level for the settings that finished: where a quarter of them has eight
    times the others' noise and nothing differs, 10-29 % of sweeps claim a difference. NaN where fewer than two seeds
    are shared.
    """
    diff_TTS = objective_TS[:, None] - objective_TS[None]
    count_TT = np.isfinite(diff_TTS).sum(-1)
    known_TT = count_TT >= 2
    degrees_TT = np.maximum(count_TT - 1, 1)
    mean_TT = np.where(np.isfinite(diff_TTS), diff_TTS, 0).sum(-1) / np.maximum(count_TT, 1)
    squares_TTS = np.where(np.isfinite(diff_TTS), diff_TTS - mean_TT[..., None], 0) ** 2
    variance_TT = squares_TTS.sum(-1) / degrees_TT

    num_pooled, num_seeds = int(poolable_T.sum()), objective_TS.shape[1]
    if num_pooled >= 2 and num_seeds >= 2:
        upper = np.triu_indices(num_pooled, 1)
        pooled = float(variance_TT[np.ix_(poolable_T, poolable_T)][upper].mean())
        pooled_degrees = (num_pooled - 1) * (num_seeds - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            alone_TT = stats.f.sf(variance_TT / pooled, degrees_TT, pooled_degrees) < SIGNIFICANCE
        variance_TT = np.where(alone_TT, variance_TT, pooled)
        degrees_TT = np.where(alone_TT, degrees_TT, pooled_degrees)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_TT = np.abs(mean_TT) / np.sqrt(variance_TT / count_TT)
    p_TT = np.where(mean_TT == 0, 1.0, 2 * stats.t.sf(t_TT, degrees_TT))

    rows, columns = np.triu_indices(len(objective_TS), 1)
    tested = known_TT[rows, columns]
    rows, columns = rows[tested], columns[tested]
    adjusted_TT = np.full(p_TT.shape, np.nan)
    adjusted_TT[rows, columns] = adjusted_TT[columns, rows] = _holm(p_TT[rows, columns])
    return adjusted_TT


def _holm(p_values: Floats) -> Floats:
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def seed_noise(plan: Plan, trials: pd.DataFrame) -> float:
    """Standard deviation over seeds of the final loss of one setting, pooled over complete settings; NaN if unknown."""
    runs = planned_runs(plan, trials)
    complete = runs[runs["state"] == "COMPLETE"]
    by_setting = complete["objective"].astype(float).groupby(complete["trial"])
    degrees = by_setting.count() - 1
    if degrees.sum() < 1:
        return float("nan")
    return float(np.sqrt((by_setting.var() * degrees).sum() / degrees.sum()))


def value_groups(plan: Plan, runs: pd.DataFrame, field: str) -> pd.Series:
    """An ordered categorical beside `runs`: each run's value of a swept field as a label.

    Numbers ascend, other values keep the order of the space. A range with more than eight values in the plan is cut
    into quarters with equal numbers of settings, labelled low…high.
    """
    settings = [trial["setting"][field] for trial in plan["trials"]]
    space = plan["space"][field]
    distinct = list(dict.fromkeys(settings))
    if space["kind"] == "range" and len(distinct) > MAX_VALUES:
        edges = np.unique(np.quantile([float(value) for value in settings], [0, 0.25, 0.5, 0.75, 1]))
        labels = [f"{short(low)}…{short(high)}" for low, high in itertools.pairwise(edges)]
        return pd.cut(runs[field].astype(float), edges.tolist(), labels=labels, include_lowest=True)
    labels = [short(value) for value in ordered_values(plan, field)]
    return pd.Series(pd.Categorical(runs[field].map(short), categories=labels, ordered=True), index=runs.index)


def ordered_values(plan: Plan, field: str) -> list[Any]:
    """The distinct planned values of a swept field: numbers ascending and None last; others as the space has them."""
    values = list(dict.fromkeys(trial["setting"][field] for trial in plan["trials"]))
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return sorted(values, key=lambda value: (value is None, value or 0))
    declared = plan["space"][field].get("values", [])
    return [value for value in declared if value in values] + [value for value in values if value not in declared]


def gaps(plan: Plan, trials: pd.DataFrame) -> pd.DataFrame:
    """Train against validation by swept parameter and value, over COMPLETE runs, in nats per token.

    Columns: parameter, value (label), num_runs, train_loss, val_loss, gap, gap_standard_error over those runs (which
    differ in the other parameters too; NaN with one).
    """
    runs = planned_runs(plan, trials)
    complete = runs[runs["state"] == "COMPLETE"]
    tables = []
    for field in plan["swept"]:
        groups = complete.groupby(value_groups(plan, complete, field), observed=False)
        table = pd.DataFrame(
            {
                "num_runs": groups.size(),
                "train_loss": groups["final_train_loss"].mean(),
                "val_loss": groups["final_val_loss"].mean(),
                "gap": groups["final_gap"].mean(),
                "gap_standard_error": groups["final_gap"].sem(),
            }
        )
        table.insert(0, "value", table.index.astype(str))
        table.insert(0, "parameter", field)
        tables.append(table)
    columns = ["parameter", "value", "num_runs", "train_loss", "val_loss", "gap", "gap_standard_error"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def effects(plan: Plan, trials: pd.DataFrame) -> pd.DataFrame:
    """Each swept parameter's main effect on the objective: the spread of its marginal means, largest first.

    Columns: parameter, best and worst (value labels), spread (nats per token). On a full grid a marginal mean averages
    over all values of the others; on anything else it is only as balanced as the settings that finished.
    """
    runs = planned_runs(plan, trials)
    done = runs[runs["state"].isin(FINISHED)]
    rows = []
    for field in plan["swept"]:
        marginal = done["objective"].astype(float).groupby(value_groups(plan, done, field), observed=True).mean()
        if len(marginal) > 1:
            spread = float(marginal.max() - marginal.min())
            best, worst = str(marginal.idxmin()), str(marginal.idxmax())
            rows.append({"parameter": field, "best": best, "worst": worst, "spread": spread})
    return pd.DataFrame(rows, columns=["parameter", "best", "worst", "spread"]).sort_values(
        "spread", ascending=False, ignore_index=True
    )


def evaluations(trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The rows of `history` that hold an evaluation, with `tokens` trained on by then; sorted by run and step."""
    evals = history[history["val_loss"].notna()]
    per_step = (
        trials["batch_size"].astype(float)
        * trials["max_seq_len"].astype(float)
        * trials["gradient_accumulation_steps"].astype(float)
    )
    tokens = evals["step"] * evals["run_id"].map(dict(zip(trials["run_id"], per_step, strict=True)))
    return evals.assign(tokens=tokens.astype(float)).sort_values(["run_id", "step"], ignore_index=True)


def tokens_to_target(trials: pd.DataFrame, history: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """Training tokens until the validation loss first is at most `target`, interpolated between evaluations.

    `target` defaults to the highest final loss in any setting whose runs are all COMPLETE: all of those reach it.
    Columns: run_id, trial, seed, target, tokens, setting_tokens (mean over the setting's seeds). NaN where not reached;
    a mean over seeds of which one did not is NaN.
    """
    if target is None:
        complete = (trials["state"] == "COMPLETE").groupby(trials["trial"]).transform("all")
        target = float(trials.loc[complete, "final_val_loss"].astype(float).max())
    curves = dict(iter(evaluations(trials, history).groupby("run_id")))
    result = trials[["run_id", "trial", "seed"]].assign(
        target=target,
        tokens=[_first_crossing(curves.get(run_id), target) for run_id in trials["run_id"]],
    )
    by_trial = result.groupby("trial")["tokens"]
    result["setting_tokens"] = by_trial.transform(lambda tokens: tokens.mean(skipna=False))
    return result.reset_index(drop=True)


def _first_crossing(curve: pd.DataFrame | None, target: float) -> float:
    if curve is None:
        return float("nan")
    tokens, loss = curve["tokens"].to_numpy(), curve["val_loss"].to_numpy(dtype=np.float64)
    reached = np.flatnonzero(loss <= target)
    if not len(reached):
        return float("nan")
    after = int(reached[0])
    if after == 0:
        return float(tokens[0])
    before = after - 1
    share = (loss[before] - target) / (loss[before] - loss[after])
    return float(tokens[before] + share * (tokens[after] - tokens[before]))
