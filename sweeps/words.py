"""The sweep in words: one line on how each run went, and the three to five sentences that answer the experiment.

Pure functions over `sweeps.stats`; knows neither MLflow nor how a page looks. What the numbers can't say, the sentences
say they can't.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweeps import stats
from sweeps.stats import Plan

SPIKE_WINDOW = 32  # steps whose median a step is held against
SPIKE_DEVIATIONS = 6.0  # robust standard deviations above it; under 1 false alarm in 1e8 steps of Gaussian noise
SPIKE_MIN_NATS = 0.2  # a smaller jump is no spike, however quiet the run
CLIPPED_RATIO = 0.5
LAST_EVALUATIONS = 4
STANDARD_ERRORS = 2.0

FINDINGS = {  # what each says, worst first; `diagnose` has the rules in full
    "diverged": "the loss or gradient norm was no longer finite; counts as ln(vocabulary)",
    "overfitting": "validation loss ends over 2 standard errors above its minimum while train loss fell",
    "spikes": "train loss jumped by over 6 robust deviations and 0.2 nats above the 32 steps before",
    "mostly clipped": "the gradient was clipped in over half of the steps",
    "still falling": "over the last 4 evaluations validation loss falls by over 2 standard errors of the slope",
    "unfinished": "running, interrupted or failed",
    "healthy": "none of these",
}


def diagnose(run_row: Mapping[str, Any] | pd.Series, its_history: pd.DataFrame) -> str:
    """One line on a run; its findings, joined by semicolons, or "healthy".

    - diverged: state DIVERGED; the step after the last one kept.
    - spikes: the train loss is above the median of the 32 steps before by more than 6 robust standard deviations
      (1.4826 x median absolute deviation) and more than 0.2 nats; neighbouring steps are one spike.
    - mostly clipped: train_grad_norm > max_grad_norm in more than half of the steps.
    - still falling: over the last 4 evaluations the validation loss falls by a slope of more than 2 of its standard
      errors (weighted least squares with each evaluation's own error).
    - overfitting: at the end the validation loss is above its minimum by more than 2 standard errors while the train
      loss is below what it was there. The last two are said of COMPLETE runs only.
    """
    found = _findings(run_row, its_history.sort_values("step"))
    return "; ".join(f"{kind}: {detail}" if detail else kind for kind, detail in found)


def diagnoses(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row a finding of a run that started: finding, detail, label, trial, seed, run_id; worst findings first."""
    runs = stats.planned_runs(plan, trials)
    histories = dict(iter(history.sort_values("step").groupby("run_id")))
    rows = [
        {"finding": kind, "detail": detail, "label": run["label"], "trial": run["trial"], "seed": run["seed"]}
        | {"run_id": run["run_id"]}
        for _, run in runs[runs["run_id"].notna()].iterrows()
        for kind, detail in _findings(run, histories.get(run["run_id"], history.iloc[:0]))
    ]
    table = pd.DataFrame(rows, columns=["finding", "detail", "label", "trial", "seed", "run_id"])
    return table.sort_values(
        ["finding", "trial", "seed"],
        key=lambda column: column.map(list(FINDINGS).index) if column.name == "finding" else column,
        ignore_index=True,
    )


def _findings(run: Mapping[str, Any] | pd.Series, history: pd.DataFrame) -> list[tuple[str, str]]:
    state = run["state"]
    steps = history[history["train_loss"].notna()]
    last_step = int(steps["step"].max()) if len(steps) else 0
    found = []
    if state == "DIVERGED":
        found.append(("diverged", f"at step {last_step + 1:,}"))
    elif state != "COMPLETE":
        found.append(("unfinished", f"{str(state).lower()} at step {last_step:,}"))
    found += _spikes(steps) + _clipped(steps, run["max_grad_norm"])
    if state == "COMPLETE":
        per_step = int(run["batch_size"]) * int(run["max_seq_len"]) * int(run["gradient_accumulation_steps"])
        evals = history[history["val_loss"].notna()]
        found += _overfitting(evals, per_step) or _still_falling(evals, per_step)
    return found or [("healthy", "")]


def _spikes(steps: pd.DataFrame) -> list[tuple[str, str]]:
    loss = steps["train_loss"].astype(float)
    jump = loss - loss.rolling(SPIKE_WINDOW, min_periods=8).median().shift(1)
    deviation = 1.4826 * (jump - jump.median()).abs().median()
    spiking = jump > max(SPIKE_DEVIATIONS * deviation, SPIKE_MIN_NATS)
    starts = spiking & ~spiking.shift(1, fill_value=False)
    if not starts.any():
        return []
    count, at = int(starts.sum()), int(steps["step"].to_numpy()[jump.argmax()])
    return [("spikes", f"{count} spike{'s' * (count > 1)}, the largest +{jump.max():.2f} nats at step {at:,}")]


def _clipped(steps: pd.DataFrame, max_grad_norm: object) -> list[tuple[str, str]]:
    limit = pd.to_numeric(str(max_grad_norm), errors="coerce")  # a column with None in it holds text or NaN
    norms = steps["train_grad_norm"].dropna()
    ratio = float((norms > limit).mean()) if len(norms) else 0.0
    if not ratio > CLIPPED_RATIO:
        return []
    return [("mostly clipped", f"gradient norm above {limit:g} in {ratio:.0%} of the steps")]


def _overfitting(evals: pd.DataFrame, tokens_per_step: int) -> list[tuple[str, str]]:
    if len(evals) < 2:
        return []
    best, final = evals.iloc[int(evals["val_loss"].argmin())], evals.iloc[-1]
    rise = final["val_loss"] - best["val_loss"]
    error = max(final["val_loss_standard_error"], best["val_loss_standard_error"])
    if not (rise > STANDARD_ERRORS * error and final["eval_train_loss"] < best["eval_train_loss"]):
        return []
    return [("overfitting", f"from {int(best['step']) * tokens_per_step:,} tokens on, by {rise:.3f} nats at the end")]


def _still_falling(evals: pd.DataFrame, tokens_per_step: int) -> list[tuple[str, str]]:
    last = evals.tail(LAST_EVALUATIONS)
    if len(last) < 3:
        return []
    tokens = last["step"].to_numpy(dtype=np.float64) * tokens_per_step
    loss = last["val_loss"].to_numpy(dtype=np.float64)
    weight = 1 / np.maximum(last["val_loss_standard_error"].to_numpy(dtype=np.float64), 1e-12) ** 2
    centred = tokens - np.average(tokens, weights=weight)
    precision = float((weight * centred**2).sum())
    slope, error = float((weight * centred * loss).sum()) / precision, precision**-0.5
    if not -slope > STANDARD_ERRORS * error:
        return []
    unit = (tokens[-1] - tokens[0]) / (len(last) - 1)
    return [("still falling", f"by {-slope * unit:.3f} ± {error * unit:.3f} nats per {unit:,.0f} tokens at the end")]


def answer(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> list[str]:
    """Three to five sentences: the best setting, whether it can be told from the next, what each parameter does, what
    went wrong, what is missing or not comparable. Fewer where there is nothing yet to say."""
    board = stats.leaderboard(plan, trials)
    runs = stats.planned_runs(plan, trials)
    sentences = [_best(board, runs), _runner_up(plan, board), _effects(plan, trials)]
    sentences += [_trouble(plan, trials, history), _missing(plan, runs)]
    return [sentence for sentence in sentences if sentence]


def some(labels: pd.Series, *, most: int = 3) -> str:
    """The distinct labels, at most so many, and how many more."""
    distinct = list(dict.fromkeys(label for label in labels if label))
    more = len(distinct) - most
    return ", ".join(distinct[:most]) + (f" and {more} more setting{'s' * (more > 1)}" if more > 0 else "")


def _best(board: pd.DataFrame, runs: pd.DataFrame) -> str:
    best = board.iloc[0]
    finished = runs["state"].isin(stats.FINISHED)
    if not finished.any():
        return f"No run has finished yet (0 of {len(runs)})."
    if (runs["state"][finished] == "DIVERGED").all():
        return (
            f"Every finished run diverged ({_of(int(finished.sum()), len(runs), 'run')}): no setting can be named best."
        )
    seeds = _count(int(best["num_seeds_done"]), "seed")
    so_far = "" if pd.notna(best["rank"]) else "No setting has all its seeds yet; so far the "
    start = f"{so_far}{'best' if so_far else 'Best'} of {_count(len(board), 'setting')} is"
    error = best["standard_error"]
    loss = f"{best['objective']:.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")
    how = f"over {seeds}" if np.isnan(error) else f"mean ± standard error over {seeds}"
    return (
        f"{start} {best['label'] or 'the only one'}: validation loss {loss} nats per token, "
        f"perplexity {best['val_perplexity']:.4g} ({how})."
    )


def _runner_up(plan: Plan, board: pd.DataFrame) -> str:
    ranked = board[board["rank"].notna()]
    if len(ranked) < 2 or not (ranked["state"] != "diverged").any():
        return ""
    second = ranked.iloc[1]
    lead = f"The runner-up, {second['label']}, is {second['objective'] - ranked.iloc[0]['objective']:.4f} nats behind"
    if pd.isna(second["tied_with_best"]):
        which = "one seed" if len(plan["seeds"]) == 1 else "fewer than two shared seeds"
        return f"{lead}; with {which}, differences can't be told from seed noise."
    how = f"paired t-test, noise pooled over settings, Holm-corrected p {_p(second['p_value'])}"
    if not second["tied_with_best"]:
        return f"{lead}, more than seed noise explains ({how})."
    num_tied = int(ranked["tied_with_best"].iloc[1:].fillna(False).sum())
    others = "" if num_tied == 1 else f"; nor can {num_tied - 1} other{'s' * (num_tied > 2)}"
    return f"{lead} and can't be told from it ({how}){others}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _effects(plan: Plan, trials: pd.DataFrame) -> str:
    table = stats.effects(plan, trials)
    if table.empty:
        return ""
    noise = stats.seed_noise(plan, trials)
    parts = [
        f"{row['parameter']} {'moves the loss ' * (number == 0)}by {row['spread']:.3f} nats "
        f"(best at {row['best']}, worst at {row['worst']})"
        for number, (_, row) in enumerate(table.iterrows())
    ]
    floor = "" if np.isnan(noise) else f"; one run's seed noise is {noise:.3f}"
    states = stats.planned_runs(plan, trials)["state"]
    remarks = ["which is not balanced here"] * (plan["search"] != "grid" or not states.isin(stats.FINISHED).all())
    remarks += [f"diverged runs count as {stats.worst_loss(trials):.3f}"] * bool((states == "DIVERGED").any())
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    return f"Averaged over the rest{remark}, {', '.join(parts)}{floor}."


def _trouble(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> str:
    table = diagnoses(plan, trials, history)
    runs = stats.planned_runs(plan, trials)
    parts = []
    for state in ("DIVERGED", "FAILED"):
        labels = runs.loc[runs["state"] == state, "label"]
        if len(labels):
            parts.append(f"{_of(len(labels), len(runs), 'run')} {state.lower()} ({some(labels)})")
    overfitting = table.loc[table["finding"] == "overfitting", "label"]
    if len(overfitting):
        verb = "overfits" if len(overfitting) == 1 else "overfit"
        parts.append(f"{_count(len(overfitting), 'run')} {verb} ({some(overfitting)})")
    return f"{'; '.join(parts)}." if parts else ""


def _missing(plan: Plan, runs: pd.DataFrame) -> str:
    done = int(runs["state"].isin(stats.FINISHED).sum())
    failed = int((runs["state"] == "FAILED").sum())
    parts = []
    if 0 < done < len(runs) - failed:
        parts.append(f"This is half-finished: {_of(done, len(runs), 'run')} done; the rest may change the answer")
    if not plan.get("matched", True):
        parts.append("The settings are not matched: they don't all see the same tokens, so compare with care")
    return f"{'. '.join(parts)}." if parts else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _of(number: int, total: int, noun: str) -> str:
    return f"{number} of {total} {noun}{'s' * (total != 1)}"
