"""A local store may be moved and copied: it keeps to itself, wherever it is."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from stores import put_file, write_experiment, write_sweep

from sweeps.outbox.journal import Journal
from sweeps.outbox.operations import End
from sweeps.store import open_store

SOME = {(0, 0): ("COMPLETE", 3.5), (1, 0): ("COMPLETE", 3.2)}


@pytest.fixture
def original(tmp_path: Path, empty_store: Path, text_file: Path) -> Path:
    """A store with a sweep, and a journal that waits to be sent."""
    folder = tmp_path / "a store"
    store = open_store(shutil.copytree(empty_store, folder))
    write_sweep(store, write_experiment(tmp_path, text_file), SOME)
    work = folder / "work" / "question"
    work.mkdir()
    (work / "lock").touch()
    journal = Journal(work / "journal.jsonl", folder)
    journal.append(End(run="r", state="INTERRUPTED", end_time_ms=0, workdir="work/question/abc"), sync=True)
    return folder


def addresses(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return {
            address
            for query in ("SELECT artifact_location FROM experiments", "SELECT artifact_uri FROM runs")
            for (address,) in connection.execute(query)
        }


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_store_at_another_place_reads_and_writes_its_own_files(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_copy: bool
) -> None:
    before = {path: path.read_bytes() for path in original.rglob("*") if path.is_file()}
    there = tmp_path / "elsewhere" / "ünd mehr"
    shutil.copytree(original, there)
    if not is_copy:
        shutil.rmtree(original)
    utils._artifact_repos_cache.clear()  # by run ID, for all stores of a process; a command has one
    store = open_store(there)
    assert f"{there} was {original}; its files are looked for here from now on" in capsys.readouterr().err
    assert all(address.startswith(f"{there.as_uri()}/artifacts/") for address in addresses(there))
    assert len(store.trials("question")) == 2
    run_id = store.runs("question")[0].run_id
    put_file(store.writer(), run_id, "new.txt", "of the copy")
    client = MlflowClient(f"sqlite:///{there / 'mlflow.db'}")
    copied = Path(client.download_artifacts(run_id, "new.txt", str(tmp_path)))
    assert copied.read_text() == "of the copy"
    assert next(there.rglob("new.txt")).is_relative_to(there / "artifacts")
    (waiting,) = Journal(store.layout.work_of("question").journal, there).left_over
    assert isinstance(waiting, End)
    assert waiting.workdir is not None
    assert store.layout.own(waiting.workdir) == there / "work" / "question" / "abc"
    if is_copy:
        assert {path: path.read_bytes() for path in original.rglob("*") if path.is_file()} == before
    else:
        assert not original.exists()
    open_store(there)
    assert capsys.readouterr().err == ""


def test_another_name_of_the_same_place_changes_nothing(original: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(original)
    before = addresses(original)
    open_store(tmp_path / "link")
    assert addresses(original) == before


def test_nothing_moves_while_a_sweep_is_under_way(original: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(original, there)
    before = addresses(there)
    with FileLock(there / "work" / "question" / "lock"):
        open_store(there)
        assert addresses(there) == before
        with pytest.raises(ValueError, match=f"was {original} and can't be made to be here: a sweep is under way"):
            open_store(there, create=True)  # to write, and that would go to the original
    open_store(there)
    assert addresses(there) != before
