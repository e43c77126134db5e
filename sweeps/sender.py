"""What each operation of the outbox does to the store. Any may come twice; the second time it changes nothing.

Runs are known by the creation ID that the driver gave them; MLflow's run ID is found by it.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sweeps.outbox import Operation
from sweeps.store import schema
from sweeps.store.read import Store
from tinylm_core.records import EvalRecord, StepRecord


class Sender:
    """Sends the operations of one sweep to its experiment."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._writer = store.writer()
        self._name = name
        self._experiment: str | None = None
        self._run_ids: dict[str, str] = {}
        self._marks: dict[str, tuple[int, int]] = {}  # the last step and evaluation that are in the store
        self._plans: dict[str, dict[str, Any]] = {}

    def __call__(self, operation: Operation, replayed: bool) -> None:
        """Send one operation; `replayed` says that an earlier process may have sent it."""
        content = {key: value for key, value in operation.items() if key != "op"}
        if replayed and operation["op"] in ("steps", "eval"):
            self._mark(content["run"])
        getattr(self, f"_{operation['op']}")(**content)

    def _open(self, run: str, name: str, note: str, tags: dict[str, str], plan: dict[str, Any]) -> None:
        """A definition's summary run, made or taken up again, with its plan."""
        self._experiment = self._writer.experiment(self._name, note)
        run_id = self._create(run, name, tags, {}, plan["created_ms"])
        self._writer.resume_run(run_id)
        self._put_plan(run, plan)

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
        dataset: dict[str, str],
    ) -> None:
        """A run's MLflow run: made, or taken up again after an interruption."""
        if summary is not None:
            tags = tags | {schema.SUMMARY_RUN: self._run_id(summary)}
        run_id = self._create(run, name, tags, params, start_time_ms)
        self._writer.log_dataset(run_id, context="training", **dataset)
        self._writer.resume_run(run_id)
        self._mark(run)

    def _steps(self, run: str, records: list[dict[str, Any]]) -> None:
        step_mark, eval_mark = self._marks.get(run) or self._mark(run)
        new = [StepRecord(**record) for record in records if record["step"] > step_mark]
        if new:
            self._writer.log_steps(self._run_id(run), new)
            self._marks[run] = (new[-1].step, eval_mark)

    def _eval(self, run: str, record: dict[str, Any]) -> None:
        step_mark, eval_mark = self._marks.get(run) or self._mark(run)
        if record["step"] > eval_mark:
            self._writer.log_eval(self._run_id(run), EvalRecord(**record))
            self._marks[run] = (step_mark, record["step"])

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
        """A run's end: numbers, files, state; then its work folder is gone."""
        run_id = self._run_id(run)
        self._writer.log_summary(run_id, metrics, tags)
        if artifacts and Path(artifacts).is_dir():
            self._writer.log_artifacts(run_id, Path(artifacts))
        self._writer.end_run(run_id, state=state, end_time_ms=end_time_ms)
        if workdir:
            shutil.rmtree(workdir, ignore_errors=True)

    def _mark_dead(self, run_id: str, end_time_ms: int) -> None:
        """A run that says RUNNING and isn't."""
        self._writer.end_run(run_id, state="INTERRUPTED", end_time_ms=end_time_ms)

    def _publish(self, run: str, folder: str, artifact_path: str | None, temporary: bool) -> None:
        """Files for a run's artifacts; a temporary folder goes once they are there."""
        if Path(folder).is_dir():
            self._writer.log_artifacts(self._run_id(run), Path(folder), artifact_path)
            if temporary:
                shutil.rmtree(folder, ignore_errors=True)

    def _create(self, run: str, name: str, tags: dict[str, str], params: dict[str, str], start_time_ms: int) -> str:
        # `adopt` costs one query a run, and makes a second sending harmless whoever repeats it.
        self._run_ids[run] = self._writer.create_run(
            self._experiment_id(),
            creation_id=run,
            name=name,
            tags=tags,
            params=params,
            start_time_ms=start_time_ms,
            adopt=True,
        )
        return self._run_ids[run]

    def _experiment_id(self) -> str:
        if self._experiment is None:
            self._experiment = self._writer.experiment(self._name, None)
        return self._experiment

    def _run_id(self, run: str) -> str:
        if run not in self._run_ids:
            found = self._writer.created_run(self._experiment_id(), run)
            if found is None:
                raise LookupError(f"the tracker has no run with {schema.CREATION} = {run}")
            self._run_ids[run] = found
        return self._run_ids[run]

    def _mark(self, run: str) -> tuple[int, int]:
        self._marks[run] = self._writer.last_steps(self._run_id(run))
        return self._marks[run]

    def _stored_plan(self, summary: str) -> dict[str, Any] | None:
        run_id = self._run_id(summary)
        return next((d.plan for d in self._store.definitions(self._name) if d.run_id == run_id), None)

    def _put_plan(self, run: str, plan: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / schema.PLAN).write_text(json.dumps(plan, indent=1))
            self._writer.log_artifacts(self._run_id(run), Path(folder))
        self._plans[run] = plan
