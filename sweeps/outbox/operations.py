"""The operations that the tracker is sent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinylm_core.records import now_ms


def end_content(
    run: str,
    state: str,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    artifacts: str = "",
    workdir: str = "",
) -> dict[str, Any]:
    """How a run ended now, by its creation ID; the folder of its artifacts is sent, and its work folder goes then."""
    content = {"run": run, "state": state, "end_time_ms": now_ms(), "metrics": dict(metrics or {})}
    return content | {"tags": dict(tags or {}), "artifacts": artifacts, "workdir": workdir}


def summary_key(name: str, definition: str) -> str:
    """The creation ID of a definition's summary run."""
    return f"{name}-{definition}"


def dataset_of(source: str | None, fingerprint: str | None) -> dict[str, str] | None:
    """The data as the tracker shows it; None where only the trainer knows them."""
    if fingerprint is None or source is None:
        return None
    return {"name": Path(source).name, "digest": fingerprint, "source": source}


Operation = dict[str, Any]


def joined(first: Operation, second: Operation) -> Operation | None:
    """One operation for two in a row that log what one run has done; None for others."""
    if first["op"] != "records" or second["op"] != "records" or first.get("run") != second.get("run"):
        return None
    names = ("steps", "evals", "usage")
    if not all(isinstance(operation.get(name, []), list) for operation in (first, second) for name in names):
        return None  # the sender says what is wrong with it
    lists = {name: [*first.get(name, []), *second.get(name, [])] for name in names}
    return first | {name: records for name, records in lists.items() if records}
