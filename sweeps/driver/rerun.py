"""Trains a recorded run again, and keeps that as a run of its own."""

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from tinylm_core.records import RESULTS

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.outbox.outbox import Outbox
    from sweeps.store.schema import RunRow
    from sweeps.workers.protocol import Job
    from tinylm_core.records import EvalRecord, Metrics, StepRecord


@dataclass
class Repeat:
    """A second training, as far as it came."""

    steps: list["StepRecord"] = field(default_factory=list)
    evals: list["EvalRecord"] = field(default_factory=list)
    metrics: "Metrics | None" = None
    error: str | None = None


def train_again(outbox: "Outbox", row: "RunRow", job: "Job", repeat: Repeat, last_step: int) -> None:
    """Train in a worker as the run was, up to where its record ends, and record that as a run of its own."""
    from sweeps.outbox.errors import DiskFullError
    from sweeps.workers.local import LocalWorkers
    from sweeps.workers.protocol import Died, Ended, Evaluated, NoSpace, Raised, Steps, Used

    workers = LocalWorkers([job.device])
    workers.submit(job)
    ends_early = row.state not in RESULTS
    while workers.is_busy():
        for message in workers.receive(0.5):
            match message:
                case Steps():
                    repeat.steps += message.records
                    outbox.put("records", {"run": job.key, "steps": [asdict(record) for record in message.records]})
                case Evaluated():
                    repeat.evals.append(message.record)
                    outbox.put("records", {"run": job.key, "evals": [asdict(message.record)]})
                case Used():
                    step = repeat.steps[-1].step if repeat.steps else 0
                    outbox.put("records", {"run": job.key, "usage": [(step, asdict(message.record))]})
                case Ended():
                    repeat.metrics = message.metrics
                case Raised():
                    repeat.error = message.error
                case Died():
                    repeat.error = message.reason
                case NoSpace():
                    raise DiskFullError(message.error)
                case _:
                    assert_never(message)
        if ends_early and repeat.steps and repeat.steps[-1].step > last_step:
            workers.kill()


def ended_content(job: "Job", repeat: Repeat) -> dict[str, Any]:
    """How a reproduction ended, with the files that any run has."""
    from sweeps.driver.artifacts import gather_artifacts
    from sweeps.outbox.operations import end_content
    from sweeps.store import schema

    metrics = repeat.metrics
    state = metrics.state if metrics else "FAILED" if repeat.error else "INTERRUPTED"
    return end_content(
        job.key,
        state,
        schema.summary_metrics(metrics) if metrics else {},
        {schema.WEIGHTS: metrics.weights_sha256} if metrics and metrics.weights_sha256 else {},
        str(gather_artifacts(job.workdir, json.loads(job.config), repeat.steps, repeat.evals, state)),
        str(job.workdir),
    )


def repeated_frame(repeat: Repeat) -> "pd.DataFrame":
    """The second training's history, with the columns of the store's."""
    from sweeps.driver.artifacts import history_table

    frame: pd.DataFrame = history_table(repeat.steps, repeat.evals).to_pandas()
    return frame
