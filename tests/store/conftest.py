"""A store to write to, its writer, MLflow's own client on it, a sweep there and a run of that."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from stores import SWEEP_NAMES, new_run

from sweeps.store import Store, open_store
from sweeps.store.write import Writer


@pytest.fixture
def local(empty_store: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(empty_store, tmp_path / "store"))


@pytest.fixture
def store(any_store: Store) -> Store:
    """In a folder, and behind a server."""
    return any_store


@pytest.fixture
def writer(store: Store) -> Writer:
    return store.writer()


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(store.tracking_uri)


@pytest.fixture
def experiment(writer: Writer) -> str:
    return writer.experiment(next(SWEEP_NAMES), "What happens?")


@pytest.fixture
def run_id(writer: Writer, experiment: str) -> str:
    return new_run(writer, experiment)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """What stands for a folder of weights, where nobody loads them."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return folder
