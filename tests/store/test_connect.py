"""What may pass is told from what won't: a locked database, a server that is away."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED, UNAUTHENTICATED
from stores import new_run, steps_of

from sweeps.store import Store, faults, is_temporary, open_store
from sweeps.store.faults import refusal


@pytest.mark.slow
def test_a_locked_database_raises_something_temporary(local: Store) -> None:
    writer = local.writer()
    run_id = new_run(writer, writer.experiment("sweep", ""))
    with closing(sqlite3.connect(local.folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MlflowException) as raised:
            writer.log_records(run_id, steps=steps_of(1, 5))
        assert is_temporary(raised.value)
        other.execute("ROLLBACK")
    writer.log_records(run_id, steps=steps_of(1, 5))
    assert writer.last_steps(run_id) == (5, -1)


def test_what_may_pass_is_temporary() -> None:
    assert is_temporary(ConnectionRefusedError())
    assert is_temporary(MlflowException("API request failed"))
    assert not is_temporary(ValueError())


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("(sqlite3.OperationalError) attempt to write a readonly database", True),
        ("(sqlite3.OperationalError) database is locked", True),
        ("(psycopg2.errors.ReadOnlySqlTransaction) cannot execute INSERT in a read-only transaction", True),
        ("(psycopg2.OperationalError) server closed the connection unexpectedly", True),
        ("(psycopg2.errors.AdminShutdown) terminating connection due to administrator command", True),
        ("(psycopg2.errors.UniqueViolation) duplicate key value", False),
        ("(sqlite3.IntegrityError) UNIQUE constraint failed", False),
        ("(psycopg.errors.StringDataRightTruncation) value too long", False),
        ("Invalid value for parameter 'key'", False),
    ],
)
def test_an_error_of_the_database_behind_mlflow_is_told_from_one_of_what_was_asked(said: str, passes: bool) -> None:
    """MLflow reports both as BAD_REQUEST."""
    assert is_temporary(MlflowException(said, BAD_REQUEST)) is passes


def test_what_a_tracker_refuses_is_a_line_with_what_may_mend_it() -> None:
    denied = MlflowException("Permission\ndenied by http://me:hunter22@host/api", PERMISSION_DENIED)
    assert refusal(denied).startswith("the tracker refuses: Permission denied by http://host/api (the user lacks")
    assert "MLFLOW_TRACKING_PASSWORD" in refusal(MlflowException("who are you?", UNAUTHENTICATED))


@pytest.mark.parametrize(("num_failures", "answer"), [(0, 7), (3, 7), (50, None)])
def test_what_is_read_is_asked_for_again_until_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, num_failures: int, answer: int | None
) -> None:
    now, said, asked = [0.0], list[str](), [0]
    monkeypatch.setattr(faults.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    class Client:
        def read(self) -> int:
            asked[0] += 1
            if asked[0] <= num_failures:
                raise ConnectionResetError
            return 7

    client = faults.PatientClient(Client(), 20.0, said.append)
    if answer is None:
        with pytest.raises(ConnectionResetError):
            client.read()
        assert now[0] <= 20
    else:
        assert client.read() == answer
    assert len(said) == min(1, num_failures)


def test_a_server_that_is_away_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = open_store("http://127.0.0.1:9/", create=True)
    assert away.folder == tmp_path / "mlruns" / "servers" / "127.0.0.1_9"
    assert sorted(path.name for path in away.folder.iterdir()) == [".gitignore", "reports", "work"]
    with pytest.raises(MlflowException) as raised:
        away.sweeps()
    assert is_temporary(raised.value)
