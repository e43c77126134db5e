"""The store's write side. Every call may be repeated: a crash anywhere and a replay leave the same store.

Errors of MLflow propagate; `is_temporary` tells those that a later attempt may mend. A database that another program
has locked blocks a call for up to 20 seconds, and then it raises; a batch is in the store whole or not at all.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run
from mlflow.exceptions import MlflowException

from sweeps.spec.naming import check_name
from sweeps.store import schema, sql
from sweeps.store.batches import as_metrics, as_tags, batches, chunks, cut, is_same, step_metrics
from sweeps.store.experiments import by_sweep
from sweeps.store.holder import Holder
from sweeps.store.model import keep_model
from sweeps.store.place import Place, folder_of
from sweeps.store.removal import has_runs
from sweeps.store.ui import saved_views
from tinylm_core.durable import sync_file, sync_folder, sync_tree
from tinylm_core.records import EvalRecord, StepRecord, UsageRecord

_PARAMS_A_BATCH = 100
_DIGEST_LENGTH = 36


class Writer:
    """Writes into one store; only the outbox's thread calls it."""

    def __init__(self, client: MlflowClient, place: Place) -> None:
        self._client = client
        self._place = place

    def experiment(self, name: str, note: str | None) -> str:
        """The ID of a sweep's experiment, by its tag, made where it isn't there.

        `note` is its description; None leaves it as it is. ValueError where the name is taken: by somebody's own
        experiment that has runs, or by one that was deleted.
        """
        check_name(name)
        tags = schema.EXPERIMENT_TAGS | {schema.SWEEP: name} | ({} if note is None else {schema.NOTE: cut(note)})
        # Absolute: MLflow resolves a relative one against whatever folder a reader runs in.
        location = (self._place.layout.artifacts / name).as_uri() if self._place.is_local else None
        query = f"tags.`{schema.SWEEP}` = '{name}'"
        found = by_sweep(self._client.search_experiments(filter_string=query)).get(name)
        found = found or self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=location, tags=tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)
            assert found is not None
        if schema.SWEEP not in found.tags and has_runs(self._client, self._place, found.experiment_id):
            raise ValueError(
                f"experiment {name!r} is no sweep's and has runs of its own; rename it in MLflow, or the sweep's file"
            )
        if found.lifecycle_stage == "deleted":
            raise ValueError(f"experiment {name!r} was deleted in MLflow; restore it there, or rename the sweep's file")
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self._client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def set_views(self, experiment_id: str, definition: str, swept: Sequence[str], created_ms: int) -> None:
        """Keep the views of a definition that MLflow's UI offers on the experiment's page."""
        for key, value in saved_views(definition, swept, created_ms).items():
            self._client.set_experiment_tag(experiment_id, key, value)

    def create_run(
        self,
        experiment_id: str,
        *,
        creation_id: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        start_time_ms: int,
        adopt: bool = False,
    ) -> str:
        """Make a run, in state RUNNING unless `tags` say another, and return its ID.

        `creation_id` is one a run: with `adopt`, after an error or a restart, the run that an earlier call made under
        it is taken instead. Over HTTP the client's own retries can make several runs; all but one are deleted.
        """
        run_id = self.created_run(experiment_id, creation_id) if adopt else None
        if run_id is None:
            all_tags = {schema.STATE: "RUNNING"} | dict(tags) | {schema.CREATION: creation_id}
            made = self._client.create_run(experiment_id, start_time=start_time_ms, tags=all_tags, run_name=name)
            run_id = str(made.info.run_id)
            if not self._place.is_local:
                run_id = self.created_run(experiment_id, creation_id) or run_id
        self._log_params(run_id, params)
        return run_id

    def log_records(
        self,
        run_id: str,
        *,
        steps: Sequence[StepRecord] = (),
        evals: Sequence[EvalRecord] = (),
        usage: Sequence[tuple[int, UsageRecord]] = (),
    ) -> None:
        """Log what a run does: optimizer steps, evaluations, and at which step its process took what of its machine.

        A batch is atomic and holds whole records, so the last step and evaluation there are safe high-water marks;
        of usage MLflow itself drops a value that it has of that moment.
        """
        groups = [step_metrics(record) for record in steps]
        groups += [as_metrics(schema.eval_metrics(record), record.timestamp_ms, record.step) for record in evals]
        groups += [as_metrics(schema.usage_metrics(record), record.timestamp_ms, step) for step, record in usage]
        for batch in batches(groups):
            self._client.log_batch(run_id, metrics=batch, synchronous=True)

    def last_steps(self, run_id: str) -> tuple[int, int]:
        """The last optimizer step (the first is 1) and the last evaluation (the first at 0) in the store; -1 = none."""
        names = ("train/loss", "val/loss")
        if self._place.is_local:
            with sql.snapshot(self._place.database) as connection:
                if connection is not None:
                    step, evaluation = (sql.last_step(connection, run_id, name) for name in names)
                    return step, evaluation
        step, evaluation = (
            max((point.step for point in self._client.get_metric_history(run_id, name)), default=-1) for name in names
        )
        return step, evaluation

    def log_summary(
        self, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str], *, is_repeat: bool = True
    ) -> None:
        """Log what is known once, at the end. Of a call that may repeat an earlier one, what is not there already."""
        there = self._client.get_run(run_id).data.metrics if is_repeat and metrics else {}
        new = {name: value for name, value in metrics.items() if not is_same(there.get(name), value)}
        batch = as_metrics(new, time.time_ns() // 1_000_000, 0)
        if batch or tags:
            self._client.log_batch(run_id, metrics=batch, tags=as_tags(tags), synchronous=True)

    def log_artifacts(self, run_id: str, folder: Path, artifact_path: str | None = None) -> None:
        """Copy a folder's content; what is there under the same name is replaced.

        In a folder they are on the disk when this returns, a power cut included; of a server that is its own matter.
        """
        self._client.log_artifacts(run_id, str(folder), artifact_path)
        if self._place.is_local and (there := folder_of(str(self._client.get_run(run_id).info.artifact_uri))):
            for name in folder.iterdir():
                copy = there / (artifact_path or "") / name.name
                sync_tree(copy) if copy.is_dir() else sync_file(copy)
            for made in (there / (artifact_path or ""), *there.parents):
                sync_folder(made)
                if made == self._place.folder:
                    break

    def keep_model(self, run_id: str, definition: str, get_checkpoint: Callable[[Path], Path]) -> str:
        """Make the model of a definition that of this run: see `model.keep_model`."""
        assert "'" not in definition
        return keep_model(self._client, run_id, definition, get_checkpoint)

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        """Log the data as an input of the run: `source` says where from, `context` what for, e.g. training."""
        dataset = Dataset(
            name=name, digest=digest[:_DIGEST_LENGTH], source_type="local", source=json.dumps({"uri": source})
        )
        context_tag = InputTag(schema.DATASET_CONTEXT, context)
        self._client.log_inputs(run_id, [DatasetInput(dataset, [context_tag])])

    def end_run(
        self,
        run_id: str,
        *,
        state: schema.State,
        end_time_ms: int,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        is_repeat: bool = True,
    ) -> None:
        """End a run in a state, with the status of MLflow's that goes with it, and with what `log_summary` takes."""
        assert state != "RUNNING"
        self.log_summary(run_id, metrics or {}, {**(tags or {}), schema.STATE: state}, is_repeat=is_repeat)
        self._client.set_terminated(run_id, schema.STATUS[state], end_time_ms)

    def resume_run(self, run_id: str) -> None:
        """Make a run that was ended RUNNING again. MLflow keeps the old end time until it ends once more."""
        self.set_tags(run_id, {schema.STATE: "RUNNING"})
        self._client.update_run(run_id, schema.STATUS["RUNNING"])

    def set_note(self, run_id: str, markdown: str) -> None:
        """Set the description on the run's page, cut where it is longer than MLflow takes."""
        self.set_tags(run_id, {schema.NOTE: cut(markdown)})

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; others stay."""
        for some in chunks(as_tags(tags), _PARAMS_A_BATCH):
            self._client.log_batch(run_id, tags=some, synchronous=True)

    def delete_run(self, run_id: str) -> None:
        """Move a run to MLflow's bin, from which its page can restore it."""
        self._client.delete_run(run_id)

    def is_deleted(self, run_id: str) -> bool:
        """Whether a run is in MLflow's bin, or gone from there too."""
        try:
            return str(self._client.get_run(run_id).info.lifecycle_stage) == "deleted"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise

    def set_holder(self, experiment_id: str, holder: Holder) -> None:
        """Say in the store who drives a sweep, or did."""
        self._client.set_experiment_tag(experiment_id, schema.HOLDER, holder.to_json())

    def created_run(self, experiment_id: str, creation_id: str) -> str | None:
        """The run of a create call: the one that has most in it, then the oldest. Its extras are deleted."""
        assert "'" not in creation_id
        runs = self._client.search_runs([experiment_id], f"tags.`{schema.CREATION}` = '{creation_id}'")
        ids = [str(run.info.run_id) for run in sorted(runs, key=_adoption_order)]
        for extra in ids[1:]:
            self.delete_run(extra)
        return ids[0] if ids else None

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        for some in chunks([Param(key, value) for key, value in params.items()], _PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=some, synchronous=True)


def _adoption_order(run: Run) -> tuple[int, int, int, str]:
    # One call's runs have one start time; the ID then decides, the same way every time.
    return (-len(run.data.metrics), -len(run.data.params), run.info.start_time, run.info.run_id)
