"""What may pass is told from what won't: a locked database, a server that is away."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from stores import new_run, steps_of

from sweeps.store import Store, is_temporary, open_store


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


def test_a_server_that_is_away_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = open_store("http://127.0.0.1:9/", create=True)
    assert away.folder == tmp_path / "mlruns" / "servers" / "127.0.0.1_9"
    assert sorted(path.name for path in away.folder.iterdir()) == [".gitignore", "reports", "work"]
    with pytest.raises(MlflowException) as raised:
        away.sweeps()
    assert is_temporary(raised.value)
