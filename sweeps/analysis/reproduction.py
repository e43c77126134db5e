"""Holds a run's second training against its record. Pure: frames and numbers in, a verdict out."""

import math
from dataclasses import dataclass

import pandas as pd

STEP_COLUMNS = ("train_loss", "train_learning_rate", "train_grad_norm")
EVAL_COLUMNS = ("val_loss", "val_loss_standard_error", "eval_train_loss", "eval_train_loss_standard_error")


@dataclass(frozen=True)
class Verdict:
    """What a comparison found; `first_step` is the first step that differs by more than is allowed, or None."""

    num_steps: int
    num_evals: int
    missing_steps: tuple[int, ...]  # in one of the two only
    first_step: int | None
    largest_difference: float
    where: str  # the column of the largest difference


def compare(recorded: pd.DataFrame, repeated: pd.DataFrame, rtol: float = 0.0) -> Verdict:
    """Compare histories by step: columns STEP_COLUMNS and EVAL_COLUMNS, NaN where a step has none.

    rtol 0 asks for the same bits; else |a - b| <= rtol * max(|a|, |b|).
    """
    a, b = recorded.set_index("step").sort_index(), repeated.set_index("step").sort_index()
    columns = [*STEP_COLUMNS, *EVAL_COLUMNS]
    a_values, b_values = a[columns].astype(float).to_dict(), b[columns].astype(float).to_dict()
    missing = tuple(sorted(set(a.index) ^ set(b.index)))
    first_step, largest, where = None, 0.0, ""
    for step in sorted(set(a.index) & set(b.index)):
        for column in columns:
            x, y = a_values[column][step], b_values[column][step]
            difference = _difference(x, y)
            if difference > largest:
                largest, where = difference, column
            allowed = 0.0 if rtol == 0 or math.isinf(difference) else rtol * max(abs(x), abs(y))
            if difference > allowed and first_step is None:
                first_step = int(step)
    return Verdict(
        num_steps=int(a["train_loss"].notna().sum()),
        num_evals=int(a["val_loss"].notna().sum()),
        missing_steps=missing,
        first_step=first_step,
        largest_difference=largest,
        where=where,
    )


def as_far_as_recorded(repeated: pd.DataFrame, recorded: pd.DataFrame) -> pd.DataFrame:
    """Without the steps and evaluations that a record lacks: one that is thinned, or of a run that was interrupted."""
    kept = repeated[repeated["step"].isin(recorded["step"])].copy()
    for columns in (STEP_COLUMNS, EVAL_COLUMNS):
        there = recorded.loc[recorded[list(columns)].notna().any(axis=1), "step"]
        kept.loc[~kept["step"].isin(there), list(columns)] = float("nan")
    return kept


def evaluations_not_recorded(repeated: pd.DataFrame, recorded: pd.DataFrame) -> list[int]:
    """The steps after which the second training was evaluated and the recorded one was not: a record has them all."""
    there, came = (set(frame.loc[frame["val_loss"].notna(), "step"]) for frame in (recorded, repeated))
    return sorted(came - there)


def _difference(x: float, y: float) -> float:
    if math.isnan(x) and math.isnan(y):
        return 0.0
    return math.inf if math.isnan(x) or math.isnan(y) else abs(x - y) if x != y else 0.0
