"""What each operation of the outbox does to the store. Any may come twice; the second time it changes nothing.

Runs are known by the creation ID that the driver gave them; MLflow's run ID is found by it. A journal is a file that
anything may have written to: operations are checked, and only folders of this store are read or removed.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, validate_call

from sweeps.outbox.errors import RefusedError
from sweeps.outbox.operations import Operation
from sweeps.store import Writer, is_temporary, schema
from sweeps.store.artifacts import NoArtifactError
from sweeps.store.read import Store
from sweeps.store.removal import Remover
from tinylm_core.records import EvalRecord, StepRecord, UsageRecord

HELD_AGAIN_SECONDS = 20.0  # between two signs of life of a driver

R = TypeVar("R", StepRecord, EvalRecord)


class RunGoneError(Exception):
    """The tracker made a run and has it no more."""


class Sender:
    """Sends the operations of one sweep to its experiment; `say` is told what a person should know."""

    def __init__(self, store: Store, name: str, say: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._name = name
        self._say = say
        self._operations = {
            # Each call's arguments are checked against the annotations.
            operation.__name__.removeprefix("_"): validate_call(operation)
            for operation in (
                self._hold, self._release, self._open, self._ask, self._start, self._records, self._end,
                self._mark_dead, self._drop_weights, self._publish, self._remove_run, self._remove_sweep, self._note,
                self._model,
            )
        }  # fmt: skip
        self._holder: dict[str, Any] | None = None
        self._held_at = 0.0
        self._is_repeat = False  # whether the operation under way may have been done before
        self._failed = False
        self._deleted: set[str] = set()
        self._stays: set[str] = set()  # why artifacts can't be freed
        self._experiment: str | None = None
        self._run_ids: dict[str, str] = {}
        self._marks: dict[str, tuple[int, int]] = {}  # the last step and evaluation that are in the store
        self._plans: dict[str, dict[str, Any]] = {}

    def __call__(self, operation: Operation, replayed: bool) -> None:
        """Send one operation; `replayed` says that an earlier process may have sent it. RefusedError: never again."""
        name, content = operation["op"], {key: value for key, value in operation.items() if key != "op"}
        if replayed and name in ("hold", "release"):
            return  # of a driver that is gone
        if name not in self._operations:
            raise self._unknown(f"operation {name!r} is none of this version")
        self._is_repeat = replayed or self._failed
        self._failed = True
        try:
            self._operations[name](**content)
            self._hold_again()
            self._failed = False
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._unknown(f"operation {name!r}: {where}: {first['msg'].lower()}") from None
        except RefusedError:
            raise
        except Exception as error:
            if is_temporary(error):
                self._marks.clear()  # it may have been done, and only the answer was lost
                raise
            if not (isinstance(error, RunGoneError) or self._is_deleted(content)):
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise RefusedError(
                    f"the tracker refuses operation {name!r}: {said}; the records wait in {self._journal}"
                ) from error
            self._let_go(content)
            self._failed = False

    @cached_property
    def _writer(self) -> Writer:
        """Made when there is something to send: loading MLflow takes seconds, and runs can begin meanwhile."""
        return self._store.writer()

    @cached_property
    def _remover(self) -> Remover:
        return self._store.remover()

    @property
    def _journal(self) -> Path:
        return self._work / "journal.jsonl"

    @property
    def _work(self) -> Path:
        return self._store.folder / "work" / self._name

    def _is_deleted(self, content: Operation) -> bool:
        run_id = content.get("run_id") or self._run_ids.get(content.get("run", ""))
        return run_id is not None and self._writer.is_deleted(run_id)

    def _let_go(self, content: Operation) -> None:
        """Drop what belongs to a run that somebody deleted; the next start makes it again."""
        run = content.get("run") or content.get("run_id") or content["summary"]
        if run not in self._deleted:
            self._deleted.add(run)
            which = content.get("run_id") or self._run_ids.get(run, f"with {schema.CREATION} = {run}")
            self._say(f"run {which} was deleted in MLflow; the rest of its records is dropped")
        self._remove(content.get("workdir", ""))

    def _remove(self, folder: str) -> None:
        if folder:
            shutil.rmtree(self._inside(folder), ignore_errors=True)

    def _inside(self, folder: str) -> Path:
        """The folder, where it is one of this store's. RefusedError where it is not."""
        path = Path(folder)
        if not any(
            path.resolve().is_relative_to((self._store.folder / ours).resolve()) for ours in ("work", "reports")
        ):
            raise self._unknown(f"{folder!r} is no folder of this store")
        return path

    def _unknown(self, why: str) -> RefusedError:
        return RefusedError(
            f"{self._journal}: {why}; the version that wrote it can send it, and without the file its records are lost "
            "and their runs are made again"
        )

    def _hold(self, holder: dict[str, Any]) -> None:
        """Say who drives the sweep, now and from time to time."""
        self._holder = holder
        self._held_at = 0.0

    def _hold_again(self) -> None:
        if self._holder is None or time.monotonic() - self._held_at < HELD_AGAIN_SECONDS:
            return
        if self._experiment or self._name in self._store.sweeps():
            self._writer.set_holder(self._experiment_id(), self._holder | {"seen": time.time()})
            self._held_at = time.monotonic()

    def _release(self) -> None:
        if self._holder and self._held_at:
            self._writer.set_holder(self._experiment_id(), None)
        self._holder = None

    def _open(self, run: str, name: str, note: str, tags: dict[str, str], plan: dict[str, Any]) -> None:
        """A definition's summary run, made or taken up again, with its plan."""
        is_new = self._name not in self._store.sweeps()  # else its note has an answer, until there is another
        self._experiment = self._writer.experiment(self._name, note if is_new else None)
        self._writer.set_views(
            self._experiment, plan["swept"], [] if is_new else self._differing(plan), plan["created_ms"]
        )
        run_id = self._create(run, name, tags, {}, plan["created_ms"])
        self._writer.resume_run(run_id)
        self._put_plan(run, plan)

    def _differing(self, plan: dict[str, Any]) -> list[str]:
        """The fields of a definition's base in which another of the sweep differs."""
        others = [known.plan.base for known in self._store.definitions(self._name) if known.plan]
        return [field for field, value in plan.get("base", {}).items() if any(b.get(field) != value for b in others)]

    def _ask(self, summary: str, trial: dict[str, Any]) -> None:
        """A trial that the search proposed enters its definition's plan."""
        plan = self._plans.get(summary) or self._stored_plan(summary)
        if plan is not None:
            known = {known["trial"]: known for known in plan["trials"]} | {trial["trial"]: trial}
            self._put_plan(summary, plan | {"trials": [known[number] for number in sorted(known)]})

    def _start(
        self,
        run: str,
        name: str,
        tags: dict[str, str],
        params: dict[str, str],
        start_time_ms: int,
        summary: str | None,
        dataset: dict[str, str] | None,
        is_new: bool = False,
    ) -> None:
        """A run's MLflow run: made, or taken up again after an interruption.

        `is_new`: nobody made it before this operation was put, so that a first sending need not look for it.
        """
        if summary is not None:
            tags = tags | {schema.SUMMARY_RUN: self._run_id(summary)}
        adopt = self._is_repeat or not is_new
        run_id = self._create(run, name, tags, params, start_time_ms, adopt=adopt)
        if dataset is not None:
            self._writer.log_dataset(run_id, context="training", **dataset)
        if adopt:
            self._writer.resume_run(run_id)
            self._mark(run)
        else:
            self._marks[run] = (-1, -1)

    def _records(
        self,
        run: str,
        steps: list[StepRecord] = [],  # noqa: B006  # pydantic copies it
        evals: list[EvalRecord] = [],  # noqa: B006
        usage: list[tuple[int, UsageRecord]] = [],  # noqa: B006
    ) -> None:
        """What a run has done; MLflow knows by its moment whether it has a look at its process already."""
        step_mark, eval_mark = self._marks.get(run) or self._mark(run)
        new_steps, new_evals = _later(steps, step_mark), _later(evals, eval_mark)
        self._writer.log_records(self._run_id(run), steps=new_steps, evals=new_evals, usage=usage)
        self._marks[run] = (
            new_steps[-1].step if new_steps else step_mark,
            new_evals[-1].step if new_evals else eval_mark,
        )

    def _end(
        self,
        run: str,
        state: schema.State,
        end_time_ms: int,
        metrics: dict[str, float],
        tags: dict[str, str],
        artifacts: str,
        workdir: str,
    ) -> None:
        """A run's end: files, then numbers and state; then its work folder is gone."""
        run_id = self._run_id(run)
        if artifacts and self._inside(artifacts).is_dir():
            self._writer.log_artifacts(run_id, Path(artifacts))
        self._writer.end_run(
            run_id, state=state, end_time_ms=end_time_ms, metrics=metrics, tags=tags, is_repeat=self._is_repeat
        )
        self._remove(workdir)

    def _mark_dead(self, run_id: str, end_time_ms: int) -> None:
        """A run that says RUNNING and isn't."""
        self._writer.end_run(run_id, state="INTERRUPTED", end_time_ms=end_time_ms)

    def _drop_weights(self, run_id: str) -> None:
        """The weights of a run that the sweep doesn't keep; their digest stays."""
        self._remover.delete_artifacts(run_id, schema.CHECKPOINT)
        self._writer.set_tags(run_id, {schema.WEIGHTS_KEPT: "false"})

    def _publish(self, run: str, folder: str, artifact_path: str | None, temporary: bool) -> None:
        """Files for a run's artifacts; a temporary folder goes once they are there."""
        if self._inside(folder).is_dir():
            self._writer.log_artifacts(self._run_id(run), Path(folder), artifact_path)
            if temporary:
                self._remove(folder)

    def _remove_run(self, run_id: str, workdir: str = "") -> None:
        """A run that nobody wants any more, with its files here and there."""
        problem = self._remover.remove_run(run_id)
        if problem and problem not in self._stays:
            self._stays.add(problem)
            self._say(f"artifacts stay, as they can't be freed from here: {problem}")
        self._remove(workdir)

    def _remove_sweep(self) -> None:
        """What is left of a sweep without runs: its experiment, its report, its work. The journal is in use."""
        if not self._remover.remove_experiment(self._name):
            self._say(f"the experiment {self._name} stays, for it has runs that are no sweep's")
        self._remove(str(self._store.folder / "reports" / self._name))
        for folder in (path for path in self._work.iterdir() if path.is_dir()):
            self._remove(str(folder))
        self._experiment = self._holder = None
        for known in (self._run_ids, self._marks, self._plans):
            known.clear()

    def _note(self, run: str, note: str) -> None:
        """The description of a definition's summary run, and of the experiment: the last one told."""
        self._writer.set_note(self._run_id(run), note)
        self._writer.experiment(self._name, note)

    def _model(self, run_id: str, definition: str) -> None:
        """The best run of a definition is its MLflow model."""

        def get_checkpoint(folder: Path) -> Path:
            return self._store.artifacts.download(run_id, schema.CHECKPOINT, folder)

        try:
            self._writer.keep_model(run_id, definition, get_checkpoint)
        except NoArtifactError:
            self._say(f"run {run_id} has no weights any more, so there is no model of it")

    def _create(
        self,
        run: str,
        name: str,
        tags: dict[str, str],
        params: dict[str, str],
        start_time_ms: int,
        *,
        adopt: bool = True,
    ) -> str:
        self._run_ids[run] = self._writer.create_run(
            self._experiment_id(),
            creation_id=run,
            name=name,
            tags=tags,
            params=params,
            start_time_ms=start_time_ms,
            adopt=adopt,
        )
        return self._run_ids[run]

    def _experiment_id(self) -> str:
        if self._experiment is None:
            self._experiment = self._writer.experiment(self._name, None)
        return self._experiment

    def _run_id(self, run: str) -> str:
        if run not in self._run_ids:
            if self._experiment is None and self._name not in self._store.sweeps():
                raise RunGoneError
            found = self._writer.created_run(self._experiment_id(), run)
            if found is None:
                raise RunGoneError
            self._run_ids[run] = found
        return self._run_ids[run]

    def _mark(self, run: str) -> tuple[int, int]:
        self._marks[run] = self._writer.last_steps(self._run_id(run))
        return self._marks[run]

    def _stored_plan(self, summary: str) -> dict[str, Any] | None:
        run_id = self._run_id(summary)
        plan = next((d.plan for d in self._store.definitions(self._name) if d.run_id == run_id), None)
        return None if plan is None else plan.to_json()

    def _put_plan(self, run: str, plan: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / schema.PLAN).write_text(json.dumps(plan, indent=1))
            self._writer.log_artifacts(self._run_id(run), Path(folder))
        self._plans[run] = plan


def _later(records: list[R], mark: int) -> list[R]:
    """The records in their order, without those of a step that is there or was before; a history may be told again."""
    later = []
    for record in records:
        if record.step > mark:
            later.append(record)
            mark = record.step
    return later
