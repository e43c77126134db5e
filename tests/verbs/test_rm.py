"""What is removed is gone, artifacts too, and its name is free; what isn't meant stays. Read with MLflow's client."""

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from filelock import FileLock
from launcher import Launcher, Result
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, ViewType
from mlflow.exceptions import MlflowException
from servers import Server
from stores import NUM_STEPS, write_experiment, write_sweep

from sweeps.driver.run_folder import RunNote
from sweeps.rm import agreed
from sweeps.store import Store, open_store, schema

NAMES = (f"removed{number}" for number in count())
ALL = {(trial, seed): ("COMPLETE", 2.0 + trial) for trial in (0, 1) for seed in (0, 1)}
TWO_RATES = '{"learning_rate": Choice(1e-3, 3e-3)}'


@pytest.fixture
def where(any_store: Store) -> str:
    return any_store.tracking_uri if not any_store.is_local else str(any_store.folder)


@pytest.fixture
def artifacts(any_store: Store, request: pytest.FixtureRequest) -> Path:
    """Where the files are, on this machine or the server's."""
    kind = request.node.callspec.params["any_store"]
    folder: Path = any_store.folder if any_store.is_local else request.getfixturevalue(kind).folder
    return folder / "artifacts"


def runs_of(store: Store, name: str, view: int = ViewType.ALL) -> set[str]:
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_id for run in client.search_runs([experiment.experiment_id], run_view_type=view)}


def files_of(artifacts: Path, run_ids: set[str]) -> list[Path]:
    return [path for path in artifacts.rglob("*") if path.is_file() and run_ids & set(path.parts)]


def remove(launcher: Launcher, store: str, folder: Path, *arguments: str) -> Result:
    return launcher.run("sweeps.rm", *arguments, "--store", store, cwd=folder)


@pytest.mark.slow
def test_a_removed_sweep_runs_from_scratch_under_the_same_name(
    launcher: Launcher, any_store: Store, where: str, artifacts: Path, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    file = write_experiment(tmp_path, text_file, name, '{"learning_rate": Choice(1e-3)}')
    other = next(NAMES)
    write_sweep(any_store, write_experiment(tmp_path, text_file, other, TWO_RATES), ALL)
    first = launcher.run("sweeps.run", file, "--store", where, "--workers", 2, cwd=tmp_path)
    assert first.code == 0, first.err
    before, others = runs_of(any_store, name), runs_of(any_store, other)
    assert len(before) == 3
    assert files_of(artifacts, before)

    result = remove(launcher, where, tmp_path, name, "--yes")
    assert (result.code, [line for line in result.err.splitlines() if "sweeps:" in line]) == (0, [])
    assert f"removed sweep {name} with 2 runs in {any_store.where}, " in result.out
    assert MlflowClient(any_store.tracking_uri).get_experiment_by_name(name) is None
    assert not files_of(artifacts, before)
    for folder in ("work", "reports"):
        assert not (any_store.folder / folder / name).exists()
    assert any_store.sweeps()[0] != name
    if any_store.is_local:
        with closing(sqlite3.connect(any_store.folder / "mlflow.db")) as database:
            assert database.execute("PRAGMA freelist_count").fetchone() == (0,)

    again = launcher.run("sweeps.run", file, "--store", where, "--workers", 2, cwd=tmp_path)
    assert again.code == 0, again.err
    assert "2 known" not in again.out
    after = runs_of(any_store, name)
    assert len(after) == 3
    assert not after & before
    client = MlflowClient(any_store.tracking_uri)
    for run_id in after:
        if client.get_run(run_id).data.tags["sweep.role"] == "run":
            steps = [point.step for point in client.get_metric_history(run_id, "train/loss")]
            assert steps == list(range(1, NUM_STEPS + 1))
    assert runs_of(any_store, other) == others
    assert files_of(artifacts, others)


def test_a_removed_run_is_a_hole_and_the_others_stay(
    launcher: Launcher, any_store: Store, where: str, artifacts: Path, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    ids = write_sweep(any_store, write_experiment(tmp_path, text_file, name, TWO_RATES), ALL)
    result = remove(launcher, where, tmp_path, ids[0, 1][:12], "--yes")
    assert result.code == 0, result.err
    assert f"removed run {ids[0, 1]} (t000 lr=1e-3 seed=1) of {name}" in result.out
    assert f"python -m sweeps.report {name}" in result.out
    assert runs_of(any_store, name, ViewType.ACTIVE_ONLY) >= set(ids.values()) - {ids[0, 1]}
    assert ids[0, 1] not in runs_of(any_store, name, ViewType.ACTIVE_ONLY)
    assert not files_of(artifacts, {ids[0, 1]})
    assert files_of(artifacts, {ids[0, 0]})
    assert any_store.trials(name)["run_id"].tolist() == [ids[0, 0], ids[1, 0], ids[1, 1]]
    client = MlflowClient(any_store.tracking_uri)
    if any_store.is_local:
        with pytest.raises(MlflowException, match="not found"):
            client.get_run(ids[0, 1])
    else:
        assert client.get_run(ids[0, 1]).info.lifecycle_stage == "deleted"
        assert "the server keeps the records in its bin" in result.out


def test_a_sweep_that_was_renamed_in_mlflow_goes_by_its_own_name(
    launcher: Launcher, any_store: Store, where: str, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    write_sweep(any_store, write_experiment(tmp_path, text_file, name, TWO_RATES), ALL)
    client = MlflowClient(any_store.tracking_uri)
    client.rename_experiment(client.get_experiment_by_name(name).experiment_id, f"{name}_of_march")
    result = remove(launcher, where, tmp_path, f"{name}_of_march", "--yes")
    assert result.code == 2
    assert f"means {name}; --yes removes without asking" in result.err
    assert remove(launcher, where, tmp_path, name, "--yes").code == 0
    assert name not in any_store.sweeps()
    gone = client.search_experiments(ViewType.ALL, filter_string=f"name LIKE '{name}%'")
    assert all(experiment.lifecycle_stage == "deleted" for experiment in gone)


# --- In a folder


@pytest.fixture
def local(empty_store: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(empty_store, tmp_path / "store"))


@pytest.fixture
def file(tmp_path: Path, text_file: Path) -> Path:
    return write_experiment(tmp_path, text_file, space=TWO_RATES)


def rows(store: Store) -> dict[str, int]:
    with closing(sqlite3.connect(store.folder / "mlflow.db")) as connection:
        tables = ("runs", "metrics", "latest_metrics", "params", "tags", "experiments", "experiment_tags", "datasets")
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_nothing_of_a_removed_sweep_stays_in_the_folder(launcher: Launcher, local: Store, file: Path) -> None:
    empty = rows(local)
    ids = write_sweep(local, file, ALL)
    MlflowClient(local.tracking_uri).delete_run(ids[0, 0])  # one in the bin
    result = remove(launcher, str(local.folder), file.parent, "question", "--yes")
    assert "sweep question with 3 runs" in result.out
    assert rows(local) == empty
    assert [path for path in local.folder.rglob("*") if "question" in path.parts] == []


@pytest.mark.slow
def test_the_hole_of_a_removed_run_is_filled_by_the_next_start(launcher: Launcher, local: Store, file: Path) -> None:
    ids = write_sweep(local, file, ALL)
    assert remove(launcher, str(local.folder), file.parent, ids[1, 1], "--yes").code == 0
    result = launcher.run("sweeps.run", file, "--store", local.folder, "--workers", 1)
    assert result.code == 0, result.err
    assert "4 runs, 3 known" in result.out
    trials = local.trials("question")
    assert trials["state"].tolist() == ["COMPLETE"] * 4
    assert set(trials["run_id"]) & set(ids.values()) == {ids[0, 0], ids[0, 1], ids[1, 0]}


def test_the_checkpoints_of_a_removed_run_go_too(launcher: Launcher, local: Store, file: Path) -> None:
    ids = write_sweep(local, file, {(0, 0): ("INTERRUPTED", None), (0, 1): ("INTERRUPTED", None)})
    creation = {run: local.find_run(run).tags[schema.CREATION] for run in ids.values()}
    folders = {}
    for run in ids.values():
        folders[run] = local.folder / "work" / "question" / "runs" / run
        RunNote(f"{run} identity", {}, creation[run]).write(folders[run])
        (folders[run] / "checkpoint.safetensors").write_bytes(b"x" * 1_000_000)
    result = remove(launcher, str(local.folder), file.parent, ids[0, 1], "--yes")
    assert ", 1.0 MB" in result.out
    assert folders[ids[0, 0]].exists()
    assert not folders[ids[0, 1]].exists()


def test_the_model_of_a_removed_run_goes_with_it(
    launcher: Launcher, any_store: Store, where: str, artifacts: Path, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    ids = write_sweep(any_store, write_experiment(tmp_path, text_file, name, TWO_RATES), ALL)
    client = MlflowClient(any_store.tracking_uri)
    model = client.create_logged_model(client.get_experiment_by_name(name).experiment_id, "model", ids[0, 0])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "MLmodel").write_text("{}")
    client.log_model_artifacts(model.model_id, str(tmp_path / "files"))
    client.log_outputs(ids[0, 0], [LoggedModelOutput(model.model_id, step=0)])
    assert files_of(artifacts, {model.model_id})
    result = remove(launcher, where, tmp_path, ids[0, 0], "--yes")
    assert (result.code, "stay" in result.out) == (0, False)
    assert not files_of(artifacts, {model.model_id, ids[0, 0]})
    with pytest.raises(MlflowException, match="not found"):
        client.get_logged_model(model.model_id)


def test_a_sweep_that_is_being_run_is_not_removed(launcher: Launcher, local: Store, file: Path) -> None:
    ids = write_sweep(local, file, ALL)
    work = local.folder / "work" / "question"
    work.mkdir(parents=True)
    before = rows(local)
    with FileLock(work / "lock"):
        (work / "holder.json").write_text(json.dumps({"host": "elsewhere", "pid": 4321, "since": time.time()}))
        for target in ("question", ids[0, 0]):
            result = remove(launcher, str(local.folder), file.parent, target, "--yes")
            assert result.code == 2
            assert result.one_line.startswith("sweep 'question' is being run by process 4321 on elsewhere since ")
    assert rows(local) == before


@pytest.mark.slow
@pytest.mark.faults
def test_what_a_killed_removal_left_goes_with_the_next_command(launcher: Launcher, local: Store, file: Path) -> None:
    ids = write_sweep(local, file, ALL)
    work = local.folder / "work" / "question"
    work.mkdir(parents=True)
    operations = [{"op": "remove_run", "run_id": run, "workdir": ""} for run in local.run_ids("question")]
    lines = [json.dumps(operation) for operation in [operations[0], *operations, {"op": "remove_sweep"}]]
    (work / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    result = launcher.run("sweeps.run", file, "--store", local.folder, "--workers", 2)
    assert result.code == 0, result.err
    assert not set(local.trials("question")["run_id"]) & set(ids.values())
    assert len(local.trials("question")) == 4


def test_the_same_command_ends_a_removal_that_was_killed(launcher: Launcher, local: Store, file: Path) -> None:
    write_sweep(local, file, ALL)
    work = local.folder / "work" / "question"
    work.mkdir(parents=True)
    operations = [{"op": "remove_run", "run_id": run, "workdir": ""} for run in local.run_ids("question")]
    lines = [json.dumps(operation) for operation in [*operations, {"op": "remove_sweep"}]]
    (work / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    result = remove(launcher, str(local.folder), file.parent, "question", "--yes")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("removed what was left of sweep question in ")
    assert local.sweeps() == []
    assert not work.exists()


def test_a_journal_that_can_not_be_sent_goes_with_its_sweep_and_hides_no_report(
    launcher: Launcher, local: Store, file: Path
) -> None:
    ids = write_sweep(local, file, ALL)
    work = local.folder / "work" / "question"
    work.mkdir(parents=True)
    (work / "journal.jsonl").write_text('{"op": "of tomorrow"}\n')
    store = str(local.folder)
    said = "operation 'of tomorrow' is none of this version; the version that wrote it can send it, and without the"
    for command in ([file], [ids[0, 0], "--yes"]):
        verb = "sweeps.run" if command == [file] else "sweeps.rm"
        refused = launcher.run(verb, *command, "--store", store)
        assert (refused.code, said in refused.one_line, "nothing is lost" in refused.err) == (2, True, False), refused
    shown = launcher.run("sweeps.report", "question", "--store", store)
    assert (shown.code, said in shown.out, "Best of 2 settings" in shown.out) == (0, True, True), shown
    result = remove(launcher, store, file.parent, "question", "--yes")
    assert result.code == 0, result
    assert result.out.startswith("removed sweep question with 4 runs in ")
    assert local.sweeps() == []
    assert not work.exists()


def test_a_copied_store_leaves_the_artifacts_of_the_one_it_came_from(
    launcher: Launcher, local: Store, file: Path
) -> None:
    ids = write_sweep(local, file, ALL)
    copy = shutil.copytree(local.folder, file.parent / "copy")
    result = remove(launcher, str(copy), file.parent, "question", "--yes")
    assert result.code == 0
    assert "artifacts stay" not in result.out
    assert open_store(copy).sweeps() == []
    assert not files_of(copy / "artifacts", {ids[0, 0]})
    assert files_of(local.folder / "artifacts", {ids[0, 0]})
    assert len(local.trials("question")) == 4


def test_it_asks_first_and_says_what_goes(launcher: Launcher, local: Store, file: Path) -> None:
    write_sweep(local, file, ALL)
    before = rows(local)
    result = launcher.run("sweeps.rm", "quest", "--store", local.folder)
    assert "Remove sweep question with 4 runs in" in result.out
    assert result.code == 2
    assert result.one_line == "nobody answered; --yes removes without asking"
    assert rows(local) == before


def test_only_yes_is_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[str] = iter(["y", "n", ""])
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: next(answers))
    assert [agreed("x") for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("questoin", "no sweep 'questoin' in .*; did you mean question\\?"),
        ("0123456789abcdef", "run ID '0123456789abcdef': no such run"),
        ("quest", "'quest' means question; --yes removes without asking, so write that"),
        ("SUMMARY", "holds the plan of a sweep; remove the sweep by its name"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    launcher: Launcher, local: Store, file: Path, target: str, message: str
) -> None:
    write_sweep(local, file, ALL)
    before = rows(local)
    if target == "SUMMARY":
        (summary,) = local.runs("question", "summary")
        target = summary.run_id
    result = remove(launcher, str(local.folder), file.parent, target, "--yes")
    assert result.code == 2
    assert re.search(message, result.one_line)
    assert rows(local) == before


@pytest.mark.slow
def test_a_server_that_serves_no_artifacts_keeps_them_and_it_is_said(
    launcher: Launcher, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server").mkdir()
    with Server(launcher, tmp_path / "server") as server:
        client = MlflowClient(server.uri)
        folder = tmp_path / "server" / "elsewhere"
        client.create_experiment("question", artifact_location=folder.as_uri(), tags={"sweep.name": "question"})
        store = open_store(server.uri, create=True)
        ids = write_sweep(store, write_experiment(tmp_path, text_file, space=TWO_RATES), ALL)
        result = remove(launcher, server.uri, tmp_path, "question", "--yes")
        assert result.code == 0, result.err
        assert result.err.count("artifacts stay, as they can't be freed from here") == 1
        assert "in a folder of the server's machine" in result.err
        assert files_of(folder, set(ids.values()))
        assert client.get_experiment_by_name("question") is None
