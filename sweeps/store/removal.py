"""Removes artifacts, runs and a sweep's experiment. Every call may be repeated.

From a folder all goes for good, as by `mlflow gc`. A server has a bin, and artifacts that may be out of reach.
"""

import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sweeps.spec.naming import check_name
from sweeps.store import schema
from sweeps.store.experiments import REMOVED, by_sweep
from sweeps.store.place import Place, folder_of


def has_runs(client: MlflowClient, place: Place, experiment_id: str) -> bool:
    """Whether an experiment has runs; on a server those that we remove stay in its bin, and count for nothing."""
    view = ViewType.ALL if place.is_local else ViewType.ACTIVE_ONLY
    return bool(client.search_runs([experiment_id], run_view_type=view, max_results=1))


class Remover:
    """Removes from one store; only the outbox's thread calls it."""

    def __init__(self, client: MlflowClient, place: Place) -> None:
        self._client = client
        self._place = place

    def delete_artifacts(self, run_id: str, artifact_path: str) -> None:
        """Remove a file or folder of a run, if it is there."""
        if artifact_path in [info.path for info in self._client.list_artifacts(run_id)]:
            self._artifacts_at(str(self._client.get_run(run_id).info.artifact_uri)).delete_artifacts(artifact_path)

    def remove_run(self, run_id: str) -> str | None:
        """Free a run's artifacts and its record; returns why its artifacts can't be freed from here, if they can't.

        From a folder the record goes for good, as by `mlflow gc`; of a server it goes to the bin.
        """
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None  # an earlier call
            raise
        problem = self._free_artifacts(str(run.info.artifact_uri))
        for output in run.outputs.model_outputs if run.outputs else []:
            problem = self._remove_model(output.model_id) or problem
        if self._place.is_local:
            self._backend._hard_delete_run(run_id)
        else:
            self._client.delete_run(run_id)
        return problem

    def remove_experiment(self, name: str) -> bool:
        """Remove a sweep's experiment, whose runs are gone, so that the name is free; False for one with other runs.

        From a folder it goes for good. A server only marks it deleted, which keeps the name taken, and a restored
        experiment brings its runs back: so it is renamed first.
        """
        check_name(name)
        there = by_sweep(self._client.search_experiments(filter_string=f"tags.`{schema.SWEEP}` LIKE '%'")).get(name)
        query, all_gone = f"name LIKE '{name}%'", True
        deleted = self._client.search_experiments(filter_string=query, view_type=ViewType.DELETED_ONLY)
        ours = [e for e in deleted if e.name == name or e.name.startswith(f"{name}{REMOVED}")]
        for experiment in ([there] if there else []) + [e for e in ours if schema.SWEEP in e.tags]:
            if has_runs(self._client, self._place, experiment.experiment_id):
                all_gone = False
                continue
            if self._place.is_local:
                if experiment.lifecycle_stage == "active":
                    self._client.delete_experiment(experiment.experiment_id)
                self._backend._hard_delete_experiment(experiment.experiment_id)
                folder = folder_of(experiment.artifact_location)
                if folder is not None and self._is_ours(folder) and not self._is_shared(experiment.artifact_location):
                    shutil.rmtree(folder, ignore_errors=True)
            elif experiment.lifecycle_stage == "active":
                self._client.rename_experiment(experiment.experiment_id, f"{name}{REMOVED}{time.time_ns()}")
                self._client.delete_experiment(experiment.experiment_id)
        return all_gone

    def _remove_model(self, model_id: str) -> str | None:
        """Remove an MLflow model that a run made, as the run is removed."""
        try:
            problem = self._free_artifacts(str(self._client.get_logged_model(model_id).artifact_location))
            self._client.delete_logged_model(model_id)
            if self._place.is_local:
                self._backend._hard_delete_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # an earlier call
        return problem

    def _free_artifacts(self, uri: str) -> str | None:
        folder = folder_of(uri)
        if folder is not None and not (self._place.is_local and self._is_ours(folder)):
            where = "outside of this store" if self._place.is_local else "in a folder of the server's machine"
            return f"{folder.parent.parent} is {where}"
        try:
            self._artifacts_at(uri).delete_artifacts()
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if folder is not None or (isinstance(error, OSError) and status >= 500 and status != 501):
                raise  # a later attempt may mend it
            scheme = urlsplit(uri).scheme
            return f"{scheme}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if folder is not None and folder.parent.is_dir():
            folder.parent.rmdir()
        return None

    def _artifacts_at(self, uri: str) -> Any:
        # An address of a proxy names no host: it is that of the tracking URI, which else is MLflow's global one.
        return get_artifact_repository(uri, tracking_uri=self._place.tracking_uri)

    def _is_ours(self, folder: Path) -> bool:
        """Whether a folder is one of this store's: a store that was copied names those of the one it came from."""
        return folder.resolve().is_relative_to(self._place.layout.artifacts.resolve())

    def _is_shared(self, location: str) -> bool:
        """Whether another experiment keeps its artifacts there, as one that was renamed does."""
        there = self._client.search_experiments(view_type=ViewType.ALL)
        return any(experiment.artifact_location == location for experiment in there)

    @property
    def _backend(self) -> Any:
        """MLflow's store itself, which alone deletes for good: what `mlflow gc` calls."""
        return self._client._tracking_client.store
