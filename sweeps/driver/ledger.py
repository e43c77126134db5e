"""What has been run and what is kept of it: known results, work folders, and the words the outbox is given.

Joins a run's records with where they come from; knows neither how the tracker stores them nor what comes next.
"""

import gzip
import json
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweeps.driver import provenance
from sweeps.driver.artifacts import gather_artifacts
from sweeps.driver.earlier_starts import notes_on_texts, notes_on_trainer
from sweeps.driver.run_folder import _creation_id, _has_kept_something
from sweeps.outbox.operations import dataset_of, end_content, summary_key
from sweeps.outbox.outbox import Outbox
from sweeps.outbox.work import publish_files
from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.spec.config_type import dumped, to_params
from sweeps.store import schema
from sweeps.workers.protocol import Job
from tinylm_core.durable import write_durably
from tinylm_core.records import RESULTS, EvalRecord, Metrics, StepRecord, UsageRecord, now_ms

MAX_CORPUS_BYTES = 20_000_000  # an archived corpus, uncompressed


@dataclass
class Live:
    """A run under way."""

    run: PlannedRun
    creation_id: str
    workdir: Path
    steps: list[StepRecord] = field(default_factory=list)
    evals: list[EvalRecord] = field(default_factory=list)


class Ledger:
    """The runs of one definition: `results` maps an identity to its objective, in nats per token.

    `conditions_of` tells those of law 1 under which a job on a device trains, which may be on another machine.
    """

    def __init__(
        self,
        plan: Plan,
        outbox: Outbox,
        work: Path,
        rows: Iterable[schema.RunRow],
        conditions_of: Callable[[str], dict[str, str]],
    ) -> None:
        self._plan, self._outbox, self._work, self._conditions_of = plan, outbox, work, conditions_of
        self._summary = summary_key(plan.experiment.name, plan.sweep.definition)
        self._trainer_file = plan.trainer.file
        self._latest: dict[str, schema.RunRow] = {}
        self.results: dict[str, float] = {}
        self._earlier_results: dict[str, schema.RunRow] = {}
        for row in sorted(rows, key=lambda row: str(row.start_time)):
            if row.identity is None:
                continue
            self._latest[row.identity] = row
            if row.state in RESULTS and schema.OBJECTIVE in row.metrics:
                self.results[row.identity] = row.metrics[schema.OBJECTIVE]
                self._earlier_results[row.identity] = row
        self.live: dict[str, Live] = {}

    def open(self, trials: list[Trial]) -> None:
        """Make the definition's summary run, or take it up again, with the trials known so far."""
        experiment = self._plan.experiment
        plan = self._plan.record(trials, created_ms=now_ms())
        note = f"{experiment.docstring.strip()}\n\n`{plan.command}`"
        tags = provenance.run_tags(self._conditions_of(self._plan.machine.device)) | {
            schema.ROLE: "summary",
            schema.SWEEP: experiment.name,
            schema.DEFINITION: self._plan.sweep.definition,
            schema.FILE: experiment.made_by,
            schema.NOTE: note,
        }
        content = {"run": self._summary, "name": f"summary {self._plan.sweep.definition}", "note": note}
        self._outbox.put("open", content | {"tags": tags, "plan": plan.to_json()}, sync=True)
        self._archive_corpora()

    def _archive_corpora(self) -> None:
        """Small corpora go along with the summary, so that a run reproduces on a machine that lacks them."""
        folder = self._work / "corpus"
        for fingerprint, text in self._plan.trainer.texts(self._plan.sweep).items():
            if text.stat().st_size <= MAX_CORPUS_BYTES:
                content = gzip.compress(text.read_bytes(), compresslevel=6, mtime=0)
                write_durably(folder / f"{fingerprint}.txt.gz", content)
        if folder.exists():
            publish_files(self._outbox, self._summary, folder, "corpus", temporary=True)

    def notes_on(self, trials: Iterable[Trial]) -> list[str]:
        """What there is to know of the results that trials have from earlier starts, a line each."""
        runs = [run for trial in trials for run in trial.runs]
        if self._trainer_file is None:
            return notes_on_texts(self._plan, runs, self._earlier_results.values()) if runs else []
        identities = [run.identity for run in runs]
        earlier = (self._earlier_results[identity] for identity in identities if identity in self._earlier_results)
        return notes_on_trainer(self._trainer_file, earlier)

    def asked(self, trial: Trial) -> None:
        """Keep a proposal before anything is made of it."""
        self._outbox.put("ask", {"summary": self._summary, "trial": trial.record().to_json()}, sync=True)

    def start(self, run: PlannedRun, device: str) -> Job:
        """The job of a run: its own interrupted one where the conditions are the same, else a new one."""
        workdir = self._work / "runs" / run.identity[:16]
        conditions = self._conditions_of(device)
        note = {"identity": run.identity, "conditions": conditions}
        creation_id = _creation_id(workdir, note)
        if self._trainer_file is not None and not _has_kept_something(workdir):
            creation_id = None  # it can't go on from where it was, and only it knows whether it would train alike
        is_new = creation_id is None
        if creation_id is None:
            shutil.rmtree(workdir, ignore_errors=True)
            creation_id = uuid.uuid4().hex
            content = json.dumps(note | {"creation_id": creation_id}).encode()
            self._outbox.when_there_is_room(lambda: write_durably(workdir / "run.json", content))
        self.live[run.identity] = Live(run, creation_id, workdir)
        start = self._start_content(run, creation_id, conditions) | {"is_new": is_new}
        self._outbox.put("start", start, sync=True)
        threads = int(conditions[schema.THREADS])
        fingerprint = run.fingerprint if self._trainer_file is None else None  # its own code reads its data
        return Job(
            run.identity, json.dumps(dumped(run.config)), workdir, device, threads, self._trainer_file, fingerprint
        )

    def _start_content(self, run: PlannedRun, creation_id: str, conditions: dict[str, str]) -> dict[str, Any]:
        experiment = self._plan.experiment
        tags = provenance.run_tags(conditions) | {
            schema.ROLE: "run",
            schema.SWEEP: experiment.name,
            schema.DEFINITION: self._plan.sweep.definition,
            schema.SETTING: run.label,
            schema.FILE: experiment.made_by,
            schema.TRIAL: str(run.trial),
            schema.IDENTITY: run.identity,
        }
        if run.fingerprint is not None:
            tags[schema.FINGERPRINT] = run.fingerprint
        if self._trainer_file is not None:
            tags[schema.TRAINER] = self._trainer_file.version
            tags[schema.TRAINER_SOURCE] = self._trainer_file.source.sha256
        before = self._latest.get(run.identity)
        if before is not None and before.tags.get(schema.CREATION) != creation_id:
            tags[schema.RETRY_OF] = before.run_id
        return {
            "run": creation_id,
            "name": run.name,
            "tags": tags,
            "params": to_params(run.config),
            "start_time_ms": now_ms(),
            "summary": self._summary,
            "dataset": dataset_of(dumped(run.config).get("data"), run.fingerprint),
        }

    def keep_steps(self, identity: str, records: list[StepRecord]) -> None:
        """Keep optimizer steps; a run taken up again tells its history from the start."""
        live = self.live[identity]
        if live.steps and live.steps[-1].step >= records[0].step:
            live.steps = [known for known in live.steps if known.step < records[0].step]
        live.steps += records
        every = self._plan.sweep.log_every
        last = live.run.config.num_steps
        sent = [asdict(record) for record in records if record.step % every == 0 or record.step == last]
        if sent:
            self._outbox.put("records", {"run": live.creation_id, "steps": sent})

    def keep_eval(self, identity: str, record: EvalRecord) -> None:
        """Keep an evaluation."""
        live = self.live[identity]
        live.evals = [known for known in live.evals if known.step < record.step] + [record]
        self._outbox.put("records", {"run": live.creation_id, "evals": [asdict(record)]})

    def keep_usage(self, identity: str, record: UsageRecord) -> None:
        """Keep what the run's process takes of its machine, at the last step that it told."""
        live = self.live[identity]
        step = live.steps[-1].step if live.steps else 0
        self._outbox.put("records", {"run": live.creation_id, "usage": [(step, asdict(record))]})

    def finish(self, identity: str, metrics: Metrics) -> float:
        """Keep a run that is complete or diverged, with its files; returns its objective."""
        live = self.live.pop(identity)
        tags = {schema.NUM_PARAMETERS: str(metrics.num_parameters), schema.VOCAB_SIZE: str(metrics.vocab_size)}
        if metrics.weights_sha256:
            tags[schema.WEIGHTS] = metrics.weights_sha256
        if metrics.diverged_at is not None:
            tags["trial.diverged_at"] = str(metrics.diverged_at)
        self.results[identity] = metrics.objective
        self._end(live, metrics.state, schema.summary_metrics(metrics), tags)
        return metrics.objective

    def fail(self, identity: str, error: str, traceback: str) -> None:
        """Keep a run that raised, with its traceback."""
        live = self.live.pop(identity)
        self._end(live, "FAILED", {}, {"trial.error": error[:5000]}, {"traceback.txt": traceback})

    def interrupt(self, identity: str) -> None:
        """A run that goes on at the next start: its work folder stays."""
        live = self.live.pop(identity)
        self._outbox.put("end", end_content(live.creation_id, "INTERRUPTED"), sync=True)

    def _end(
        self,
        live: Live,
        state: str,
        metrics: dict[str, float],
        tags: dict[str, str],
        files: dict[str, str] | None = None,
    ) -> None:
        artifacts = self._outbox.when_there_is_room(
            lambda: gather_artifacts(live.workdir, dumped(live.run.config), live.steps, live.evals, state, files)
        )
        content = end_content(live.creation_id, state, metrics, tags, str(artifacts), str(live.workdir))
        self._outbox.put("end", content, sync=True)

    def close(self, state: str) -> None:
        """The summary run no longer runs."""
        self._outbox.put("end", end_content(self._summary, state), sync=True)
