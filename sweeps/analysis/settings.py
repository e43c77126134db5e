"""The plan's runs and the values of what is swept: how rows become settings. Pure functions.

`trials` has one row a run.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.plan.record import PlanRecord
from sweeps.spec.fields import MEASURE_FIELDS, UNIT_FIELDS
from sweeps.spec.naming import short
from sweeps.spec.searches import LEARNING, TPE_STARTUP_TRIALS
from sweeps.spec.settings import is_varied
from sweeps.spec.space import MAX_VALUES, Choice, Range
from tinylm_core.records import RESULTS

Floats = NDArray[np.float64]

LOG_RATIO = 8  # choices that span less are on a linear axis


def planned_runs(plan: PlanRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """One row a planned run, in the plan's order: that run's row of `trials`, or state MISSING where it has none.

    Swept fields hold the plan's values. Rows of other plans are left out.
    """
    swept = list(plan.swept)
    planned = pd.DataFrame(
        [
            {"trial": trial.number, "seed": seed, "label": trial.label}
            | {field: trial.setting[field] for field in swept}
            for trial in plan.trials
            for seed in trial.runs
        ],
        columns=["trial", "seed", "label", *swept],
        dtype=object,  # a None among numbers stays None
    ).astype({"trial": "int64", "seed": "int64"})
    made = trials.drop(columns=["label", *swept], errors="ignore").astype({"trial": "int64", "seed": "int64"})
    runs = planned.merge(made, on=["trial", "seed"], how="left", validate="one_to_one")
    runs["state"] = runs["state"].astype(object).where(runs["state"].notna(), "MISSING")
    return runs


def worst_loss(trials: pd.DataFrame) -> float:
    """ln(vocabulary) in nats per token, the loss of knowing nothing; NaN where no row tells the vocabulary."""
    for column in ("model_vocab_size", "vocab_size"):
        if column in trials and trials[column].notna().any():
            return float(np.log(float(trials[column].dropna().max())))
    return float(trials.loc[trials["state"] == "DIVERGED", "objective"].astype(float).max())


def comparable_objectives(runs: pd.DataFrame, order: list[int] | pd.Series) -> Floats:
    """As `objectives`, but NaN where only some of a setting's seeds diverged, which is no seed noise."""
    alike = diverged_alike(runs["state"], runs["trial"])
    return objectives(runs.assign(objective=runs["objective"].astype(float).where(alike)), order)


def diverged_alike(state: pd.Series, setting: pd.Series) -> pd.Series:
    """Of each run whether all seeds of its setting diverged or none: else what differs between them is no noise."""
    diverged = (state == "DIVERGED").groupby(setting)
    return diverged.transform("all") | ~diverged.transform("any")


def objectives(runs: pd.DataFrame, order: list[int] | pd.Series) -> Floats:
    """Objective by setting (in this order) and seed; NaN where not finished."""
    value = runs["objective"].astype(float).where(runs["state"].isin(RESULTS))
    table = runs.assign(objective=value).pivot_table(
        index="trial", columns="seed", values="objective", dropna=False, aggfunc="first"
    )
    return table.reindex(order).to_numpy(dtype=np.float64)


def value_groups(plan: PlanRecord, runs: pd.DataFrame, field: str) -> pd.Series:
    """An ordered categorical beside `runs`: each run's value of a swept field as a label.

    Numbers ascend, other values keep the order of the space. A sampled range, and a grid's with more than eight
    values, is cut into quarters with equal numbers of settings, labelled low…high, or into halves where fewer than
    eight settings were drawn. NaN where the field is not varied.
    """
    varied = _varied_trials(plan, field)
    settings = [trial.setting[field] for trial in plan.trials if trial.number in varied]
    dimension = plan.space[field]
    here = runs["trial"].isin(varied)
    distinct = list(dict.fromkeys(settings))
    if len(distinct) > 1 and (is_sampled(plan, field) or (isinstance(dimension, Range) and len(distinct) > MAX_VALUES)):
        shares = [0, 0.25, 0.5, 0.75, 1] if len(settings) >= MAX_VALUES else [0, 0.5, 1]
        edges = np.unique(np.quantile(np.array(settings, dtype=np.float64), shares))
        labels = _interval_labels(edges)
        return pd.cut(runs[field].where(here).astype(float), edges.tolist(), labels=labels, include_lowest=True)
    labels = [short(value) for value in ordered_values(plan, field)]
    return pd.Series(
        pd.Categorical(runs[field].map(short).where(here), categories=labels, ordered=True), index=runs.index
    )


def _interval_labels(edges: Floats) -> list[str]:
    """low…high of each interval, with more digits where a search has drawn values so close that three don't do."""
    ends = [short(edge) for edge in edges]
    digits = 4
    while len(set(ends)) < len(ends):
        ends = [f"{edge:.{digits}g}" for edge in edges]
        digits += 1
    return [f"{low}…{high}" for low, high in itertools.pairwise(ends)]


def ordered_values(plan: PlanRecord, field: str) -> list[Any]:
    """The distinct planned values of a swept field: numbers ascending and None last; others as the space has them.

    Only those of settings in which it is varied: elsewhere it has the base's value.
    """
    varied = _varied_trials(plan, field)
    values = list(dict.fromkeys(trial.setting[field] for trial in plan.trials if trial.number in varied))
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return sorted(values, key=lambda value: (value is None, value or 0))
    dimension = plan.space[field]
    declared = dimension.grid() if isinstance(dimension, Choice) else ()
    return [value for value in declared if value in values] + [value for value in values if value not in declared]


def is_conditional(plan: PlanRecord, field: str) -> bool:
    """Whether a field is varied only where others have certain values."""
    return bool(plan.space[field].when)


def unconditional(plan: PlanRecord) -> list[str]:
    """The swept fields that are varied in every setting."""
    return [field for field in plan.swept if not is_conditional(plan, field)]


def where_varied(plan: PlanRecord, rows: pd.DataFrame, field: str) -> pd.DataFrame:
    """The rows of settings in which a field is varied."""
    return rows[rows["trial"].isin(_varied_trials(plan, field))] if is_conditional(plan, field) else rows


def _varied_trials(plan: PlanRecord, field: str) -> set[int]:
    return {trial.number for trial in plan.trials if is_varied(plan.space[field], trial.setting)}


def is_sampled(plan: PlanRecord, field: str) -> bool:
    """Whether a search drew a field's values from a range, so that each setting has one of its own.

    A range of a few whole numbers is none: its values come again.
    """
    dimension = plan.space[field]
    if plan.search == "grid" or isinstance(dimension, Choice):
        return False
    return not (dimension.is_integer and dimension.high - dimension.low < MAX_VALUES)


def distinct(plan: PlanRecord) -> PlanRecord:
    """A plan without the trials that repeat an earlier one's runs, which a search may propose: copies show nothing.

    `num_repeated` of it says how many those are.
    """
    first = {frozenset(trial.runs.values()): trial for trial in reversed(plan.trials)}
    trials = tuple(trial for trial in plan.trials if first[frozenset(trial.runs.values())] is trial)
    repeated = len(plan.trials) - len(trials)
    return replace(plan, trials=trials, num_trials=plan.num_trials - repeated, num_repeated=repeated)


def incomparable(plan: PlanRecord) -> list[str]:
    """The swept fields that change what a loss is of: another unit or another text, and losses aren't comparable."""
    if plan.trainer is not None:
        return []
    return [
        name for name in (*UNIT_FIELDS, *MEASURE_FIELDS) if name in plan.swept and len(ordered_values(plan, name)) > 1
    ]


def is_gathered(plan: PlanRecord) -> bool:
    """Whether the search has tried most where the loss was low; TPE's first trials are drawn at random."""
    return plan.search in LEARNING and len(plan.trials) > TPE_STARTUP_TRIALS


def is_number(values: Sequence[Any]) -> bool:
    """Whether all are numbers (a bool is none)."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def ends_of(plan: PlanRecord, field: str) -> tuple[float, float]:
    """The lowest and the highest number in a field's space, of which --confirm leaves a part in the plan."""
    dimension = plan.space[field]
    if isinstance(dimension, Range):
        return dimension.low, dimension.high
    numbers = [value for value in dimension.grid() if isinstance(value, int | float) and not isinstance(value, bool)]
    return min(numbers), max(numbers)


def is_log(plan: PlanRecord, field: str) -> bool:
    """Whether a field's values are spaced logarithmically: as its range says, or choices over a factor of 8."""
    values = ordered_values(plan, field)
    if not values or not is_number(values) or min(values) <= 0:
        return False
    dimension = plan.space[field]
    return dimension.log if isinstance(dimension, Range) else max(values) / min(values) >= LOG_RATIO


def is_full_grid(plan: PlanRecord) -> bool:
    """Whether the plan's settings are every combination of their values, each once."""
    if len(unconditional(plan)) < len(plan.swept):
        return False
    sizes = [len(ordered_values(plan, field)) for field in plan.swept]
    distinct = {tuple(map(repr, trial.setting.values())) for trial in plan.trials}
    return len(distinct) == len(plan.trials) == int(np.prod(sizes))
