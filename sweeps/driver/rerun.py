"""Trains a recorded run again, kept as a run in the role `reproduction`. `analysis.reproduction` compares the two."""

from dataclasses import dataclass
from typing import assert_never

import pandas as pd

from sweeps.driver import provenance
from sweeps.driver.artifacts import history_table
from sweeps.driver.live_run import LiveRun
from sweeps.outbox.errors import DiskFullError
from sweeps.outbox.operations import Start, dataset_of
from sweeps.outbox.outbox import Outbox
from sweeps.spec.config_type import Config, dumped
from sweeps.store import schema
from sweeps.store.layout import Layout
from sweeps.store.schema import RunRow
from sweeps.trainers.trainer_file import TrainerFile
from sweeps.workers.protocol import Died, Ended, Evaluated, Job, NoSpace, Raised, Steps, Used, Workers
from tinylm_core.machine import conditions
from tinylm_core.records import Metrics, now_ms

KEPT_TAGS = (schema.SWEEP, schema.DEFINITION, schema.SUMMARY_RUN, schema.SETTING, schema.FILE, schema.IDENTITY,
             schema.FINGERPRINT, schema.TRAINER)  # fmt: skip


@dataclass(frozen=True)
class Repeat:
    """A second training, as far as it came."""

    history: pd.DataFrame  # with the columns of the store's
    metrics: Metrics | None = None
    error: str | None = None


def start_again(
    outbox: Outbox, layout: Layout, row: RunRow, job: Job, config: Config, file: TrainerFile | None
) -> LiveRun:
    """The MLflow run of a reproduction: it never enters a report, by its role."""
    tags = {key: row.tags[key] for key in KEPT_TAGS if key in row.tags}
    if file is not None:
        tags[schema.TRAINER_SOURCE] = file.source.sha256
    tags |= provenance.run_tags(conditions(job.device, job.threads))
    tags |= {schema.ROLE: "reproduction", schema.REPRODUCTION_OF: row.run_id}
    start = Start(
        run=job.key,
        name=f"{row.name} again",
        tags=tags,
        params=row.params,
        start_time_ms=now_ms(),
        dataset=dataset_of(row.params.get("data"), row.tags.get(schema.FINGERPRINT)),
    )
    outbox.put(start, sync=True)
    return LiveRun(outbox, layout, job.key, job.workdir, dumped(config), config.num_steps)


def train_again(live: LiveRun, workers: Workers, job: Job, *, last_step: int | None) -> Repeat:
    """Train a job to its end, or beyond `last_step` where its record ends there, and keep how that went.

    DiskFullError where the run finds no room.
    """
    workers.submit(job)
    ended: Ended | Raised | Died | None = None
    try:
        while workers.is_busy():
            for message in workers.receive(0.5):
                match message:
                    case Steps() | Evaluated() | Used():
                        live.hear(message)
                    case NoSpace():
                        raise DiskFullError(message.error)
                    case Ended() | Raised() | Died():
                        ended = message
                    case _:
                        assert_never(message)
            if last_step is not None and live.steps and live.steps[-1].step > last_step:
                workers.kill()
    except DiskFullError:
        live.interrupt()  # its files, which nobody needs, would want room too
        raise
    except BaseException:
        live.abandon()
        raise
    return _kept(live, ended)


def _kept(live: LiveRun, ended: Ended | Raised | Died | None) -> Repeat:
    history: pd.DataFrame = history_table(live.steps, live.evals).to_pandas()
    match ended:
        case Ended():
            live.finish(ended.metrics)
            return Repeat(history, metrics=ended.metrics)
        case Raised():
            live.fail(ended.error, ended.traceback)
            return Repeat(history, error=ended.error)
        case Died():
            live.fail(ended.reason, ended.reason)
            return Repeat(history, error=ended.reason)
        case None:
            live.abandon()
            return Repeat(history)
