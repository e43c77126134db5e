"""Where a store is: made whole or not at all, and what is none is refused and left alone."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from stores import new_run

from sweeps.store import Store, open_store, place

REPOSITORY = Path(__file__).parent.parent.parent


def test_a_new_store_is_one_folder_in_wal_mode(empty_store: Path) -> None:
    names = {path.name for path in empty_store.iterdir()} - {"mlflow.db-wal", "mlflow.db-shm"}
    assert names == {"mlflow.db", "artifacts", "work", "reports", ".gitignore"}
    assert (empty_store / ".gitignore").read_text() == (REPOSITORY / "mlruns.gitignore").read_text()


def test_the_database_stays_in_wal_mode_after_mlflow_used_it(local: Store) -> None:
    writer = local.writer()
    new_run(writer, writer.experiment("sweep", ""))
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_somebody_made_without_wal_gets_it(empty_store: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(empty_store, tmp_path / "store")
    database_of(folder, "PRAGMA journal_mode = DELETE")
    assert not place.is_wal(folder / "mlflow.db")
    open_store(folder, create=True)
    assert place.is_wal(folder / "mlflow.db")


def test_the_two_gitignores_are_equal_and_hide_everything(tmp_path: Path) -> None:
    text = (REPOSITORY / "mlruns.gitignore").read_text()
    assert text == (REPOSITORY / "sweeps" / "mlruns.gitignore").read_text()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "mlruns" / "work").mkdir(parents=True)
    (tmp_path / "mlruns" / "mlflow.db").touch()
    (tmp_path / "mlruns" / "work" / "journal").touch()
    (tmp_path / "mlruns" / ".gitignore").write_text(text)
    status = subprocess.run(["git", "-C", str(tmp_path), "status", "-s"], check=True, capture_output=True, text=True)
    assert status.stdout == ""


def test_importing_the_store_loads_neither_mlflow_nor_pandas() -> None:
    code = "import sys, sweeps.store; print(sorted({'mlflow', 'pandas', 'sqlalchemy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_opening_a_store_prints_nothing_and_asks_for_no_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from sweeps.store import open_store; open_store(sys.argv[1], create=True); "
        "import mlflow.telemetry.utils as t; print(t.is_telemetry_disabled())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DO_NOT", "CI"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.slow
def test_a_store_that_several_make_at_once_or_was_killed_in_the_making_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "mlflow.db.new").write_bytes(b"SQLite format 3\0 half a database")
    code = "import sys; from sweeps.store import open_store; open_store(sys.argv[1], create=True).writer()"
    command = [sys.executable, "-c", f"{code}.experiment(sys.argv[2], '')", str(folder)]
    makers = [subprocess.Popen([*command, f"sweep{number}"], cwd=REPOSITORY) for number in range(3)]
    assert [maker.wait() for maker in makers] == [0, 0, 0]
    assert sorted(open_store(folder).sweeps()) == ["sweep0", "sweep1", "sweep2"]


def database_of(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.executescript(script)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file", "is no folder"),
        ("other files", "holds other files"),
        ("file store", "holds other files"),
        ("no database", "not made by MLflow"),
        ("other database", "not made by MLflow"),
        ("empty database", "not made by MLflow"),
        ("newer", "a newer MLflow made it"),
        ("older", "mlflow db upgrade"),
    ],
)
def test_a_place_that_is_no_store_is_refused_and_left_alone(
    tmp_path: Path, empty_store: Path, content: str, message: str, create: bool
) -> None:
    folder = tmp_path / "place"
    match content:
        case "file":
            folder.touch()
        case "other files":
            folder.mkdir()
            (folder / "thesis.tex").touch()
        case "file store":
            (folder / "0").mkdir(parents=True)
            (folder / "0" / "meta.yaml").touch()
        case "no database":
            folder.mkdir()
            (folder / "mlflow.db").write_text("hello" * 1000)
        case "other database":
            database_of(folder, "CREATE TABLE runs (id INTEGER)")
        case "empty database":
            folder.mkdir()
            (folder / "mlflow.db").touch()
        case "newer" | "older":
            shutil.copytree(empty_store, folder)
            revision = {"newer": "ffffffffffff", "older": "451aebb31d03"}[content]
            database_of(folder, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    if not create and message == "holds other files":
        message = "no store at"
    with pytest.raises(ValueError, match=message) as raised:
        open_store(folder, create=create)
    assert "\n" not in str(raised.value)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    assert {path: content for path, content in after.items() if content} == {
        path: content for path, content in before.items() if content
    }


def test_a_folder_that_is_not_there_is_made_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no store at"):
        open_store(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match="not writable"):
        open_store(tmp_path / "new", create=True)


@pytest.mark.parametrize(
    "where", ["sqlite:///x.db", "file:/tmp/x", "postgresql://host/db", "http://", "ftp://host/x", "", "a?b", "50%"]
)
def test_an_address_that_is_no_store_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="store"):
        place.find_place(where)


def test_the_environment_names_a_server_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    default = place.find_place(None)
    assert (default.where, default.folder, default.is_local) == ("mlruns", tmp_path / "mlruns", True)
    assert default.tracking_uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracker.example/mlflow/")
    served = place.find_place(None)
    assert (served.tracking_uri, served.is_local) == ("https://tracker.example/mlflow", False)
    assert served.folder == tmp_path / "mlruns" / "servers" / "tracker.example_mlflow"
    with_port = place.find_place("http://somebody:secret@127.0.0.1:5000")
    assert with_port.folder == tmp_path / "mlruns" / "servers" / "127.0.0.1_5000"
    assert place.find_place("here").is_local
    for scheme in ("sqlite:///x.db", "databricks", "/some/folder"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", scheme)
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
            place.find_place(None)
