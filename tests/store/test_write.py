"""The store keeps what it is given exactly once, in MLflow's own terms.

On a local folder and on a real server; what was written is read with MLflow's own client.
"""

import base64
import json
import math
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.cli import cli
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from stores import FINGERPRINT, START, SWEEP_NAMES, config_of, eval_of, history, new_run, steps_of

from sweeps.spec.config_type import from_params, to_params
from sweeps.store import Store, is_temporary, open_store, schema, sql
from sweeps.store.ui import saved_views
from sweeps.store.write import Writer
from tinylm_core.config import RunConfig
from tinylm_core.records import UsageRecord


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
    assert store.artifacts.download(run_id, "config.json", tmp_path / "to").read_text() == "{}"
    folder = store.artifacts.download(run_id, "checkpoint", tmp_path / "to")
    assert (folder / "model.safetensors").read_bytes() == bytes(range(256))
    assert store.artifacts.download(run_id, "deeper/folder/model.safetensors", tmp_path / "to").stat().st_size == 256
    for bad in ("", "/etc/passwd", "../config.json", "checkpoint/../../x", "..\\x", "missing", "missing/file"):
        with pytest.raises(ValueError, match="artifact"):
            store.artifacts.download(run_id, bad, tmp_path / "to")


def test_a_deleted_artifact_is_gone_and_the_others_stay(
    writer: Writer, store: Store, client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "files" / "checkpoint").mkdir(parents=True)
    for name in ("config.json", "checkpoint/model.safetensors"):
        (tmp_path / "files" / name).write_text("content")
    writer.log_artifacts(run_id, tmp_path / "files")
    for _ in range(2):
        store.remover().delete_artifacts(run_id, "checkpoint")
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
    before = store.ui_links(name, "d1")
    assert ("viewStateShareKey" in before.runs, before.best) == (False, None)
    for _ in range(2):
        writer.set_views(experiment, "d1", ["learning_rate"], START)
    links = store.ui_links(name, "d1")
    assert links.runs.endswith("&viewStateShareKey=d1-runs")
    assert str(links.best).endswith("&viewStateShareKey=d1-best")
    tags = client.get_experiment(experiment).tags
    for key in ("d1-runs", "d1-best", "d1-settings"):
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
        assert state["searchFilter"] == "tags.`sweep.in.d1` = 'true'"
        assert state["compareRunCharts"][0]["selectedParams"] == ["learning_rate"]
        assert [chart["xAxisKey"] for chart in state["compareRunCharts"][1:]] == ["step"] * 3
        keys = [group["groupByData"] for group in state.get("groupBy", {}).get("groupByKeys", [])]
        assert keys == (["sweep.setting"] if key == "d1-settings" else [])


def test_where_steps_are_of_different_tokens_curves_are_over_tokens() -> None:
    for tag in saved_views("d1", ["learning_rate", "gradient_accumulation_steps"], START).values():
        state = json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))
        axes = {chart["metricKey"]: chart["selectedXAxisMetricKey"] for chart in state["compareRunCharts"][1:]}
        assert axes == {"val/loss": "eval/train_tokens", "eval/gap": "eval/train_tokens", "train/loss": "train/tokens"}
        assert set(axes.values()) <= set(schema.HISTORY_METRICS)


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


def test_an_experiment_is_made_once_and_one_that_was_deleted_is_refused(
    writer: Writer, store: Store, client: MlflowClient
) -> None:
    name = next(SWEEP_NAMES)
    made = writer.experiment(name, "one")
    client.delete_experiment(made)
    assert name not in store.sweeps()
    with pytest.raises(ValueError, match=f"experiment '{name}' was deleted in MLflow; restore it"):
        writer.experiment(name, "two")
    restore = f"was deleted in MLflow; .* mlflow experiments restore --experiment-id {made} restores it"
    for ask in (store.named, store.plan, store.check_not_deleted):
        with pytest.raises(ValueError, match=restore):
            ask(name)
    client.restore_experiment(made)
    store.check_not_deleted(name)
    assert writer.experiment(name, "two") == made
    found = client.get_experiment(made)
    assert found.lifecycle_stage == "active"
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert found.tags["mlflow.note.content"] == "two"
    if store.is_local:
        assert found.artifact_location == (store.folder / "artifacts" / name).as_uri()


def test_an_experiment_that_was_renamed_is_found_under_both_names(
    writer: Writer, store: Store, client: MlflowClient
) -> None:
    name, shown = next(SWEEP_NAMES), next(SWEEP_NAMES)
    made = writer.experiment(name, "one")
    run_id = new_run(writer, made)
    client.rename_experiment(made, shown)
    assert (name in store.sweeps(), shown in store.sweeps()) == (True, False)
    assert store.named(name) == store.named(shown) == name
    assert writer.experiment(name, "two") == made
    (row,) = store.runs(name)
    assert (row.run_id, store.sweep_of(row)) == (run_id, name)
    again = client.create_experiment(name, tags={schema.SWEEP: name})  # two of one tag: who is still called so
    assert writer.experiment(name, None) == again
    assert store.sweep_of(row) == shown
    assert (store.runs(name), [row.run_id for row in store.runs(shown)]) == ([], [run_id])


def test_an_experiment_somebody_made_in_the_ui_becomes_a_sweep(
    writer: Writer, store: Store, client: MlflowClient
) -> None:
    name = next(SWEEP_NAMES)
    made = client.create_experiment(name)
    assert name not in store.sweeps()
    assert writer.experiment(name, "note") == made
    assert store.sweeps()[0] == name


def test_somebodys_own_experiment_is_left_alone(writer: Writer, store: Store, client: MlflowClient) -> None:
    name = next(SWEEP_NAMES)
    theirs = client.create_experiment(name, tags={"mlflow.note.content": "my thesis"})
    client.create_run(theirs, run_name="mine")
    with pytest.raises(ValueError, match=f"experiment '{name}' is no sweep's and has runs of its own"):
        writer.experiment(name, "What happens?")
    assert client.get_experiment(theirs).tags["mlflow.note.content"] == "my thesis"
    assert name not in store.sweeps()


def test_somebodys_own_run_in_a_sweeps_experiment_is_left_alone(
    writer: Writer, store: Store, client: MlflowClient, experiment: str
) -> None:
    mine = client.create_run(experiment, run_name="mine").info.run_id
    ours = new_run(writer, experiment)
    name = client.get_experiment(experiment).name
    assert store.running(name) == [ours]
    assert store.run_ids(name) == [ours]
    store.remover().remove_run(ours)
    assert not store.remover().remove_experiment(name)
    assert client.get_run(mine).info.status == "RUNNING"
    assert client.get_experiment(experiment).lifecycle_stage == "active"


def test_a_renamed_experiment_keeps_its_artifacts_when_another_of_its_name_is_removed(
    local: Store, tmp_path: Path
) -> None:
    writer, client, name = local.writer(), MlflowClient(local.tracking_uri), next(SWEEP_NAMES)
    renamed = writer.experiment(name, "What happens?")
    run_id = new_run(writer, renamed)
    client.log_text(run_id, "kept", "note.txt")
    client.rename_experiment(renamed, "my renamed one")
    client.create_experiment(name, (local.layout.artifacts / name).as_uri(), {schema.SWEEP: name})
    assert local.remover().remove_experiment(name)
    assert Path(client.download_artifacts(run_id, "note.txt", str(tmp_path))).read_text() == "kept"


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "../up", "a/b", "a b", "ü", "x" * 101, "a\n"])
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
