"""A flipped byte anywhere in what is read back is noticed, or changes nothing that anybody reads."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import SPACE, new_run, write_experiment, write_sweep

from sweeps.driver.run_folder import NOTE, RunNote, note_in
from sweeps.store import Store, open_store
from sweeps.store.damage import check_database
from tinylm_core.cache import default_cache_dir
from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus
from tinylm_core.durable import with_checksum

PLACE = st.floats(0, 1, exclude_max=True)  # where in a file, whatever its size
BIT = st.integers(0, 7)


def flip(file: Path, place: float, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)


@settings(max_examples=60)
@given(place=PLACE, bit=BIT)
def test_a_run_note_is_as_it_was_written_or_nobodys(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    folder, note = tmp_path_factory.mktemp("run"), RunNote("a" * 64, {"machine.device": "cpu"}, "b" * 32)
    note.write(folder)
    flip(folder / NOTE, place, bit)
    found = note_in(folder)
    assert found is None or found == note


def test_a_flipped_token_in_the_cache_is_read_from_the_text_again(tiny: Callable[..., RunConfig]) -> None:
    whole = load_corpus(tiny())
    expected = [np.array(whole.train), np.array(whole.val), whole.fingerprint, whole.vocab_size]
    files = [path for path in default_cache_dir().glob("*/*/*") if path.is_file()]
    assert {path.name for path in files} >= {"train.bin", "val.bin", "tokenizer.json", "meta.json"}
    for file in files:
        if not file.parent.parent.name.startswith(("tokens", "surveys")):
            continue
        for place in (0.0, 0.3, 0.6, 0.99):
            flip(file, place, 1)
            found = load_corpus(tiny())
            assert np.array_equal(found.train, expected[0]), file
            assert np.array_equal(found.val, expected[1])
            assert [found.fingerprint, found.vocab_size] == expected[2:]


@pytest.mark.slow
def test_a_flipped_bit_in_a_plan_is_noticed(local: Store, tmp_path: Path, text_file: Path) -> None:
    write_sweep(local, write_experiment(tmp_path, text_file, space=SPACE), {})
    (definition,) = local.definitions("question")
    (file,) = local.layout.artifacts.glob(f"question/{definition.run_id}/artifacts/plan.json")
    assert definition.plan is not None
    file.write_text(json.dumps(with_checksum(definition.plan.to_json()), indent=1))  # as the outbox writes it
    whole = file.read_bytes()

    @settings(max_examples=150)
    @given(place=PLACE, bit=BIT)
    def check(place: float, bit: int) -> None:
        file.write_bytes(whole)
        flip(file, place, bit)
        (found,) = local.definitions("question")
        same = found.plan is not None and found.plan.to_json() == definition.plan.to_json()
        assert same or (found.plan is None and "damaged" in found.problem), found

    check()


def test_a_database_whose_pages_are_damaged_is_named(empty_store: Path, tmp_path: Path) -> None:
    store = open_store(shutil.copytree(empty_store, tmp_path / "store"))
    check_database(store.layout.database, store.where)
    with closing(sqlite3.connect(store.layout.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()
    content = bytearray(store.layout.database.read_bytes())
    content[(page - 1) * size : (page - 1) * size + 8] = b"\xff" * 8
    store.layout.database.write_bytes(content)
    with pytest.raises(ValueError, match=r"mlflow.db is damaged .*; restore it from a backup"):
        check_database(store.layout.database, store.where)


def test_commits_of_mlflow_are_on_the_disk_when_they_return(local: Store) -> None:
    """SQLite's `synchronous` is a setting of each connection: 2 is FULL."""
    engine = local.writer()._client._tracking_client.store.engine
    with engine.connect() as connection:
        (synchronous,) = connection.exec_driver_sql("PRAGMA synchronous").one()
        (journal,) = connection.exec_driver_sql("PRAGMA journal_mode").one()
    assert (synchronous, journal) == (2, "wal")


def test_artifacts_are_on_the_disk_before_a_run_is_complete(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, synced, fsync = local.writer(), list[Path](), os.fsync
    run_id = new_run(writer, writer.experiment("question", None))
    source = local.folder / "work" / "question" / "files"
    (source / "deeper").mkdir(parents=True)
    for name in ("a.txt", "deeper/b.txt"):
        (source / name).write_text(json.dumps(name))
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink()), fsync(fd))[1])
    writer.log_artifacts(run_id, source)
    there = local.layout.artifacts / "question" / run_id / "artifacts"
    ours = {there / "a.txt", there / "deeper", there / "deeper" / "b.txt", there, there.parent, local.layout.artifacts}
    assert ours <= set(synced)
