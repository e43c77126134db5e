"""Reads runs, by SQL or by MLflow's client, and types them: `RawRun` → `RunRow`, with config and today's identity.

SQL is for a database of our own whose schema is tested. MLflow is loaded where its client is asked.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, cast

from sweeps.spec.config_type import from_params
from sweeps.store import schema, sql
from sweeps.store.connect import connect
from sweeps.store.faults import PatientClient
from sweeps.store.place import Place
from sweeps.store.schema import RunRow
from sweeps.store.sql import Point, RawExperiment, RawRun
from tinylm_core.config import RunConfig, identity

if TYPE_CHECKING:
    import sqlite3

    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000


class RawReader:
    """Reads one store."""

    def __init__(self, place: Place, wait: float = 0.0) -> None:
        self._place, self._wait = place, wait

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's, which takes a second to load."""
        return connect(self._place)

    @cached_property
    def patient(self) -> "MlflowClient":
        """The same for what is only read: asked again while the tracker is away."""
        return cast("MlflowClient", PatientClient(self.client, self._wait, _say)) if self._wait else self.client

    def experiments(self, *, deleted: bool = False) -> list[RawExperiment]:
        """Those that are sweeps, newest first: those that are there, or those in MLflow's bin."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.experiments(connection, deleted=deleted)
        ours: list[RawExperiment] = []
        token = None
        while True:
            page = self.patient.search_experiments(
                view_type=2 if deleted else 1,
                max_results=_PAGE,
                filter_string=f"tags.`{schema.SWEEP}` LIKE '%'",
                order_by=["creation_time DESC"],
                page_token=token,
            )
            ours += [
                RawExperiment(str(found.experiment_id), found.name, found.artifact_location, dict(found.tags))
                for found in page
            ]
            token = page.token
            if not token:
                return ours

    def runs(self, experiment_ids: Sequence[str], role: schema.Role) -> list[RawRun]:
        """The runs of a role that are not deleted."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.raw_runs(connection, sql.run_ids(connection, experiment_ids, role=role))
        return list(self._search(experiment_ids, f"tags.`{schema.ROLE}` = '{role}'"))

    def listed(self, experiment_ids: Sequence[str]) -> list[RawRun]:
        """The runs that are not deleted, with at least the tags and metrics that a list of sweeps needs."""
        with self._snapshot() as connection:
            if connection is not None:
                ids = sql.run_ids_starting(connection, experiment_ids, "")
                return sql.raw_runs(connection, ids, only=(schema.LISTED_TAGS, schema.LISTED_METRICS))
        return list(self._search(experiment_ids, ""))

    def starting(self, experiment_ids: Sequence[str], prefix: str) -> list[RawRun]:
        """The runs whose ID starts so and that are not deleted."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.raw_runs(connection, sql.run_ids_starting(connection, experiment_ids, prefix))
        if len(prefix) == 32:
            return list(self._search(experiment_ids, f"attributes.run_id = '{prefix}'"))
        return [raw for raw in self._search(experiment_ids, "") if raw.run_id.startswith(prefix)]

    def runs_of(self, run_ids: Sequence[str]) -> list[RawRun]:
        """The runs with these IDs."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.raw_runs(connection, run_ids)
        return [_raw_run(self.patient.get_run(run_id)) for run_id in run_ids]

    def all_run_ids(self, experiment_id: str) -> list[str]:
        """The IDs of an experiment's runs that have a role, those in MLflow's bin too."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.all_run_ids(connection, experiment_id)
        from mlflow.entities import ViewType

        return [raw.run_id for raw in self._search([experiment_id], "", ViewType.ALL) if schema.ROLE in raw.tags]

    def running(self, experiment_id: str) -> list[str]:
        """The IDs of an experiment's runs that have a role and are said to run."""
        with self._snapshot() as connection:
            if connection is not None:
                return sql.running(connection, experiment_id)
        found = self._search([experiment_id], "attributes.status = 'RUNNING'")
        return [raw.run_id for raw in found if schema.ROLE in raw.tags]

    def artifact_uri(self, run_id: str) -> str | None:
        """Where a run's artifacts are, as our own database says; None where it is another's."""
        with self._snapshot() as connection:
            return sql.artifact_uri(connection, run_id) if connection is not None else None

    def points(self, run_ids: Sequence[str], metrics: Sequence[str]) -> list[Point]:
        """Every value of these metrics of these runs, in no order."""
        with self._snapshot() as connection:
            if connection is not None:
                return list(sql.points(connection, run_ids, metrics))
        return [
            (run_id, metric, point.step, point.timestamp, point.value)
            for run_id in run_ids
            for metric in metrics
            for point in self.patient.get_metric_history(run_id, metric)
        ]

    @contextmanager
    def _snapshot(self) -> "Iterator[sqlite3.Connection | None]":
        if not self._place.is_local:
            yield None
            return
        with sql.snapshot(self._place.database) as connection:
            yield connection

    def _search(self, experiment_ids: Sequence[str], query: str, view: int = 1) -> Iterator[RawRun]:
        token = None
        while experiment_ids:
            page = self.patient.search_runs(list(experiment_ids), query, view, max_results=_PAGE, page_token=token)
            yield from map(_raw_run, page)
            token = page.token
            if not token:
                return


def _say(line: str) -> None:
    print(f"sweeps: {line}", file=sys.stderr, flush=True)


def _raw_run(run: "Run") -> RawRun:
    info, data = run.info, run.data
    return RawRun(
        info.run_id,
        info.run_name or "",
        str(info.experiment_id),
        info.status,
        info.start_time,
        info.end_time,
        dict(data.params),
        dict(data.tags),
        dict(data.metrics),
    )


def run_row(raw: RawRun) -> RunRow:
    """A run with its config, typed, and its identity as today's code sees it."""
    config = _config(raw)
    return RunRow(
        run_id=raw.run_id,
        name=raw.name,
        experiment_id=raw.experiment_id,
        status=raw.status,
        state=raw.tags.get(schema.STATE, ""),
        role=raw.tags.get(schema.ROLE, ""),
        trial=_integer(raw.tags.get(schema.TRIAL)),
        seed=_integer(raw.params.get("seed")),
        params=raw.params,
        config=config,
        identity=_identity(config, raw.tags),
        tags=raw.tags,
        metrics={name: schema.finite_or_inf(value) for name, value in raw.metrics.items()},
        start_time=_moment(raw.start_time),
        end_time=None if raw.status == "RUNNING" else _moment(raw.end_time),
    )


def _config(raw: RawRun) -> RunConfig | None:
    if schema.TRAINER in raw.tags:
        return None  # of a class that only its own file knows
    known = {name: text for name, text in raw.params.items() if name in RunConfig.model_fields}
    try:
        config = from_params(RunConfig, known)
    except ValueError:
        return None
    # What is not known somebody has added, or it is another version's: then the run had another identity.
    is_whole = len(known) == len(raw.params)
    is_same = schema.FINGERPRINT in raw.tags and _identity(config, raw.tags) == raw.tags.get(schema.IDENTITY)
    return config if is_whole or is_same else None


def _identity(config: RunConfig | None, tags: Mapping[str, str]) -> str | None:
    numerics = _integer(tags.get(schema.NUMERICS))
    if config is None or numerics is None or schema.FINGERPRINT not in tags:
        return tags.get(schema.IDENTITY)
    try:
        return identity(config, tags[schema.FINGERPRINT], numerics)
    except ValueError:
        return tags.get(schema.IDENTITY)


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
