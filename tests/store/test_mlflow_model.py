"""The best run of a definition is a model of MLflow's, once, whatever happened."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from stores import new_run

from sweeps.store import schema
from sweeps.store.write import Writer


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
