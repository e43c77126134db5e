"""What each operation of the outbox does to the store. Any may come twice; the second time it changes nothing.

A journal is a file that anything may have written to: what could not be read is refused, and only folders of this store
are read or removed. Knows no search and no workers.
"""

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, assert_never

from sweeps.outbox import operations as to_do
from sweeps.outbox.definitions import Definitions
from sweeps.outbox.errors import RefusedError
from sweeps.outbox.operations import Operation, Unreadable
from sweeps.outbox.tenure import Tenure
from sweeps.outbox.tracked import RunGoneError, TrackedRuns
from sweeps.store import is_temporary, schema
from sweeps.store.artifacts import NoArtifactError
from sweeps.store.holder import Holder
from sweeps.store.read import Store
from tinylm_core.records import EvalRecord, StepRecord, now_ms

if TYPE_CHECKING:
    from sweeps.store.removal import Remover
    from sweeps.store.write import Writer

R = TypeVar("R", StepRecord, EvalRecord)


class Sender:
    """Sends the operations of one sweep to its experiment; `say` is told what a person should know."""

    def __init__(
        self, store: Store, name: str, say: Callable[[str], None] = lambda _: None, holder: Holder | None = None
    ) -> None:
        self._store = store
        self._name = name
        self._say = say
        self._journal = store.layout.work_of(name).journal
        self._runs = TrackedRuns(store, name, lambda: self._writer)
        self._definitions = Definitions(store, name, self._runs.id_of)
        self._tenure = None if holder is None or not holder.epoch else Tenure(store, name, holder, lambda: self._writer)
        self._is_repeat = False  # whether the operation under way may have been done before
        self._failed = False
        self._deleted: set[str] = set()
        self._stays: set[str] = set()  # why artifacts can't be freed

    def __call__(self, operation: Operation | Unreadable, replayed: bool) -> None:
        """Send one operation; `replayed` says that an earlier process may have sent it. RefusedError: never again."""
        if isinstance(operation, Unreadable):
            raise self._refused(operation.why)
        self._is_repeat = replayed or self._failed
        self._failed = True
        try:
            self.beat()
            self._send(operation)
        except RefusedError:
            raise
        except Exception as error:
            if is_temporary(error):
                self._runs.doubt_marks()  # it may have been done, and only the answer was lost
                raise
            if not (isinstance(error, RunGoneError) or self._runs.is_deleted(operation)):
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise RefusedError(
                    f"the tracker refuses operation {operation.op!r}: {said}; the records wait in {self._journal}"
                ) from error
            self._let_go(operation)
        self._failed = False

    @cached_property
    def _writer(self) -> "Writer":
        """Made when there is something to send: loading MLflow takes seconds, and runs can begin meanwhile."""
        return self._store.writer()

    @cached_property
    def _remover(self) -> "Remover":
        return self._store.remover()

    def _send(self, operation: Operation) -> None:
        match operation:
            case to_do.Hold() | to_do.Release():
                pass  # of an earlier version, whose driver is gone
            case to_do.Open():
                self._open(operation)
            case to_do.Ask():
                self._definitions.add_trial(self._writer, operation.summary, operation.trial)
            case to_do.Start():
                self._start(operation)
            case to_do.Reuse():
                self._writer.set_tags(operation.run_id, {f"{schema.MEMBER}{operation.definition}": "true"})
            case to_do.Records():
                self._log(operation)
            case to_do.End():
                self._end(operation)
            case to_do.MarkDead():
                self._writer.end_run(operation.run_id, state="INTERRUPTED", end_time_ms=operation.end_time_ms)
            case to_do.DropWeights():
                self._remover.delete_artifacts(operation.run_id, schema.CHECKPOINT)
                self._writer.set_tags(operation.run_id, {schema.WEIGHTS_KEPT: "false"})
            case to_do.Publish():
                self._publish(operation)
            case to_do.RemoveRun():
                self._remove_run(operation)
            case to_do.RemoveSweep():
                self._remove_sweep()
            case to_do.Note():  # the last one stands
                self._writer.set_note(self._runs.id_of(operation.run), operation.note)
                self._writer.experiment(self._name, operation.note)
            case to_do.KeepModel():
                self._keep_model(operation)
            case _:
                assert_never(operation)

    def beat(self) -> None:
        """Give a sign of life where one is due. LeaseLostError where another driver has taken the sweep meanwhile."""
        if self._tenure is not None:
            self._tenure.beat()

    def release(self) -> None:
        """Say that nobody drives the sweep any more."""
        if self._tenure is not None:
            self._tenure.release()

    def _open(self, operation: to_do.Open) -> None:
        is_new = not self._runs.has_experiment  # else its note has an answer, until there is another
        experiment = self._runs.experiment_id(operation.note if is_new else None)
        plan = operation.plan
        began = plan.created_ms or now_ms()
        self._writer.set_views(experiment, plan.definition, plan.swept, began)
        tags = operation.tags
        self._runs.create(operation.run, name=operation.name, tags=tags, params={}, start_time_ms=began, adopt=True)
        self._definitions.put(self._writer, operation.run, plan)

    def _start(self, operation: to_do.Start) -> None:
        tags = operation.tags
        if self._tenure is not None:
            tags = tags | {schema.EPOCH: str(self._tenure.epoch)}
        if operation.summary is not None:
            tags = tags | {schema.SUMMARY_RUN: self._runs.id_of(operation.summary)}
        run_id = self._runs.create(
            operation.run,
            name=operation.name,
            tags=tags,
            params=operation.params,
            start_time_ms=operation.start_time_ms,
            adopt=self._is_repeat or not operation.is_new,
        )
        if operation.dataset is not None:
            data = operation.dataset
            self._writer.log_dataset(run_id, name=data.name, digest=data.digest, source=data.source, context="training")

    def _log(self, operation: to_do.Records) -> None:
        """MLflow itself knows by its moment whether it has a look at the run's process already."""
        step_mark, eval_mark = self._runs.mark(operation.run)
        steps, evals = _later(operation.steps, step_mark), _later(operation.evals, eval_mark)
        self._writer.log_records(self._runs.id_of(operation.run), steps=steps, evals=evals, usage=operation.usage)
        mark = steps[-1].step if steps else step_mark, evals[-1].step if evals else eval_mark
        self._runs.set_mark(operation.run, mark)

    def _end(self, operation: to_do.End) -> None:
        run_id = self._runs.id_of(operation.run)
        if operation.artifacts and (folder := self._own(operation.artifacts)).is_dir():
            self._writer.log_artifacts(run_id, folder)
        self._writer.end_run(
            run_id,
            state=operation.state,
            end_time_ms=operation.end_time_ms,
            metrics=operation.metrics,
            tags=operation.tags,
            is_repeat=self._is_repeat,
        )
        self._remove(operation.workdir)

    def _publish(self, operation: to_do.Publish) -> None:
        if (folder := self._own(operation.folder)).is_dir():
            self._writer.log_artifacts(self._runs.id_of(operation.run), folder, operation.artifact_path)
            if operation.temporary:
                self._remove(operation.folder)

    def _remove_run(self, operation: to_do.RemoveRun) -> None:
        problem = self._remover.remove_run(operation.run_id)
        if problem and problem not in self._stays:
            self._stays.add(problem)
            self._say(f"artifacts stay, as they can't be freed from here: {problem}")
        self._remove(operation.workdir)

    def _remove_sweep(self) -> None:
        """What is left of a sweep without runs; the journal is in use."""
        if not self._remover.remove_experiment(self._name):
            self._say(f"the experiment {self._name} stays, for it has runs that are no sweep's")
        layout = self._store.layout
        shutil.rmtree(layout.report_of(self._name), ignore_errors=True)
        for folder in (path for path in layout.work_of(self._name).folder.iterdir() if path.is_dir()):
            self._remove(layout.relative(folder))
        self._holder = None
        self._runs.forget()
        self._definitions.forget()

    def _keep_model(self, operation: to_do.KeepModel) -> None:
        run_id = operation.run_id

        def get_checkpoint(folder: Path) -> Path:
            return self._store.artifacts.download(run_id, schema.CHECKPOINT, folder)

        try:
            self._writer.keep_model(run_id, operation.definition, get_checkpoint)
        except NoArtifactError:
            self._say(f"run {run_id} has no weights any more, so there is no model of it")

    def _let_go(self, operation: Operation) -> None:
        """Drop what belongs to a run that somebody deleted; the next start makes it again."""
        run = self._runs.subject(operation)
        if run not in self._deleted:
            self._deleted.add(run)
            self._say(f"run {run} was deleted in MLflow; the rest of its records is dropped")
        self._remove(getattr(operation, "workdir", None))

    def _remove(self, folder: str | None) -> None:
        if folder is not None:
            shutil.rmtree(self._own(folder), ignore_errors=True)

    def _own(self, folder: str) -> Path:
        """The folder, where it is one of this store's. RefusedError where it is not."""
        try:
            return self._store.layout.own(folder)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def _refused(self, why: str) -> RefusedError:
        return RefusedError(
            f"{self._journal}: {why}; the version that wrote it can send it, and without the file its records are lost "
            "and their runs are made again"
        )


def _later(records: tuple[R, ...], mark: int) -> list[R]:
    """The records in their order, without those of a step that is there or was before; a history may be told again."""
    later = []
    for record in records:
        if record.step > mark:
            later.append(record)
            mark = record.step
    return later
