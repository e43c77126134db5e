"""Turns what a run reports into operations for the outbox, and its end into files and an `End`.

It is the same for a sweep's run and for a reproduction. Knows no plan, no search, and not where the run executes.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from sweeps.driver.artifacts import HISTORY, gather_artifacts
from sweeps.outbox.operations import End, Records
from sweeps.outbox.outbox import Outbox
from sweeps.store import schema
from sweeps.store.layout import Layout
from sweeps.store.secrets import without_secrets
from sweeps.workers.protocol import Evaluated, Steps, Used
from tinylm_core.records import EvalRecord, Metrics, StepRecord, now_ms


@dataclass
class LiveRun:
    """What a run has told so far; each word of it is in the outbox."""

    outbox: Outbox
    layout: Layout
    creation_id: str
    workdir: Path
    config: dict[str, Any]  # as JSON has it
    num_steps: int
    log_every: int = 1  # the tracker gets every so many-th step, and the last
    steps: list[StepRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)

    def hear(self, message: Steps | Evaluated | Used) -> None:
        """Keep what the run has done; one that is taken up again tells its history from the start."""
        match message:
            case Steps(records=records):
                if self.steps and self.steps[-1].step >= records[0].step:
                    self.steps = [known for known in self.steps if known.step < records[0].step]
                self.steps += records
                sent = [one for one in records if one.step % self.log_every == 0 or one.step == self.num_steps]
                if sent:
                    self.outbox.put(Records(run=self.creation_id, steps=tuple(sent)))
            case Evaluated(record=record):
                self.evals = [known for known in self.evals if known.step < record.step] + [record]
                self.outbox.put(Records(run=self.creation_id, evals=(record,)))
            case Used(record=usage):
                step = self.steps[-1].step if self.steps else 0
                self.outbox.put(Records(run=self.creation_id, usage=((step, usage),)))
            case _:
                assert_never(message)

    def finish(self, metrics: Metrics) -> None:
        """Keep a run that is complete or diverged, with its numbers and files."""
        tags = {schema.NUM_PARAMETERS: str(metrics.num_parameters), schema.VOCAB_SIZE: str(metrics.vocab_size)}
        if metrics.weights_sha256:
            tags[schema.WEIGHTS] = metrics.weights_sha256
        if metrics.diverged_at is not None:
            tags[schema.DIVERGED_AT] = str(metrics.diverged_at)
        self._end(metrics.state, schema.summary_metrics(metrics), tags, {})

    def fail(self, error: str, traceback: str) -> None:
        """Keep a run that raised, with its traceback."""
        said, where = without_secrets(error), without_secrets(traceback)
        self._end("FAILED", {}, {schema.ERROR: said[:5000]}, {"traceback.txt": where})

    def abandon(self) -> None:
        """Keep what there is of a run that never goes on."""
        self._end("INTERRUPTED", {}, {}, {})

    def interrupt(self) -> None:
        """The run goes on at the next start: its work folder stays."""
        self.outbox.put(End(run=self.creation_id, state="INTERRUPTED", end_time_ms=now_ms()), sync=True)

    def _end(self, state: schema.State, metrics: dict[str, float], tags: dict[str, str], files: dict[str, str]) -> None:
        artifacts = self.outbox.when_there_is_room(
            lambda: gather_artifacts(self.workdir, self.config, self.steps, self.evals, state, files)
        )
        end = End(
            run=self.creation_id,
            state=state,
            end_time_ms=now_ms(),
            metrics=metrics,
            tags=tags | {schema.HISTORY_DIGEST: hashlib.sha256((artifacts / HISTORY).read_bytes()).hexdigest()},
            artifacts=self.layout.relative(artifacts),
            workdir=self.layout.relative(self.workdir),
        )
        self.outbox.put(end, sync=True)
