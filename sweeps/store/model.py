"""The best run of a definition as an MLflow model: one a definition, found by its tag, made whole however often it is
tried. `text_model.py` says what it does."""

import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import add_to_model
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import tinylm_core
from sweeps.store import schema

NAME = "model"  # so that runs:/RUN_ID/model is its address
_REQUIREMENTS = ("mlflow", "numpy", "platformdirs", "pydantic", "safetensors", "tokenizers", "torch")
_MOST = 100  # models of a definition; there are two while one takes the place of another
_CODE = "text_model.py"
_PARAMS = {
    "max_new_tokens": ("long", 200),
    "temperature": ("double", 0.8),
    "seed": ("long", 0),
}  # as of `sweeps.sample`


def keep_model(client: MlflowClient, run_id: str, definition: str, get_checkpoint: Callable[[Path], Path]) -> str:
    """Make the definition's model that of this run, and return its ID; one of another run goes to MLflow's bin.

    `get_checkpoint` puts the folder with the run's weights into a folder, where they are needed.
    """
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    if not [model for model in _models(client, experiment_id, definition) if model.source_run_id == run_id]:
        tags = {schema.DEFINITION: definition, schema.SWEEP: run.data.tags.get(schema.SWEEP, "")}
        client.create_logged_model(experiment_id, NAME, run_id, tags)
    # Looked for again: over HTTP the client's own retries can make several of one call.
    models = _models(client, experiment_id, definition)
    kept = next(model for model in models if model.source_run_id == run_id)
    if kept.status != "READY":
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder) / NAME, get_checkpoint(Path(folder)), run_id, kept.model_id)
            client.log_model_artifacts(kept.model_id, str(Path(folder) / NAME))
        if kept.model_id not in _outputs(run):
            try:
                client.log_outputs(run_id, [LoggedModelOutput(kept.model_id, step=0)])
            except (
                MlflowException
            ):  # a server refuses the second call, the client's own where the first answer was lost
                if kept.model_id not in _outputs(client.get_run(run_id)):
                    raise
        client.finalize_logged_model(kept.model_id, "READY")
    for other in models:
        if other.model_id != kept.model_id:
            client.delete_logged_model(other.model_id)
    return str(kept.model_id)


def _outputs(run: Run) -> list[str]:
    """The IDs of the models that a run has made."""
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []


def _models(client: MlflowClient, experiment_id: str, definition: str) -> "list[LoggedModel]":
    """Those of a definition that are not deleted, oldest first."""
    query = f"tags.`{schema.DEFINITION}` = '{definition}'"
    found = client.search_logged_models([experiment_id], query, max_results=_MOST)
    return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))


def _save(to: Path, checkpoint: Path, run_id: str, model_id: str) -> None:
    """The folder of a model, as `mlflow.pyfunc.save_model` lays it out.

    That function takes another second, to look at all that is installed, and keeps the paths of this machine.
    """
    weights = Path("artifacts") / schema.CHECKPOINT
    shutil.copytree(checkpoint, to / weights)
    shutil.copy(Path(__file__).with_name(_CODE), to)
    trainer = Path(tinylm_core.__file__).parent
    shutil.copytree(trainer, to / "code" / trainer.name, ignore=shutil.ignore_patterns("__pycache__"))
    # A build of torch for CPU has a name that an index of packages may not know.
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS]
    (to / "requirements.txt").write_text("\n".join([*pins, ""]))
    python_env = {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
    (to / "python_env.yaml").write_text(json.dumps(python_env, indent=1))  # which is YAML

    text = Schema([ColSpec("string")])
    params = ParamSchema([ParamSpec(name, kind, value) for name, (kind, value) in _PARAMS.items()])
    model = Model(run_id=run_id, model_id=model_id, signature=ModelSignature(text, text, params))
    add_to_model(  # type: ignore[no-untyped-call]
        model,
        loader_module="mlflow.pyfunc.loaders.code_model",
        code="code",
        python_env="python_env.yaml",
        model_code_path=_CODE,
        artifacts={schema.CHECKPOINT: {"path": weights.as_posix(), "uri": f"runs:/{run_id}/{schema.CHECKPOINT}"}},
    )
    model.save(str(to / "MLmodel"))
