"""The book of a definition's runs in one start: which have a result, which go on, and the operations that record each.

Knows neither how the tracker stores them nor what comes next.
"""

import gzip
import json
import shutil
import uuid
from collections.abc import Callable, Iterable

from sweeps.driver import provenance
from sweeps.driver.earlier_starts import notes_on_texts, notes_on_trainer
from sweeps.driver.live_run import LiveRun
from sweeps.driver.run_folder import RunNote, can_go_on
from sweeps.outbox.operations import Ask, End, Open, Publish, Reuse, Start, dataset_of, summary_key
from sweeps.outbox.outbox import Outbox
from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.spec.config_type import dumped, to_params
from sweeps.store import schema
from sweeps.store.attempts import best_of_each
from sweeps.store.layout import Layout
from sweeps.workers.protocol import Evaluated, Job, Steps, Used
from tinylm_core.durable import write_durably
from tinylm_core.records import RESULTS, Metrics, now_ms

MAX_CORPUS_BYTES = 20_000_000  # an archived corpus, uncompressed


class Ledger:
    """`results` maps an identity to its objective, in nats per token; `live` has the runs under way.

    `conditions_of` tells those of law 1 under which a job on a device trains, which may be on another machine.
    """

    def __init__(
        self,
        plan: Plan,
        outbox: Outbox,
        layout: Layout,
        rows: Iterable[schema.RunRow],
        conditions_of: Callable[[str], dict[str, str]],
    ) -> None:
        self._plan, self._outbox, self._layout, self._conditions_of = plan, outbox, layout, conditions_of
        self._work = layout.work_of(plan.experiment.name)
        self._summary = summary_key(plan.experiment.name, plan.sweep.definition)
        self._trainer_file = plan.trainer.file
        self._earlier = best_of_each(rows, lambda row: row.identity)
        self.results: dict[str, float] = {
            identity: row.metrics[schema.OBJECTIVE]
            for identity, row in self._earlier.items()
            if row.state in RESULTS and schema.OBJECTIVE in row.metrics
        }
        self.live: dict[str, LiveRun] = {}
        self._runs: dict[str, PlannedRun] = {}  # those that this start has begun

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
        name = f"summary {self._plan.sweep.definition}"
        self._outbox.put(Open(run=self._summary, name=name, note=note, tags=tags, plan=plan), sync=True)
        for trial in trials:
            self._reuse(trial)
        self._archive_corpora()

    def _reuse(self, trial: Trial) -> None:
        """Mark the results that a trial has from other definitions as runs of this one too."""
        definition = self._plan.sweep.definition
        for run in trial.runs:
            row = self._earlier.get(run.identity) if run.identity in self.results else None
            if row is not None and f"{schema.MEMBER}{definition}" not in row.tags:
                self._outbox.put(Reuse(run_id=row.run_id, definition=definition))

    def _archive_corpora(self) -> None:
        """Small corpora go along with the summary, so that a run reproduces on a machine that lacks them."""
        folder = self._work.corpus
        for fingerprint, text in self._plan.trainer.texts(self._plan.sweep).items():
            if text.stat().st_size <= MAX_CORPUS_BYTES:
                content = gzip.compress(text.read_bytes(), compresslevel=6, mtime=0)
                write_durably(folder / f"{fingerprint}.txt.gz", content)
        if folder.exists():
            path = self._layout.relative(folder)
            publish = Publish(run=self._summary, folder=path, artifact_path="corpus", temporary=True)
            self._outbox.put(publish, sync=True)

    def notes_on(self, trials: Iterable[Trial]) -> list[str]:
        """What there is to know of the results that trials have from earlier starts, a line each."""
        runs = [run for trial in trials for run in trial.runs]
        earlier = {identity: self._earlier[identity] for identity in self.results if identity in self._earlier}
        if self._trainer_file is None:
            return notes_on_texts(self._plan, runs, earlier.values()) if runs else []
        ours = (earlier[run.identity] for run in runs if run.identity in earlier)
        return notes_on_trainer(self._trainer_file, ours)

    def asked(self, trial: Trial) -> None:
        """Keep a proposal before anything is made of it."""
        self._outbox.put(Ask(summary=self._summary, trial=trial.record()), sync=True)
        self._reuse(trial)

    def run_of(self, identity: str) -> PlannedRun:
        """The planned run that is, or was, under way as this identity."""
        return self._runs[identity]

    def start(self, run: PlannedRun, device: str) -> Job:
        """The job of a run: its own interrupted one where the conditions are the same, else a new one."""
        workdir = self._work.run(run.identity)
        conditions = self._conditions_of(device)
        note = can_go_on(workdir, run.identity, conditions, only_if_kept=self._trainer_file is not None)
        is_new = note is None
        if note is None:
            shutil.rmtree(workdir, ignore_errors=True)
            note = fresh = RunNote(run.identity, conditions, uuid.uuid4().hex)
            self._outbox.when_there_is_room(lambda: fresh.write(workdir))
        self._runs[run.identity] = run
        config, creation_id = dumped(run.config), note.creation_id
        self.live[run.identity] = LiveRun(
            self._outbox,
            self._layout,
            creation_id,
            workdir,
            config,
            num_steps=run.config.num_steps,
            log_every=self._plan.sweep.log_every,
        )
        fingerprint = run.fingerprint
        start = Start(
            run=creation_id,
            name=run.name,
            tags=self._tags(run, creation_id, conditions),
            params=to_params(run.config),
            start_time_ms=now_ms(),
            summary=self._summary,
            dataset=dataset_of(config.get("data"), fingerprint),
            is_new=is_new,
        )
        self._outbox.put(start, sync=True)
        return Job(
            run.identity,
            json.dumps(config),
            workdir,
            device,
            int(conditions[schema.THREADS]),
            self._trainer_file,
            fingerprint if self._trainer_file is None else None,  # its own code reads its data
        )

    def _tags(self, run: PlannedRun, creation_id: str, conditions: dict[str, str]) -> dict[str, str]:
        experiment = self._plan.experiment
        tags = provenance.run_tags(conditions) | {
            schema.ROLE: "run",
            schema.SWEEP: experiment.name,
            schema.DEFINITION: self._plan.sweep.definition,
            f"{schema.MEMBER}{self._plan.sweep.definition}": "true",
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
        before = self._earlier.get(run.identity)
        if before is not None and before.tags.get(schema.CREATION) != creation_id:
            tags[schema.RETRY_OF] = before.run_id
        return tags

    def hear(self, identity: str, message: Steps | Evaluated | Used) -> None:
        """Keep what a run has done."""
        self.live[identity].hear(message)

    def finish(self, identity: str, metrics: Metrics) -> float:
        """Keep a run that is complete or diverged, with its files; returns its objective."""
        self.live.pop(identity).finish(metrics)
        self.results[identity] = metrics.objective
        return metrics.objective

    def fail(self, identity: str, error: str, traceback: str) -> None:
        """Keep a run that raised, with its traceback."""
        self.live.pop(identity).fail(error, traceback)

    def interrupt(self, identity: str) -> None:
        """A run that goes on at the next start: its work folder stays."""
        self.live.pop(identity).interrupt()

    def close(self, state: schema.State) -> None:
        """The summary run no longer runs."""
        self._outbox.put(End(run=self._summary, state=state, end_time_ms=now_ms()), sync=True)
