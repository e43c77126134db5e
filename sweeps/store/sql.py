"""Reading our own database with read-only SQL: MLflow's client takes 20 s for what this reads in one, at 10,000 runs.

Only of the schema it was tested with; `tests/store/test_read.py` compares both. For any other one asks the client.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sweeps.store import schema
from sweeps.store.attempts import AttemptOrder, attempt_order

TESTED_REVISION = "dc11669786a5"
TESTED_VERSION = "3.17."  # of MLflow, which made it


@dataclass(frozen=True)
class RawExperiment:
    """An experiment as MLflow has it."""

    experiment_id: str
    name: str
    location: str  # of its runs' artifacts
    tags: dict[str, str]


class RawRun(NamedTuple):
    """A run as MLflow has it."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    start_time: int | None  # milliseconds
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def attempt(self) -> AttemptOrder:
        """Where it stands among the attempts at one piece of science: `attempts.attempt_order`."""
        state = self.tags.get(schema.STATE, "")
        return attempt_order(state, self.start_time or 0, self.run_id, self.tags.get(schema.EPOCH))


# One logged value: run ID, metric, step, milliseconds, value (None for NaN). A plain tuple, as there are millions.
Point = tuple[str, str, int, int, float | None]


def revision(database: Path) -> str | None:
    """The schema's revision; None where it can't be read."""
    try:
        with closing(_open(database)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:
        return None
    return str(row[0]) if row else None


@contextmanager
def snapshot(database: Path) -> Iterator[sqlite3.Connection | None]:
    """A read-only view of one moment; None where the schema is not the tested one."""
    if revision(database) != TESTED_REVISION:
        yield None
        return
    with closing(_open(database)) as connection:
        connection.execute("BEGIN")
        yield connection


def experiments(connection: sqlite3.Connection, *, deleted: bool = False) -> list[RawExperiment]:
    """The experiments that are sweeps, newest first: those that are there, or those in MLflow's bin."""
    found = {
        str(row[0]): RawExperiment(str(row[0]), row[1], row[2], {})
        for row in connection.execute(
            "SELECT experiment_id, name, artifact_location FROM experiments JOIN experiment_tags USING (experiment_id) "
            "WHERE lifecycle_stage = ? AND key = ? ORDER BY creation_time DESC, experiment_id",
            ("deleted" if deleted else "active", schema.SWEEP),
        )
    }
    for some, marks in _chunks(list(found)):
        for experiment_id, key, value in connection.execute(
            f"SELECT experiment_id, key, value FROM experiment_tags WHERE experiment_id IN ({marks})", some
        ):
            found[str(experiment_id)].tags[key] = value
    return list(found.values())


def artifact_uri(connection: sqlite3.Connection, run_id: str) -> str | None:
    """Where a run's artifacts are."""
    row = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    return row[0] if row else None


_WITH_ROLE = "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) WHERE experiment_id = ? AND tags.key = ?"


def run_ids(connection: sqlite3.Connection, experiment_ids: Sequence[str], *, role: str) -> list[str]:
    """The runs of a role that are not deleted."""
    found: list[str] = []
    for some, marks in _chunks(experiment_ids):
        found += _column(
            connection,
            "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) "
            f"WHERE experiment_id IN ({marks}) AND lifecycle_stage = 'active' AND tags.key = ? AND tags.value = ?",
            (*map(int, some), schema.ROLE, role),
        )
    return found


def running(connection: sqlite3.Connection, experiment_id: str) -> list[str]:
    """The runs of an experiment, those with a role, that are said to run and are not deleted."""
    query = f"{_WITH_ROLE} AND lifecycle_stage = 'active' AND status = 'RUNNING'"
    return _column(connection, query, (int(experiment_id), schema.ROLE))


def all_run_ids(connection: sqlite3.Connection, experiment_id: str) -> list[str]:
    """The runs of an experiment that have a role, the deleted ones too: what else is there is somebody's own."""
    return _column(connection, _WITH_ROLE, (int(experiment_id), schema.ROLE))


def run_ids_starting(connection: sqlite3.Connection, experiment_ids: Sequence[str], prefix: str) -> list[str]:
    """The runs whose ID starts so and that are not deleted. `prefix` is hexadecimal: no wildcards."""
    found: list[str] = []
    for some, marks in _chunks(experiment_ids):
        found += _column(
            connection,
            f"SELECT run_uuid FROM runs WHERE experiment_id IN ({marks}) AND lifecycle_stage = 'active' "
            "AND run_uuid >= ? AND run_uuid < ?",
            (*map(int, some), prefix, f"{prefix}g"),
        )
    return found


def raw_runs(
    connection: sqlite3.Connection, ids: Sequence[str], only: tuple[Sequence[str], Sequence[str]] | None = None
) -> list[RawRun]:
    """The runs with these IDs; with `only`, no params, and of tags and metrics these."""
    which = ["", ""] if only is None else [f" AND key IN ({', '.join('?' * len(names))})" for names in only]
    tag_names, metric_names = only or ((), ())
    found: dict[str, RawRun] = {}
    for some, marks in _chunks(ids):
        for run_id, name, experiment_id, status, start, end in connection.execute(
            f"SELECT run_uuid, name, experiment_id, status, start_time, end_time FROM runs WHERE run_uuid IN ({marks})",
            some,
        ):
            found[run_id] = RawRun(run_id, name or "", str(experiment_id), status, start, end, {}, {}, {})
        for table in ("params", "tags") if only is None else ("tags",):
            for run_id, key, value in connection.execute(
                f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({marks}){which[0]}", (*some, *tag_names)
            ):
                getattr(found[run_id], table)[key] = value
        for run_id, key, value, is_nan in connection.execute(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({marks}){which[1]}",
            (*some, *metric_names),
        ):
            found[run_id].metrics[key] = float("nan") if is_nan else value
    return list(found.values())


def points(connection: sqlite3.Connection, ids: Sequence[str], metrics: Sequence[str]) -> Iterator[Point]:
    """Every value of these metrics of these runs, in no order."""
    keys = ", ".join("?" * len(metrics))
    for some, marks in _chunks(ids):
        yield from connection.execute(
            "SELECT run_uuid, key, step, timestamp, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics "
            f"WHERE run_uuid IN ({marks}) AND key IN ({keys})",
            (*some, *metrics),
        )


def last_step(connection: sqlite3.Connection, run_id: str, metric: str) -> int:
    """The last step a metric was logged at; -1 where it never was."""
    query = "SELECT coalesce(max(step), -1) FROM metrics WHERE run_uuid = ? AND key = ?"
    return int(connection.execute(query, (run_id, metric)).fetchone()[0])


def _open(database: Path) -> sqlite3.Connection:
    # The timeout of MLflow's own connections. In WAL mode a reader waits only for a writer that cleans up.
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)
    connection.isolation_level = None
    return connection


def _chunks(values: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    # Old builds of SQLite take 999 parameters a statement.
    for start in range(0, len(values), 500):
        some = values[start : start + 500]
        yield some, ", ".join("?" * len(some))


def _column(connection: sqlite3.Connection, query: str, parameters: Iterable[object]) -> list[str]:
    return [row[0] for row in connection.execute(query, tuple(parameters))]
