"""Rows in, DataFrames out: the tables that reports and notebooks read. Pure functions; knows no MLflow."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas as pd

from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.store import schema
from sweeps.store.attempts import best_of_each
from sweeps.store.schema import RunRow, column
from sweeps.store.sql import Point
from tinylm_core.config import RunConfig

_TIME = "datetime64[ms, UTC]"


def trials_frame(rows: Iterable[RunRow], plan: PlanRecord) -> pd.DataFrame:
    """The planned runs that exist, one a row, sorted by trial and seed.

    Columns: run_id, run_name, trial, seed, state, setting, identity, definition (that made it), start_time, end_time,
    duration_seconds; every field of the config under its own name; num_steps and tokens_per_step; `final_…`, `best_…`
    and objective, in nats per token; weights_sha256, num_parameters, device, threads, fingerprint; then swept fields
    that `RunConfig` lacks.
    Of several runs that are the same piece of science one that ended with a result counts, else one that runs, else
    the newest.
    """
    rows = list(rows)
    chosen = best_of_each(rows, lambda row: row.identity)
    today = schema.identities_today(rows)
    records = [
        _record(chosen[identity], plan, trial, seed)
        for trial in plan.trials
        for seed, planned in trial.runs.items()
        if (identity := today.get(planned, planned)) in chosen
    ]
    column_types = _column_types(records, _field_types(plan))
    frame = pd.DataFrame(records, columns=list(column_types)).astype(column_types)
    return frame.sort_values(["trial", "seed"], ignore_index=True)


def runs_frame(rows: Iterable[RunRow]) -> pd.DataFrame:
    """Runs with the trial number and seed that they were made with: what `history_frame` takes."""
    records = [(row.run_id, row.trial, row.seed) for row in rows]
    frame = pd.DataFrame(records, columns=["run_id", "trial", "seed"])
    frame = frame.astype({"run_id": "string", "trial": "Int64", "seed": "Int64"})
    return frame.sort_values(["trial", "seed", "run_id"], ignore_index=True)


def history_frame(points: Iterable[Point], runs: pd.DataFrame) -> pd.DataFrame:
    """Every step and evaluation, one (run, step) a row, sorted by trial, seed and step.

    `runs` has run_id, trial and seed. Columns: these, step, timestamp (the earliest of the row's values), then one a
    metric, NaN where that step has none; train_skipped is 0 or 1.
    """
    long = pd.DataFrame(points, columns=["run_id", "metric", "step", "timestamp_ms", "value"])
    long = long.astype({"timestamp_ms": "int64", "value": "float64"})
    # A database holds no infinity: MLflow stores the largest float for it.
    huge = long["value"].abs() >= sys.float_info.max
    long.loc[huge, "value"] = np.copysign(np.inf, long.loc[huge, "value"])
    key = ["run_id", "step"]
    # Should a value ever be there twice, the later one counts, as in MLflow.
    long = long.sort_values("timestamp_ms").drop_duplicates([*key, "metric"], keep="last")
    # Not pivot_table, which drops a step that has only NaN.
    wide = long.set_index([*key, "metric"])["value"].unstack("metric")  # noqa: PD010
    wide = wide.reindex(columns=list(schema.HISTORY_METRICS))
    wide.columns = pd.Index([column(metric) for metric in schema.HISTORY_METRICS])
    wide[column(schema.SKIPPED)] = wide[column(schema.SKIPPED)].fillna(0)
    wide.insert(0, "timestamp", pd.to_datetime(long.groupby(key)["timestamp_ms"].min(), unit="ms", utc=True))
    frame = runs[["run_id", "trial", "seed"]].merge(wide.reset_index(), on="run_id")
    column_types = {"run_id": "string", "trial": "Int64", "seed": "Int64", "step": "int64", "timestamp": _TIME}
    column_types |= {column(metric): "float64" for metric in schema.HISTORY_METRICS}
    frame = frame.astype(column_types | {column(schema.SKIPPED): "int64"})[list(column_types)]
    return frame.sort_values(["trial", "seed", "run_id", "step"], ignore_index=True)


def gaps_frame(trials: pd.DataFrame, swept: Sequence[str]) -> pd.DataFrame:
    """Mean final losses per value of each swept field, over the complete runs, in nats per token.

    Columns: parameter, value, num_runs, train_loss, val_loss, gap, gap_standard_error (NaN of a single run).
    """
    complete = trials[trials["state"] == "COMPLETE"].drop_duplicates("run_id")  # trials may share one
    records = [
        (
            parameter,
            None if pd.isna(value) else value,
            len(runs),
            runs["final_train_loss"].mean(),
            runs["final_val_loss"].mean(),
            runs["final_gap"].mean(),
            runs["final_gap"].sem(),
        )
        for parameter in swept
        for value, runs in complete.groupby(parameter, dropna=False)
    ]
    column_types = {"parameter": "string", "value": "object", "num_runs": "int64"}
    column_types |= dict.fromkeys(("train_loss", "val_loss", "gap", "gap_standard_error"), "float64")
    return pd.DataFrame(records, columns=list(column_types)).astype(column_types)


def _record(row: RunRow, plan: PlanRecord, trial: TrialRecord, seed: int) -> dict[str, Any]:
    """A row of `trials_frame`. The fields of a config that can't be read come from the plan."""
    fields: dict[str, Any] = dict(trial.setting)
    if row.config is not None:
        fields |= row.config.model_dump()
        fields |= {"num_steps": row.config.num_steps, "tokens_per_step": row.config.tokens_per_step}
    else:
        recorded = {"num_steps": trial.num_steps, "tokens_per_step": trial.tokens_per_step}
        fields = {**plan.base, **fields, **{name: value for name, value in recorded.items() if value is not None}}
    duration = row.end_time - row.start_time if row.start_time and row.end_time else None
    return fields | {
        "run_id": row.run_id,
        "run_name": row.name,
        "trial": trial.number,
        "seed": seed,
        "state": row.state,
        "setting": trial.label,
        "identity": row.identity,
        "definition": row.tags.get(schema.DEFINITION),
        "start_time": row.start_time,
        "end_time": row.end_time,
        "duration_seconds": duration.total_seconds() if duration is not None else None,
        "weights_sha256": row.tags.get(schema.WEIGHTS),
        "model_vocab_size": _number(row.tags.get(schema.VOCAB_SIZE)),
        "num_parameters": _number(row.tags.get(schema.NUM_PARAMETERS)),
        "device": row.tags.get(schema.DEVICE),
        "threads": _number(row.tags.get(schema.THREADS)),
        "fingerprint": row.tags.get(schema.FINGERPRINT),
        **{column(name): value for name, value in row.metrics.items() if _is_summary(name)},
    }


def _field_types(plan: PlanRecord) -> dict[str, str]:
    """The columns of a config's fields, each with its type; of a trainer's own, what the plan's values are."""
    if plan.trainer is None:
        return {name: _type(field.annotation) for name, field in RunConfig.model_fields.items()}
    values = {name: [value, *(t.setting.get(name) for t in plan.trials)] for name, value in plan.base.items()}
    return {name: _type(Union[*map(type, its)]) for name, its in values.items()}


def _column_types(records: Iterable[Mapping[str, Any]], fields: Mapping[str, str]) -> dict[str, str]:
    """The columns of `trials_frame` in their order, each with its type; others of the records go last."""
    texts = ("run_id", "run_name", "state", "setting", "identity", "definition")
    known: dict[str, str] = {"run_id": "string", "run_name": "string", "trial": "Int64", "seed": "Int64"}
    known |= dict.fromkeys(texts, "string") | {"start_time": _TIME, "end_time": _TIME, "duration_seconds": "float64"}
    known |= fields
    known |= dict.fromkeys(("num_steps", "tokens_per_step"), "Int64")
    known |= dict.fromkeys(map(column, schema.SUMMARY_METRICS), "float64")
    known |= {
        "weights_sha256": "string",
        "model_vocab_size": "Int64",
        "num_parameters": "Int64",
        "device": "string",
        "threads": "Int64",
    }
    known |= {"fingerprint": "string"}
    others = sorted({name for record in records for name in record} - set(known))
    prefixes = ("final_", "best_")
    return known | {name: "float64" if name.startswith(prefixes) else "object" for name in others}


def _type(annotation: Any) -> str:
    """The nullable column type of a config field's annotation."""
    parts = [annotation] if isinstance(annotation, type) else list(get_args(annotation))
    if get_origin(annotation) is Literal:
        parts = [type(part) for part in parts]
    kinds = {part if isinstance(part, type) else str for part in parts} - {type(None)}
    names = {int: "Int64", float: "float64", bool: "boolean", str: "string"}
    return names.get(kinds.pop(), "object") if len(kinds) == 1 else "object"


def _is_summary(metric: str) -> bool:
    return metric == schema.OBJECTIVE or metric.startswith(("final/", "best/"))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
