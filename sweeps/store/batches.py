"""Records as MLflow's metrics and tags, cut to MLflow's limits."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from mlflow.entities import Metric, RunTag

from sweeps.store import schema
from tinylm_core.records import StepRecord

_Item = TypeVar("_Item")

# MLflow's limits
_METRICS_A_BATCH = 1000
_TAG_LENGTH = 5000  # 8000 since 3.0


def step_metrics(record: StepRecord) -> "list[Metric]":
    """The metrics of an optimizer step, without what was not measured."""
    values = {metric: float(getattr(record, attribute)) for metric, attribute in schema.STEP_METRICS.items()}
    values = {metric: value for metric, value in values.items() if not math.isnan(value)}  # NaN: not measured
    if record.skipped:
        values[schema.SKIPPED] = 1.0
    return as_metrics(values, record.timestamp_ms, record.step)


def as_metrics(values: Mapping[str, float], timestamp_ms: int, step: int) -> "list[Metric]":
    """Values of one moment and step, by their names."""
    return [Metric(name, value, timestamp_ms, step) for name, value in values.items()]


def as_tags(tags: Mapping[str, str]) -> "list[RunTag]":
    """Tags by their keys."""
    return [RunTag(key, value) for key, value in tags.items()]


def batches(groups: "Iterable[list[Metric]]") -> "Iterator[list[Metric]]":
    """Groups joined to batches that MLflow takes, no group divided."""
    batch: list[Metric] = []
    for group in groups:
        if len(batch) + len(group) > _METRICS_A_BATCH:
            yield batch
            batch = []
        batch.extend(group)
    if batch:
        yield batch


def chunks(values: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """The values in their order, at most `size` at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def cut(note: str) -> str:
    """A note, shortened where it is longer than a tag may be."""
    return note if len(note) <= _TAG_LENGTH else f"{note[: _TAG_LENGTH - 2]}\n…"


def is_same(stored: float | None, value: float) -> bool:
    """Whether a stored metric has this value already; the database has no infinity."""
    if stored is None:
        return False
    return stored == value or (math.isnan(stored) and math.isnan(value)) or schema.finite_or_inf(stored) == value
