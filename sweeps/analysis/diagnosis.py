"""How each run went: its findings in a line, worst first. Pure functions over a run's row and history."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweeps.analysis.settings import Floats

SPIKE_WINDOW = 32  # steps whose median a step is held against
SPIKE_DEVIATIONS = 6.0  # robust standard deviations above it; under 1 false alarm in 1e8 steps of Gaussian noise
SPIKE_MIN_NATS = 0.2  # a smaller jump is no spike, however quiet the run
CLIPPED_RATIO = 0.5
LAST_EVALUATIONS, LEAST_EVALUATIONS = 4, 3  # after the first update
STANDARD_ERRORS = 2.0

FINDINGS = {  # what each says, worst first; `diagnose` has the rules in full
    "diverged": "the loss or gradient norm was no longer finite; counts as ln(vocabulary)",
    "no better than chance": "validation loss ends above ln(vocabulary), which counts in its place",
    "overfitting": "validation loss ends over 2 standard errors above its minimum while train loss fell",
    "spikes": "train loss jumped by over 6 robust deviations and 0.2 nats above the 32 steps before",
    "mostly clipped": "the gradient was clipped in over half of the steps",
    "still falling": "validation loss falls by over 2 standard errors, over the last 4 evaluations and the last 2",
    "unfinished": "running, interrupted or failed",
    "healthy": "none of these",
}
COLUMNS = ("step", "train_loss", "train_grad_norm", "val_loss", "val_loss_standard_error", "eval_train_loss")


def diagnose(run_row: Mapping[str, Any] | pd.Series, its_history: pd.DataFrame) -> str:
    """One line on a run; its findings, joined by semicolons, or "healthy".

    - diverged: state DIVERGED; the step after the last one kept.
    - no better than chance: the final validation loss is above the objective, which is at most ln(vocabulary size).
    - spikes: the train loss is above the median of the 32 steps before by more than 6 robust standard deviations
      (1.4826 x median absolute deviation) and more than 0.2 nats; neighbouring steps are one spike.
    - mostly clipped: train_grad_norm > max_grad_norm in more than half of the steps.
    - still falling: over the last 4 evaluations, that before the first update left out, the validation loss falls by a
      slope of more than 2 of its standard errors (weighted least squares with each evaluation's own error), and between
      the last two by more than that too.
    - overfitting: at the end the validation loss is above its minimum by more than 2 standard errors while the train
      loss is below what it was there. The last two are said of COMPLETE runs only.
    """
    found = _findings(run_row, _columns(its_history.sort_values("step")))
    return "; ".join(f"{kind}: {detail}" if detail else kind for kind, detail in found)


def diagnoses(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row a finding of a run that started: finding, detail, label, trial, seed, run_id; worst findings first."""
    ordered = history.sort_values(["run_id", "step"], ignore_index=True)
    columns = _columns(ordered)
    run_ids = ordered["run_id"].to_numpy()
    edges = [0, *(np.flatnonzero(run_ids[1:] != run_ids[:-1]) + 1), len(run_ids)]
    places = {run_ids[start]: slice(start, end) for start, end in itertools.pairwise(edges) if start < end}
    needed = [
        "run_id",
        "label",
        "trial",
        "seed",
        "state",
        "tokens_per_step",
        "max_grad_norm",
        "final_val_loss",
        "objective",
    ]
    started = runs.loc[runs["run_id"].notna(), runs.columns.intersection(needed)]
    records: list[dict[str, Any]] = started.to_dict("records")  # type: ignore[assignment]  # the columns are named
    rows = [
        {"finding": kind, "detail": detail, "label": run["label"], "trial": run["trial"], "seed": run["seed"]}
        | {"run_id": run["run_id"]}
        for run in records
        for kind, detail in _findings(
            run, {name: column[places.get(run["run_id"], slice(0, 0))] for name, column in columns.items()}
        )
    ]
    table = pd.DataFrame(rows, columns=["finding", "detail", "label", "trial", "seed", "run_id"])
    return table.sort_values(
        ["finding", "trial", "seed"],
        key=lambda column: column.map(list(FINDINGS).index) if column.name == "finding" else column,
        ignore_index=True,
    )


def _columns(history: pd.DataFrame) -> dict[str, Floats]:
    return {name: history[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in COLUMNS}


def _findings(run: Mapping[str, Any] | pd.Series, history: Mapping[str, Floats]) -> list[tuple[str, str]]:
    state = run["state"]
    trained = ~np.isnan(history["train_loss"])
    step, loss, norm = (history[name][trained] for name in ("step", "train_loss", "train_grad_norm"))
    last_step = int(step[-1]) if len(step) else 0
    found = []
    if state == "DIVERGED":
        found.append(("diverged", f"at step {last_step + 1:,}"))
    elif state != "COMPLETE":
        found.append(("unfinished", f"{str(state).lower()} at step {last_step:,}"))
    found += _by_chance(run) + _spikes(step, loss) + _clipped(norm, run.get("max_grad_norm"))
    if state == "COMPLETE" and not pd.isna(run["tokens_per_step"]):  # of a config that can't be read
        evaluated = ~np.isnan(history["val_loss"])
        evals = {name: column[evaluated] for name, column in history.items()}
        tokens = evals["step"] * int(run["tokens_per_step"])
        found += _overfitting(evals, tokens) or _still_falling(evals, tokens)
        if not found and (evals["step"] > 0).sum() < LEAST_EVALUATIONS:
            return [("healthy", f"but {LEAST_EVALUATIONS} evaluations are needed to see whether it still falls")]
    return found or [("healthy", "")]


def _by_chance(run: Mapping[str, Any] | pd.Series) -> list[tuple[str, str]]:
    loss, counts = (float(run.get(name, np.nan)) for name in ("final_val_loss", "objective"))
    if run["state"] != "COMPLETE" or not loss > counts:
        return []
    return [("no better than chance", f"validation loss ends at {loss:.3f}, ln(vocabulary) is {counts:.3f}")]


def _spikes(step: Floats, loss: Floats) -> list[tuple[str, str]]:
    if len(loss) < 9 or not np.diff(loss).max() > SPIKE_MIN_NATS / SPIKE_WINDOW:  # nothing rises by enough
        return []
    series = pd.Series(loss)
    jump = series - series.rolling(SPIKE_WINDOW, min_periods=8).median().shift(1)
    deviation = 1.4826 * (jump - jump.median()).abs().median()
    spiking = jump > max(SPIKE_DEVIATIONS * deviation, SPIKE_MIN_NATS)
    starts = spiking & ~spiking.shift(1, fill_value=False)
    if not starts.any():
        return []
    count, at = int(starts.sum()), int(step[jump.argmax()])
    return [("spikes", f"{count} spike{'s' * (count > 1)}, the largest +{jump.max():.2f} nats at step {at:,}")]


def _clipped(norm: Floats, max_grad_norm: object) -> list[tuple[str, str]]:
    limit = pd.to_numeric(str(max_grad_norm), errors="coerce")  # a column with None in it holds text or NaN
    norm = norm[~np.isnan(norm)]
    ratio = float((norm > limit).mean()) if len(norm) else 0.0
    if not ratio > CLIPPED_RATIO:
        return []
    return [("mostly clipped", f"gradient norm above {limit:g} in {ratio:.0%} of the steps")]


def _overfitting(evals: Mapping[str, Floats], tokens: Floats) -> list[tuple[str, str]]:
    loss, error, train = (evals[name] for name in ("val_loss", "val_loss_standard_error", "eval_train_loss"))
    if len(loss) < 2:
        return []
    best = int(loss.argmin())
    rise = loss[-1] - loss[best]
    if not (rise > STANDARD_ERRORS * max(error[-1], error[best]) and train[-1] < train[best]):
        return []
    return [("overfitting", f"from {int(tokens[best]):,} tokens on, by {rise:.3f} nats at the end")]


def _still_falling(evals: Mapping[str, Floats], tokens: Floats) -> list[tuple[str, str]]:
    trained = np.flatnonzero(evals["step"] > 0)[-LAST_EVALUATIONS:]  # the fall from what knows nothing is not the end's
    tokens, loss, errors = tokens[trained], evals["val_loss"][trained], evals["val_loss_standard_error"][trained]
    if len(loss) < LEAST_EVALUATIONS:
        return []
    weight = 1 / np.maximum(errors, 1e-12) ** 2
    centred = tokens - np.average(tokens, weights=weight)
    precision = float((weight * centred**2).sum())
    slope, error = float((weight * centred * loss).sum()) / precision, precision**-0.5
    unit, fall = float(tokens[-1] - tokens[-2]), float(loss[-2] - loss[-1])
    if not (-slope > STANDARD_ERRORS * error and fall > STANDARD_ERRORS * error * unit):
        return []
    return [("still falling", f"by {fall:.3f} nats over the last {unit:,.0f} tokens")]
