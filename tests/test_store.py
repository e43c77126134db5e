"""The store keeps what it is given exactly once, in MLflow's own terms, and reads back plain tables.

The contract suite runs on a local folder and on a real server; what was written is read with MLflow's own client.
"""

import base64
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from sweeps import frames
from sweeps.configs import from_params, to_params
from sweeps.store import Store, Writer, is_temporary, links, open_store, place, raw, read, schema, sql
from tinylm_core.config import RunConfig, identity, resolve
from tinylm_core.machine import Machine
from tinylm_core.records import EvalRecord, Metrics, StepRecord, UsageRecord

MACHINE = Machine("cpu", "AVX512", False, False)
FINGERPRINT = "f" * 64
START = 1_750_000_000_000  # milliseconds
NAMES = (f"sweep{number}" for number in count())
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "empty"
    open_store(folder, create=True)
    return folder


@pytest.fixture
def local(empty_folder: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(empty_folder, tmp_path / "store"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(params=["local", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "local":
        return request.getfixturevalue("local")
    monkeypatch.chdir(tmp_path)
    return open_store(request.getfixturevalue("server"), create=True)


@pytest.fixture
def writer(store: Store) -> Writer:
    return store.writer()


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(store.tracking_uri)


@pytest.fixture
def experiment(writer: Writer) -> str:
    return writer.experiment(next(NAMES), "What happens?")


@pytest.fixture
def run_id(writer: Writer, experiment: str) -> str:
    return new_run(writer, experiment)


def new_run(
    writer: Writer,
    experiment: str,
    config: RunConfig | None = None,
    *,
    trial: int = 0,
    definition: str = "d1",
    name: str = "t000",
    adopt: bool = False,
    creation_id: str | None = None,
    start_time_ms: int = START,
) -> str:
    config = config or config_of()
    tags = {
        schema.ROLE: "run",
        schema.DEFINITION: definition,
        schema.TRIAL: str(trial),
        schema.FINGERPRINT: FINGERPRINT,
        schema.NUMERICS: "1",
        schema.IDENTITY: identity(config, FINGERPRINT, 1),
        schema.NUM_PARAMETERS: "1234",
        schema.DEVICE: "cpu",
        schema.THREADS: "1",
        schema.COMMIT: "a" * 40,
    }
    return writer.create_run(
        experiment,
        creation_id=creation_id or os.urandom(8).hex(),
        name=name,
        tags=tags,
        params=to_params(config),
        start_time_ms=start_time_ms,
        adopt=adopt,
    )


def config_of(**changes: object) -> RunConfig:
    return resolve(RunConfig().replace(changes), MACHINE)


def steps_of(first: int, last: int, *, skipped: tuple[int, ...] = ()) -> list[StepRecord]:
    return [
        StepRecord(
            step=step,
            tokens=step * 1024,
            loss=7 / step + 1e-17,
            learning_rate=3e-4 / step,
            grad_norm=math.inf if step in skipped else 1 + step / 7,
            tokens_per_second=12345.678,
            skipped=step in skipped,
            timestamp_ms=START + step,
        )
        for step in range(first, last + 1)
    ]


def eval_of(step: int, *, val_loss: float = 5.0, train_loss: float = 4.5) -> EvalRecord:
    return EvalRecord(step, step * 1024, val_loss, 0.01, train_loss, 0.02, START + 10_000 + step)


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


# What is written, read with MLflow's own client


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([(1, 500)], id="at once"),
        pytest.param([(1, 500), (1, 500)], id="replayed"),
        pytest.param([(1, 20), (21, 40), (21, 40), (41, 500)], id="one batch replayed"),
        pytest.param([(1, 300), (201, 500)], id="overlapping"),
        pytest.param([(201, 500), (1, 300)], id="out of order"),
    ],
)
def test_every_step_is_in_mlflow_exactly_once(
    writer: Writer, client: MlflowClient, run_id: str, batches: list[tuple[int, int]]
) -> None:
    for first, last in batches:
        writer.log_records(run_id, steps=steps_of(first, last))
    for metric, attribute in schema.STEP_METRICS.items():
        expected = [(record.step, float(getattr(record, attribute))) for record in steps_of(1, 500)]
        assert history(client, run_id, metric) == expected
    assert history(client, run_id, schema.SKIPPED) == []
    points = client.get_metric_history(run_id, "train/loss")
    assert [point.timestamp for point in points] == [record.timestamp_ms for record in steps_of(1, 500)]


def test_a_skipped_step_is_logged_as_one(writer: Writer, store: Store, client: MlflowClient, run_id: str) -> None:
    writer.log_records(run_id, steps=steps_of(1, 5, skipped=(3,)))
    writer.log_records(run_id, steps=steps_of(1, 5, skipped=(3,)))
    assert history(client, run_id, schema.SKIPPED) == [(3, 1.0)]
    frame = store.history(run_ids=[run_id])
    assert frame["train_skipped"].tolist() == [0, 0, 1, 0, 0]
    assert math.isinf(frame["train_grad_norm"][2])


def test_steps_of_unequal_size_fill_batches_whole(writer: Writer, client: MlflowClient, run_id: str) -> None:
    skipped = tuple(range(3, 401, 3))
    writer.log_records(run_id, steps=steps_of(1, 400, skipped=skipped))
    assert [step for step, _ in history(client, run_id, schema.SKIPPED)] == list(skipped)
    assert [step for step, _ in history(client, run_id, "train/loss")] == list(range(1, 401))


def test_an_evaluation_is_logged_once_at_its_step(writer: Writer, client: MlflowClient, run_id: str) -> None:
    for record in (eval_of(0), eval_of(100, val_loss=4.0), eval_of(0)):
        writer.log_records(run_id, evals=[record])
    expected = {
        "val/loss": [(0, 5.0), (100, 4.0)],
        "val/loss_standard_error": [(0, 0.01), (100, 0.01)],
        "val/perplexity": [(0, math.exp(5.0)), (100, math.exp(4.0))],
        "eval/train_loss": [(0, 4.5), (100, 4.5)],
        "eval/train_loss_standard_error": [(0, 0.02), (100, 0.02)],
        "eval/gap": [(0, 0.5), (100, -0.5)],
    }
    assert {metric: history(client, run_id, metric) for metric in expected} == expected


def usage_of(number: int, **changes: float) -> UsageRecord:
    return replace(UsageRecord(START + 10_000 * number, 97.5 + number, 512.0, 2.5), **changes)


def test_what_a_process_takes_is_a_system_metric_of_mlflows_kept_once(
    writer: Writer, store: Store, client: MlflowClient, run_id: str
) -> None:
    writer.log_records(run_id, steps=steps_of(1, 30))
    for number, step in [(0, 0), (1, 20), (1, 20), (0, 0), (2, 20), (2, 20)]:
        writer.log_records(run_id, usage=[(step, usage_of(number))])
    assert history(client, run_id, "system/cpu_utilization_percentage") == [(0, 97.5), (20, 98.5), (20, 99.5)]
    assert len(history(client, run_id, "system/system_memory_usage_megabytes")) == 3
    assert len(history(client, run_id, "system/system_memory_usage_percentage")) == 3
    assert not [metric for metric in client.get_run(run_id).data.metrics if metric.startswith("system/gpu")]
    writer.log_records(run_id, usage=[(30, usage_of(3, gpu_memory_megabytes=2.0, gpu_utilization_percent=90.0))])
    assert history(client, run_id, "system/gpu_0_utilization_percentage") == [(30, 90.0)]
    frame = store.history(run_ids=[run_id])
    assert len(frame) == 30
    assert not [name for name in frame.columns if name.startswith("system")]


def test_last_steps_are_the_high_water_marks(writer: Writer, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writer.last_steps(run_id) == (-1, -1)
    writer.log_records(run_id, evals=[eval_of(0)])
    assert writer.last_steps(run_id) == (-1, 0)
    writer.log_records(run_id, steps=steps_of(1, 30))
    assert writer.last_steps(run_id) == (30, 0)
    monkeypatch.setattr(sql, "TESTED_REVISION", "another")
    assert writer.last_steps(run_id) == (30, 0)


def test_values_that_are_not_finite_survive(writer: Writer, store: Store, run_id: str) -> None:
    records = steps_of(1, 3)
    records[1] = replace(records[1], loss=math.nan, grad_norm=-math.inf)
    writer.log_records(run_id, steps=records)
    writer.log_records(run_id, steps=records)
    writer.log_summary(run_id, {"final/val_loss": math.inf, "final/gap": math.nan}, {})
    frame = store.history(run_ids=[run_id])
    assert len(frame) == 3
    assert math.isnan(frame["train_loss"][1])
    assert frame["train_grad_norm"][1] == -math.inf
    metrics = store.find_run(run_id).metrics
    assert metrics["final/val_loss"] == math.inf
    assert math.isnan(metrics["final/gap"])


def test_a_summary_is_logged_once(writer: Writer, client: MlflowClient, run_id: str) -> None:
    summary = {"final/val_loss": 3.0, "best/val_perplexity": math.inf, "objective": 3.0, "final/gap": math.nan}
    for _ in range(3):
        writer.log_summary(run_id, summary, {schema.WEIGHTS: "w" * 64})
    assert {metric: len(history(client, run_id, metric)) for metric in summary} == dict.fromkeys(summary, 1)
    writer.log_summary(run_id, {"objective": 2.5}, {})
    run = client.get_run(run_id)
    assert run.data.metrics["objective"] == 2.5
    assert run.data.tags[schema.WEIGHTS] == "w" * 64


def test_params_tags_and_name_are_mlflows(writer: Writer, client: MlflowClient, experiment: str) -> None:
    config = config_of(learning_rate=3e-4, max_grad_norm=None, data="dir/my file.txt")
    run = client.get_run(new_run(writer, experiment, config, trial=7, name="t007 lr=3e-4 seed=0"))
    assert run.data.params == to_params(config)
    assert from_params(RunConfig, run.data.params) == config
    assert run.info.run_name == "t007 lr=3e-4 seed=0"
    assert run.info.start_time == START
    assert run.info.status == "RUNNING"
    assert run.data.tags[schema.STATE] == "RUNNING"
    assert run.data.tags[schema.TRIAL] == "7"
    assert run.data.tags["mlflow.source.git.commit"] == "a" * 40


def test_more_than_a_hundred_params_are_kept(writer: Writer, client: MlflowClient, experiment: str) -> None:
    params = {f"field{number}": str(number) for number in range(230)}
    made = writer.create_run(experiment, creation_id="c", name="n", tags={}, params=params, start_time_ms=START)
    assert client.get_run(made).data.params == params


def test_a_repeated_creation_adopts_the_first_run(writer: Writer, client: MlflowClient, experiment: str) -> None:
    first = new_run(writer, experiment, creation_id="abc", adopt=True)
    assert new_run(writer, experiment, creation_id="abc", adopt=True) == first
    assert new_run(writer, experiment, creation_id="def", adopt=True) != first
    assert len(client.search_runs([experiment])) == 2


def test_a_creation_that_was_killed_before_its_params_is_completed(
    writer: Writer, client: MlflowClient, experiment: str
) -> None:
    made = client.create_run(experiment, tags={schema.CREATION: "abc"}).info.run_id
    assert new_run(writer, experiment, creation_id="abc", adopt=True) == made
    assert client.get_run(made).data.params == to_params(config_of())


def test_extra_runs_of_one_creation_are_deleted(
    writer: Writer, store: Store, client: MlflowClient, experiment: str
) -> None:
    retries = [client.create_run(experiment, START, tags={schema.CREATION: "abc"}).info.run_id for _ in range(3)]
    in_use = max(retries)
    writer.log_records(in_use, steps=steps_of(1, 3))
    assert new_run(writer, experiment, creation_id="abc", adopt=True) == in_use
    assert [run.info.run_id for run in client.search_runs([experiment])] == [in_use]
    if not store.is_local:  # there a plain creation looks back too
        client.create_run(experiment, START - 1, tags={schema.CREATION: "xyz"})
        new_run(writer, experiment, creation_id="xyz")
        assert len(client.search_runs([experiment], f"tags.`{schema.CREATION}` = 'xyz'")) == 1


@pytest.mark.parametrize(
    ("state", "status"),
    [("COMPLETE", "FINISHED"), ("DIVERGED", "FINISHED"), ("FAILED", "FAILED"), ("INTERRUPTED", "KILLED")],
)
def test_a_run_ends_with_its_state_and_mlflows_status(
    writer: Writer, store: Store, client: MlflowClient, run_id: str, state: schema.State, status: str
) -> None:
    for _ in range(2):
        writer.end_run(run_id, state=state, end_time_ms=START + 5000)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time, run.data.tags[schema.STATE]) == (status, START + 5000, state)
    row = store.find_run(run_id)
    assert row.start_time is not None
    assert row.end_time is not None
    assert (row.end_time - row.start_time).total_seconds() == 5


def test_an_interrupted_run_goes_on(writer: Writer, store: Store, client: MlflowClient, run_id: str) -> None:
    writer.log_records(run_id, steps=steps_of(1, 10))
    writer.end_run(run_id, state="INTERRUPTED", end_time_ms=START + 1)
    writer.resume_run(run_id)
    writer.resume_run(run_id)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert (store.find_run(run_id).state, store.find_run(run_id).end_time) == ("RUNNING", None)
    writer.log_records(run_id, steps=steps_of(11, 20))
    writer.end_run(run_id, state="COMPLETE", end_time_ms=START + 2)
    assert [step for step, _ in history(client, run_id, "train/loss")] == list(range(1, 21))
    assert client.get_run(run_id).info.end_time == START + 2


def test_artifacts_come_back_as_they_were(writer: Writer, store: Store, run_id: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "checkpoint").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "checkpoint" / "model.safetensors").write_bytes(bytes(range(256)))
    for _ in range(2):
        writer.log_artifacts(run_id, source)
        writer.log_artifacts(run_id, source / "checkpoint", "deeper/folder")
    assert store.download(run_id, "config.json", tmp_path / "to").read_text() == "{}"
    folder = store.download(run_id, "checkpoint", tmp_path / "to")
    assert (folder / "model.safetensors").read_bytes() == bytes(range(256))
    assert store.download(run_id, "deeper/folder/model.safetensors", tmp_path / "to").stat().st_size == 256
    for bad in ("", "/etc/passwd", "../config.json", "checkpoint/../../x", "..\\x", "missing", "missing/file"):
        with pytest.raises(ValueError, match="artifact"):
            store.download(run_id, bad, tmp_path / "to")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """What stands for a folder of weights, where nobody loads them."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return folder


def test_a_definition_has_one_model_however_often_it_is_made(
    writer: Writer, client: MlflowClient, experiment: str, run_id: str, weights: Path
) -> None:
    asked: list[Path] = []

    def get_checkpoint(folder: Path) -> Path:
        asked.append(folder)
        return weights

    made = {writer.keep_model(run_id, "d1", get_checkpoint) for _ in range(3)}
    (model,) = client.search_logged_models([experiment])
    assert made == {model.model_id}
    assert (model.status, model.source_run_id, model.name) == ("READY", run_id, "model")
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [model.model_id]
    assert len(asked) == 1
    kept = Path(mlflow.artifacts.download_artifacts(model.artifact_location, tracking_uri=client.tracking_uri))
    assert (kept / "artifacts" / "checkpoint" / "model.safetensors").read_bytes() == bytes(range(256))
    assert (kept / "code" / "tinylm_core" / "model.py").exists()
    assert not [path for path in kept.rglob("*") if path.suffix in (".pkl", ".pyc")]
    assert str(Path(__file__).parent.parent) not in (kept / "MLmodel").read_text()
    another = writer.keep_model(run_id, "d2", get_checkpoint)
    assert {found.model_id for found in client.search_logged_models([experiment])} == {model.model_id, another}


def test_a_better_run_takes_the_models_place(
    writer: Writer, client: MlflowClient, experiment: str, run_id: str, weights: Path
) -> None:
    better = new_run(writer, experiment)
    first = writer.keep_model(run_id, "d1", lambda _: weights)
    second = writer.keep_model(better, "d1", lambda _: weights)
    assert [model.model_id for model in client.search_logged_models([experiment])] == [second]
    assert writer.keep_model(better, "d1", lambda _: weights) == second
    assert first != second


@pytest.mark.parametrize("num_made", [1, 3])
def test_a_model_that_was_killed_half_way_is_completed(
    writer: Writer, client: MlflowClient, experiment: str, run_id: str, weights: Path, num_made: int
) -> None:
    def create() -> str:
        made = client.create_logged_model(experiment, "model", run_id, {schema.DEFINITION: "d1"})
        return str(made.model_id)

    half_made = [create() for _ in range(num_made)]

    def no_checkpoint(_: Path) -> Path:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        writer.keep_model(run_id, "d1", no_checkpoint)
    kept = writer.keep_model(run_id, "d1", lambda _: weights)
    assert kept in half_made
    assert [(model.model_id, model.status) for model in client.search_logged_models([experiment])] == [(kept, "READY")]


def test_a_deleted_artifact_is_gone_and_the_others_stay(
    writer: Writer, client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "files" / "checkpoint").mkdir(parents=True)
    for name in ("config.json", "checkpoint/model.safetensors"):
        (tmp_path / "files" / name).write_text("content")
    writer.log_artifacts(run_id, tmp_path / "files")
    for _ in range(2):
        writer.delete_artifacts(run_id, "checkpoint")
    assert [info.path for info in client.list_artifacts(run_id)] == ["config.json"]


def test_mlflows_own_tools_see_a_sweep(
    writer: Writer, client: MlflowClient, experiment: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    writer.log_summary(run_id, {"objective": 2.5}, {})
    listed = CliRunner().invoke(cli, ["runs", "list", "--experiment-id", experiment], catch_exceptions=False)
    assert listed.exit_code == 0
    assert run_id in listed.output
    found = mlflow.search_runs([experiment], "metrics.objective < 3 AND params.learning_rate = '0.0003'")
    assert found["run_id"].tolist() == [run_id]
    assert found[f"tags.{schema.TRIAL}"].tolist() == ["0"]


def test_mlflows_gc_frees_a_deleted_run_and_leaves_the_others(
    local: Store, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, client = local.writer(), MlflowClient(local.tracking_uri)
    experiment = writer.experiment("question", None)
    deleted, kept = new_run(writer, experiment), new_run(writer, experiment)
    for run_id in (deleted, kept):
        writer.log_records(run_id, steps=steps_of(1, 5))
        writer.log_artifacts(run_id, weights, schema.CHECKPOINT)
    writer.keep_model(deleted, "d1", lambda _: weights)
    writer.delete_run(deleted)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.tracking_uri)
    done = CliRunner().invoke(cli, ["gc", "--backend-store-uri", local.tracking_uri], catch_exceptions=False)
    assert done.exit_code == 0
    assert [row.run_id for row in local.runs("question")] == [kept]
    assert client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY) == []
    left = {
        path.relative_to(local.folder / "artifacts" / "question").parts[0]
        for path in (local.folder / "artifacts").rglob("*.safetensors")
    }
    assert left == {kept, "models"}
    assert writer.last_steps(kept) == (5, -1)
    model = writer.keep_model(kept, "d1", lambda _: weights)
    assert [found.model_id for found in client.search_logged_models([experiment])] == [model]


def test_the_page_of_a_sweep_has_views_and_its_link_opens_one(
    writer: Writer, store: Store, client: MlflowClient, experiment: str
) -> None:
    name = client.get_experiment(experiment).name
    assert "viewStateShareKey" not in store.ui_links(name).runs
    for _ in range(2):
        writer.set_views(experiment, ["learning_rate"], START)
    assert store.ui_links(name).runs.endswith("&viewStateShareKey=sweep")
    tags = client.get_experiment(experiment).tags
    for key in ("sweep", "sweep-settings"):
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
        assert state["compareRunCharts"][0]["selectedParams"] == ["learning_rate"]
        assert bool(state.get("groupBy")) == (key == "sweep-settings")


def test_the_dataset_is_an_input(writer: Writer, client: MlflowClient, run_id: str) -> None:
    for _ in range(2):
        writer.log_dataset(run_id, name="python-docs", digest=FINGERPRINT, source="python-docs", context="training")
    (dataset_input,) = client.get_run(run_id).inputs.dataset_inputs
    assert dataset_input.dataset.name == "python-docs"
    assert FINGERPRINT.startswith(dataset_input.dataset.digest)
    assert json.loads(dataset_input.dataset.source) == {"uri": "python-docs"}
    assert [(tag.key, tag.value) for tag in dataset_input.tags] == [("mlflow.data.context", "training")]


def test_a_note_is_the_runs_description(writer: Writer, client: MlflowClient, run_id: str) -> None:
    writer.set_note(run_id, "# Hello")
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "# Hello"
    writer.set_note(run_id, "x" * 100_000)
    assert client.get_run(run_id).data.tags["mlflow.note.content"].endswith("x\n…")


def test_an_experiment_is_made_once_and_comes_back_when_deleted(
    writer: Writer, store: Store, client: MlflowClient
) -> None:
    name = next(NAMES)
    made = writer.experiment(name, "one")
    assert writer.experiment(name, "two") == made
    client.delete_experiment(made)
    assert name not in store.sweeps()
    assert writer.experiment(name, "two") == made
    found = client.get_experiment(made)
    assert found.lifecycle_stage == "active"
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert found.tags["mlflow.note.content"] == "two"
    if store.is_local:
        assert found.artifact_location == (store.folder / "artifacts" / name).as_uri()


def test_an_experiment_somebody_made_in_the_ui_becomes_a_sweep(
    writer: Writer, store: Store, client: MlflowClient
) -> None:
    name = next(NAMES)
    made = client.create_experiment(name)
    assert name not in store.sweeps()
    assert writer.experiment(name, "note") == made
    assert store.sweeps()[0] == name


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "ü", "x" * 101, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(local: Store, name: str) -> None:
    with pytest.raises(ValueError, match="sweep name"):
        local.writer().experiment(name, "")


def test_a_deleted_run_is_gone_for_readers(writer: Writer, store: Store, client: MlflowClient, experiment: str) -> None:
    name = client.get_experiment(experiment).name
    kept, deleted = new_run(writer, experiment), new_run(writer, experiment)
    writer.delete_run(deleted)
    writer.delete_run(deleted)
    assert [row.run_id for row in store.runs(name)] == [kept]
    with pytest.raises(ValueError, match="no such run"):
        store.find_run(deleted)
    with pytest.raises(MlflowException) as raised:
        writer.log_records(deleted, steps=steps_of(1, 1))
    assert not is_temporary(raised.value)
    assert len(client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)) == 1


# Batches, locks, other programs


def test_a_batch_is_in_the_database_whole_or_not_at_all(local: Store) -> None:
    writer = local.writer()
    run_id = new_run(writer, writer.experiment("sweep", ""))
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics WHEN NEW.step = 350 AND NEW.key = 'train/tokens' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        with pytest.raises(MlflowException):
            writer.log_records(run_id, steps=steps_of(1, 500))
        client = MlflowClient(local.tracking_uri)
        counts = {len(history(client, run_id, metric)) for metric in schema.STEP_METRICS}
        assert counts == {200}  # one batch of 1,000 metrics is whole steps; of the second there is nothing
        assert writer.last_steps(run_id) == (200, -1)
        database.execute("DROP TRIGGER full")
    writer.log_records(run_id, steps=steps_of(201, 500))
    assert [step for step, _ in history(client, run_id, "train/loss")] == list(range(1, 501))


def test_readers_work_while_another_program_writes(local: Store) -> None:
    writer = local.writer()
    run_id = new_run(writer, writer.experiment("sweep", ""))
    with closing(sqlite3.connect(local.folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE runs SET name = 'uncommitted'")
        assert open_store(local.folder).find_run(run_id).name == "t000"
        assert local.sweeps() == ["sweep"]


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
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == [".gitignore", "reports", "work"]
    with pytest.raises(MlflowException) as raised:
        away.sweeps()
    assert is_temporary(raised.value)


# Where a store is


def test_a_new_store_is_one_folder_in_wal_mode(empty_folder: Path) -> None:
    names = {path.name for path in empty_folder.iterdir()} - {"mlflow.db-wal", "mlflow.db-shm"}
    assert names == {"mlflow.db", "artifacts", "work", "reports", ".gitignore"}
    assert (empty_folder / ".gitignore").read_text() == (REPOSITORY / "mlruns.gitignore").read_text()


def test_the_database_stays_in_wal_mode_after_mlflow_used_it(local: Store) -> None:
    writer = local.writer()
    new_run(writer, writer.experiment("sweep", ""))
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_somebody_made_without_wal_gets_it(empty_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(empty_folder, tmp_path / "store")
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
    tmp_path: Path, empty_folder: Path, content: str, message: str, create: bool
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
            shutil.copytree(empty_folder, folder)
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
    assert served.folder == tmp_path / "mlruns"
    assert place.find_place("here").is_local
    for scheme in ("sqlite:///x.db", "databricks", "/some/folder"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", scheme)
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
            place.find_place(None)


# The read side


def planned_sweep(writer: Writer, name: str, tmp_path: Path) -> tuple[str, dict[tuple[int, int], str]]:
    """A sweep of two learning rates and two seeds, of which one run failed, was done again, and one has not started."""
    experiment = writer.experiment(name, "")
    configs = {
        (trial, seed): config_of(learning_rate=rate, seed=seed)
        for trial, rate in enumerate((1e-3, 3e-4))
        for seed in (0, 1)
    }
    plan = {
        "name": name,
        "definition": "d2abc",
        "swept": ["learning_rate"],
        "seeds": [0, 1],
        "num_trials": 2,
        "trials": [
            {
                "trial": trial,
                "setting": {"learning_rate": rate},
                "label": f"lr={rate}",
                "runs": {str(seed): identity(configs[trial, seed], FINGERPRINT, 1) for seed in (0, 1)},
            }
            for trial, rate in enumerate((1e-3, 3e-4))
        ],
    }
    for definition, content in (("d1", plan | {"definition": "d1", "trials": []}), ("d2abc", plan)):
        tags = {schema.ROLE: "summary", schema.DEFINITION: definition}
        start = START if definition == "d1" else START + 1
        summary = writer.create_run(
            experiment, creation_id=definition, name=definition, tags=tags, params={}, start_time_ms=start
        )
        folder = tmp_path / definition
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps(content))
        writer.log_artifacts(summary, folder)
    runs = {}
    for (trial, seed), config in list(configs.items())[:3]:
        # The first came from another definition, where it had another number.
        made_by = (
            {"trial": 5, "definition": "d1"} if (trial, seed) == (0, 0) else {"trial": trial, "definition": "d2abc"}
        )
        runs[trial, seed] = run_id = new_run(writer, experiment, config, **made_by)
        evals = [eval_of(0), eval_of(20, val_loss=3 - trial, train_loss=2.5 - trial)]
        steps = steps_of(1, 20)
        writer.log_records(run_id, steps=steps)
        for record in evals:
            writer.log_records(run_id, evals=[record])
        if (trial, seed) != (1, 0):
            done = Metrics("COMPLETE", 1234, 1000, steps, evals, "w" * 64)
            writer.log_summary(run_id, schema.summary_metrics(done), {schema.WEIGHTS: "w" * 64})
            writer.end_run(run_id, state="COMPLETE", end_time_ms=START + 60_000)
    failed = new_run(writer, experiment, configs[0, 0], start_time_ms=START + 99_000)
    writer.end_run(failed, state="FAILED", end_time_ms=START + 100_000)
    writer.resume_run(failed)
    writer.end_run(failed, state="FAILED", end_time_ms=START + 100_000)
    return experiment, runs


@pytest.fixture(params=["sql", "client"])
def reader(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, read as it chooses to, and as it is read where the schema is not the tested one, in small pages."""
    if request.param == "client":
        monkeypatch.setattr(sql, "TESTED_REVISION", "another")
        monkeypatch.setattr(raw, "_PAGE", 2)
        monkeypatch.setattr(read, "_HISTORIES", 2)
    return store


def test_trials_are_the_plans_runs_whoever_made_them(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(NAMES)
    _, runs = planned_sweep(writer, name, tmp_path)
    frame = reader.trials(name)
    assert frame["run_id"].tolist() == [runs[0, 0], runs[0, 1], runs[1, 0]]
    assert frame["trial"].tolist() == [0, 0, 1]
    assert frame["seed"].tolist() == [0, 1, 0]
    assert frame["definition"].tolist() == ["d1", "d2abc", "d2abc"]
    assert frame["setting"].tolist() == ["lr=0.001", "lr=0.001", "lr=0.0003"]
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert frame["learning_rate"].tolist() == [1e-3, 1e-3, 3e-4]
    assert frame["final_val_loss"][:2].tolist() == [3.0, 3.0]
    assert frame["final_gap"][:2].tolist() == [0.5, 0.5]
    assert frame["objective"][:2].tolist() == [3.0, 3.0]
    assert frame["final_tokens_per_second"][0] == 12345.678
    assert frame["duration_seconds"][:2].tolist() == [60.0, 60.0]
    assert pd.isna(frame["duration_seconds"][2])
    assert pd.isna(frame["end_time"][2])
    assert pd.isna(frame["objective"][2])
    assert frame["num_parameters"].tolist() == [1234] * 3
    assert frame["start_time"][0] == pd.Timestamp(START, unit="ms", tz="UTC")
    types = {column: str(dtype) for column, dtype in frame.dtypes.items()}
    assert types["trial"] == types["seed"] == types["vocab_size"] == types["max_tokens"] == types["threads"] == "Int64"
    assert types["learning_rate"] == types["final_val_loss"] == types["max_grad_norm"] == "float64"
    assert types["bias"] == "boolean"
    assert types["start_time"] == types["end_time"] == "datetime64[ms, UTC]"
    assert set(RunConfig.model_fields) <= set(frame.columns)
    empty = reader.trials(name, "d1")
    assert len(empty) == 0
    assert empty.dtypes.equals(frame.dtypes)


def test_history_is_every_step_once(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(NAMES)
    _, runs = planned_sweep(writer, name, tmp_path)
    frame = reader.history(name)
    assert frame["run_id"].unique().tolist() == list(runs.values())
    one = frame[frame["run_id"] == runs[1, 0]]
    assert one["step"].tolist() == list(range(21))
    assert one["train_loss"].tolist()[1:] == [record.loss for record in steps_of(1, 20)]
    assert one["train_tokens"].tolist()[1:] == [record.tokens for record in steps_of(1, 20)]
    assert one["val_loss"].dropna().tolist() == [5.0, 2.0]
    assert one["eval_gap"].dropna().tolist() == [0.5, 0.5]
    assert math.isnan(one["train_loss"].iloc[0])
    assert one["timestamp"].iloc[20] == pd.Timestamp(START + 20, unit="ms", tz="UTC")
    assert reader.history(name, run_ids=[runs[1, 0]]).equals(one.reset_index(drop=True))
    by_id = reader.history(run_ids=[runs[0, 0]])
    assert by_id["trial"].unique().tolist() == [5]
    empty = reader.history(name, "d1")
    assert len(empty) == 0
    assert empty.dtypes.equals(frame.dtypes)


def test_gaps_are_means_over_complete_runs(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(NAMES)
    planned_sweep(writer, name, tmp_path)
    frame = reader.gaps(name)
    assert frame.to_dict("records") == [
        {
            "parameter": "learning_rate",
            "value": 1e-3,
            "num_runs": 2,
            "train_loss": 2.5,
            "val_loss": 3.0,
            "gap": 0.5,
            "gap_standard_error": 0.0,
        }
    ]
    assert reader.gaps(name, "d1").dtypes.equals(frame.dtypes)


def test_read_only_sql_reads_what_mlflows_client_reads(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sql.revision(local.folder / "mlflow.db") == sql.TESTED_REVISION
    writer = local.writer()
    _, runs = planned_sweep(writer, "sweep", tmp_path)
    writer.log_records(runs[1, 0], steps=[replace(steps_of(21, 21)[0], loss=math.nan, grad_norm=math.inf)])
    writer.log_summary(runs[1, 0], {"final/gap": math.nan, "final/val_loss": -math.inf}, {})

    def everything() -> tuple[object, ...]:
        rows = sorted(local.runs("sweep"), key=lambda row: row.run_id)
        history = local.history("sweep")
        return (
            repr(rows),
            history,
            local.trials("sweep"),
            repr(local.find_run(runs[0, 0][:20])),
            local.runs("sweep", "summary"),
            sorted(local.running("sweep")),
        )

    by_sql = everything()
    monkeypatch.setattr(sql, "TESTED_REVISION", "another")
    monkeypatch.setattr(sql, "raw_runs", None)
    monkeypatch.setattr(sql, "points", None)
    by_client = everything()
    assert by_sql[0] == by_client[0]
    pd.testing.assert_frame_equal(by_sql[1], by_client[1])
    pd.testing.assert_frame_equal(by_sql[2], by_client[2])
    assert by_sql[3] == by_client[3]
    assert {row.run_id for row in by_sql[4]} == {row.run_id for row in by_client[4]}
    assert by_sql[5] == by_client[5]
    everyone = [*local.runs("sweep"), *local.runs("sweep", "summary")]
    assert by_sql[5] == sorted(row.run_id for row in everyone if row.status == "RUNNING") != []


def test_plans_are_found_by_definition(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(NAMES)
    planned_sweep(writer, name, tmp_path)
    assert [known.definition for known in reader.definitions(name)] == ["d2abc", "d1"]
    assert reader.plan(name)["definition"] == "d2abc"
    assert reader.plan(name, "d1")["definition"] == "d1"
    assert reader.plan(name, "d2")["definition"] == "d2abc"
    for unknown in ("d", "x"):
        with pytest.raises(ValueError, match="known: d2abc, d1"):
            reader.plan(name, unknown)
    with pytest.raises(ValueError, match="no sweep 'nothing'"):
        reader.plan("nothing")
    experiment = writer.experiment(next(NAMES), "")
    fresh = reader.sweeps()[0]
    with pytest.raises(ValueError, match="has no plan"):
        reader.plan(fresh)
    new_run(writer, experiment)
    assert len(reader.runs(fresh)) == 1


def test_a_damaged_plan_is_said_to_be_one(local: Store, tmp_path: Path) -> None:
    writer = local.writer()
    planned_sweep(writer, "sweep", tmp_path)
    (tmp_path / "d2abc" / "plan.json").write_text('{"name":')
    writer.log_artifacts(local.definitions("sweep")[0].run_id, tmp_path / "d2abc")
    with pytest.raises(ValueError, match=r"plan.json of run \w+ in .* is damaged"):
        local.plan("sweep")


def test_a_run_is_found_by_the_start_of_its_id(reader: Store, writer: Writer, experiment: str) -> None:
    made = [new_run(writer, experiment) for _ in range(5)]
    assert reader.find_run(made[3]).run_id == made[3]
    assert reader.find_run(made[3][:12]).run_id == made[3]
    for bad in ("abc", "../../x", "ABCDEF", "g" * 8, made[0] + "0", "%%%%"):
        with pytest.raises(ValueError, match="must be 4 to 32"):
            reader.find_run(bad)
    with pytest.raises(ValueError, match="no such run"):
        reader.find_run("0" * 32)


def test_an_ambiguous_start_names_the_runs(local: Store) -> None:
    writer = local.writer()
    experiment = writer.experiment("sweep", "")
    for _ in range(2):
        new_run(writer, experiment)
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as database:
        database.executescript(
            "PRAGMA foreign_keys = OFF; UPDATE tags SET run_uuid = 'abcd' || run_uuid;"
            "UPDATE params SET run_uuid = 'abcd' || run_uuid; UPDATE runs SET run_uuid = 'abcd' || run_uuid;"
        )
    with pytest.raises(ValueError, match="2 runs start so"):
        local.find_run("abcd")


def test_the_only_sweep_needs_no_name(local: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none yet"):
        local.trials()
    writer = local.writer()
    planned_sweep(writer, "one", tmp_path)
    assert len(local.trials()) == 3
    writer.experiment("two", "")
    with pytest.raises(ValueError, match="name one: two, one"):
        local.trials()


def test_identity_is_computed_on_reading(local: Store) -> None:
    writer = local.writer()
    experiment = writer.experiment("sweep", "")
    config = config_of(seed=3)
    run_id = new_run(writer, experiment, config)
    writer.set_tags(run_id, {schema.IDENTITY: "of an old version"})
    row = local.find_run(run_id)
    assert (row.config, row.seed) == (config, 3)
    assert row.identity == identity(config, FINGERPRINT, 1)
    foreign = writer.create_run(
        experiment,
        creation_id="f",
        name="n",
        tags={schema.IDENTITY: "i"},
        params={"depth": "3", "seed": "1"},
        start_time_ms=START,
    )
    row = local.find_run(foreign)
    assert (row.config, row.seed, row.identity) == (None, 1, "i")


# Frames and links, without a store


def row_of(config: RunConfig, **changes: object) -> schema.RunRow:
    row = read.run_row(
        sql.RawRun(
            "r",
            "t000",
            "1",
            "FINISHED",
            START,
            START + 1,
            to_params(config),
            {schema.STATE: "COMPLETE", schema.FINGERPRINT: FINGERPRINT, schema.NUMERICS: "1"},
            {},
        )
    )
    return replace(row, **changes)


def plan_of(*identities: str) -> dict[str, object]:
    trials = [
        {"trial": trial, "setting": {"seed": 0}, "label": str(trial), "runs": {"0": planned}}
        for trial, planned in enumerate(identities)
    ]
    return {"trials": trials}


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        (["COMPLETE", "RUNNING", "FAILED"], 0),
        (["FAILED", "RUNNING", "INTERRUPTED"], 1),
        (["FAILED", "INTERRUPTED"], 1),
        (["FAILED", "DIVERGED", "RUNNING"], 1),
    ],
)
def test_of_equal_runs_a_result_counts_then_a_running_one_then_the_newest(states: list[str], chosen: int) -> None:
    rows = [
        row_of(
            config_of(), run_id=str(number), state=state, start_time=pd.Timestamp(START + number, unit="ms", tz="UTC")
        )
        for number, state in enumerate(states)
    ]
    for order in (rows, rows[::-1]):
        frame = frames.trials_frame(order, plan_of(str(rows[0].identity)))
        assert frame["run_id"].tolist() == [str(chosen)]


def test_a_plan_of_an_older_version_finds_its_runs() -> None:
    row = row_of(config_of())
    old = replace(row, tags=row.tags | {schema.IDENTITY: "as it was"})
    assert len(frames.trials_frame([old], plan_of("as it was"))) == 1
    assert len(frames.trials_frame([old], plan_of(str(row.identity)))) == 1
    assert len(frames.trials_frame([old], plan_of("other"))) == 0


def test_other_summary_metrics_become_columns() -> None:
    row = row_of(config_of(), metrics={"final/accuracy": 0.5, "best/x/y": 1.0, "train/loss": 2.0})
    frame = frames.trials_frame([row], plan_of(str(row.identity)))
    assert frame["final_accuracy"].tolist() == [0.5]
    assert frame["best_x_y"].tolist() == [1.0]
    assert "train_loss" not in frame.columns


def test_a_value_that_is_none_has_its_gap_too() -> None:
    rows = [
        row_of(
            config_of(max_grad_norm=norm, seed=seed),
            run_id=f"{norm}{seed}",
            metrics={"final/val_loss": 3.0 + seed, "final/train_loss": 2.0, "final/gap": 1.0 + seed},
        )
        for norm in (None, 0.5)
        for seed in (0, 1, 2)
    ]
    trials = frames.trials_frame(rows, plan_of(*(str(row.identity) for row in rows)))
    table = frames.gaps_frame(trials, ["max_grad_norm", "precision"])
    assert table["parameter"].tolist() == ["max_grad_norm", "max_grad_norm", "precision"]
    assert table["value"].tolist() == [0.5, None, "fp32"]
    assert table["num_runs"].tolist() == [3, 3, 6]
    np.testing.assert_allclose(table["gap"], 2.0)
    np.testing.assert_allclose(table["gap_standard_error"][:2], np.std([1, 2, 3], ddof=1) / math.sqrt(3))


def test_a_value_there_twice_counts_once_the_later() -> None:
    runs = pd.DataFrame([("r", 0, 0)], columns=["run_id", "trial", "seed"])
    points = [("r", "train/loss", 1, START + later, float(later)) for later in (2, 1)]
    frame = frames.history_frame(points, runs)
    assert frame["train_loss"].tolist() == [2.0]


def test_summary_metrics_of_a_run_without_evaluations() -> None:
    diverged = Metrics("DIVERGED", 1, 1000, [], [], None, diverged_at=1)
    assert schema.summary_metrics(diverged) == {"objective": math.log(1000)}
    assert schema.summary_metrics(Metrics("INTERRUPTED", 1, 1000, [], [], None)) == {}


def test_links_open_on_the_runs_and_their_comparison() -> None:
    base = links.ui_base("sqlite:////tmp/mlflow.db")
    assert links.runs_page(base, "7") == (
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    )
    assert links.compare_page("http://host", "7", ["a", "b"]) == (
        "http://host/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D"
        "&workflowType=machine_learning"
    )
    assert links.runs_page("http://host", "7", "sweep") == (
        "http://host/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=sweep"
    )
    assert links.ui_base("https://me:secret@host:5000/mlflow/") == "https://host:5000/mlflow"
