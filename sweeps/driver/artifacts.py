"""Gathers the files that become a run's artifacts; `history_table` is its history.parquet. Knows no outbox."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.driver import provenance
from sweeps.store import schema
from sweeps.store.secrets import without_secrets
from sweeps.workers.protocol import LOG, SAMPLES
from tinylm_core.durable import sync_tree, write_durably
from tinylm_core.records import EvalRecord, StepRecord

HISTORY = "history.parquet"


def gather_artifacts(
    workdir: Path,
    config: dict[str, Any],
    steps: list[StepRecord],
    evals: list[EvalRecord],
    state: str,
    files: dict[str, str],
) -> Path:
    """The folder with all files that the tracker gets of a run: what it was, what it did, and its weights.

    Once more where it has failed before: what can't be made again comes last, and needs no room.
    """
    artifacts = workdir / "artifacts"
    shutil.rmtree(artifacts, ignore_errors=True)  # of a driver that died right here
    texts = {
        schema.CONFIG: json.dumps(config, indent=2),
        schema.ENVIRONMENT: provenance.environment(),
        **({schema.DIFF: diff} if (diff := provenance.code().diff) else {}),
        **files,
    }
    for name, text in texts.items():
        write_durably(artifacts / name, text.encode("utf-8", "backslashreplace"))
    sink = pa.BufferOutputStream()
    pq.write_table(history_table(steps, evals), sink)
    write_durably(artifacts / HISTORY, sink.getvalue().to_pybytes())
    if (workdir / LOG).exists() and (workdir / LOG).stat().st_size:
        # A copy, since the worker may still have a word to say on its way out.
        log = (workdir / LOG).read_bytes().decode("utf-8", "surrogateescape")
        write_durably(artifacts / LOG, without_secrets(log).encode("utf-8", "surrogateescape"))
    for name in (schema.CHECKPOINT, SAMPLES):
        if state == "COMPLETE" and (workdir / name).exists():
            (workdir / name).rename(artifacts / name)
    sync_tree(artifacts)  # what says that they are there must not be on the disk before them
    return artifacts


def history_table(steps: list[StepRecord], evals: list[EvalRecord]) -> pa.Table:
    """history.parquet: a row a step or evaluation, columns named as the tracker's metrics with / as _."""
    rows: dict[int, dict[str, float]] = {}
    for record in steps:
        values = {metric: float(getattr(record, attribute)) for metric, attribute in schema.STEP_METRICS.items()}
        rows[record.step] = values | {schema.SKIPPED: float(record.skipped), "timestamp_ms": record.timestamp_ms}
    for evaluation in evals:
        row = rows.setdefault(evaluation.step, {"timestamp_ms": evaluation.timestamp_ms})
        row.update(schema.eval_metrics(evaluation))
    names = ["timestamp_ms", *schema.HISTORY_METRICS]
    columns: dict[str, Any] = {"step": pa.array(sorted(rows), pa.int64())}
    for name in names:
        values_in_order = [rows[step].get(name) for step in sorted(rows)]
        kind = pa.int64() if name == "timestamp_ms" else pa.float64()
        columns[schema.column(name)] = pa.array(values_in_order, kind)
    return pa.table(columns)
