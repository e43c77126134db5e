"""Runs and whole sweeps in a store, written without training: what reads and removes them needs no more."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from launcher import Launcher
from mlflow import MlflowClient
from postgres import Postgres, ServerOnPostgres
from servers import Server

from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.spec.config_type import to_params
from sweeps.store import Store, open_store, schema
from sweeps.store.write import Writer
from tinylm_core.config import NUMERICS_VERSION, RunConfig, identity, resolve
from tinylm_core.machine import Machine, this_machine
from tinylm_core.records import EvalRecord, StepRecord

START = 1_750_000_000_000  # milliseconds
FINGERPRINT = "f" * 64
SWEEP_NAMES = (f"sweep{number}" for number in count())  # of which a server that tests share has none yet
MACHINE = Machine("cpu", "AVX512", False, False)
NUM_STEPS = 6
EXPERIMENT = '''"""Does it?"""
from sweeps import Choice, Range, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(data={data!r}, tokenizer="char", max_seq_len=8, d_model=16, num_layers=1, num_heads=2, batch_size=4,
                   train_tokens=192, num_evals=3, eval_tokens=64, precision="fp64"),
    space={space},
    seeds={seeds},
)
'''
SPACE = '{"learning_rate": Choice(1e-3, 3e-3), "dropout": Choice(0.0, 0.1)}'

Outcome = tuple[schema.State, float | None]  # a run's state and its objective


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
    """Begin a run in an MLflow experiment; returns its ID."""
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
    """Records whose numbers have many digits."""
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
    """Steps and values as MLflow's own client reads them."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


def write_experiment(folder: Path, data: Path, name: str = "question", space: str = SPACE, seeds: int = 2) -> Path:
    """An experiment file whose runs take a moment: 6 steps, 3 evaluations."""
    path = folder / f"{name}.py"
    path.write_text(EXPERIMENT.format(data=str(data), space=space, seeds=seeds))
    return path


def write_sweep(
    store: Store, file: Path, outcomes: Mapping[tuple[int, int], Outcome], *, start_ms: int = START
) -> dict[tuple[int, int], str]:
    """Put a grid with these runs, by trial and seed, into a store; returns their IDs. Each lasts a minute."""
    plan = make_plan(load_experiment(str(file)), this_machine("cpu"))
    name, definition = plan.experiment.name, plan.sweep.definition
    writer = store.writer()
    experiment = writer.experiment(name, plan.experiment.question)
    tags = {schema.SWEEP: name, schema.DEFINITION: definition}
    summary = writer.create_run(
        experiment, creation_id=f"{name}-{definition}", name=f"summary {definition}", params={},
        tags=tags | {schema.ROLE: "summary"}, start_time_ms=start_ms,
    )  # fmt: skip
    trials = plan.known_trials()
    put_file(writer, summary, schema.PLAN, json.dumps(plan.record(trials).to_json()))
    writer.end_run(summary, state="COMPLETE", end_time_ms=start_ms + 1)
    ids = {}
    for number, ((trial, seed), (state, objective)) in enumerate(outcomes.items()):
        run = next(run for run in trials[trial].runs if run.seed == seed)
        begin = start_ms + 1000 * number
        ids[trial, seed] = run_id = writer.create_run(
            experiment, creation_id=f"{start_ms}-{number}", name=run.name, params=to_params(run.config),
            tags=tags | {
                schema.ROLE: "run", schema.SETTING: run.label, schema.TRIAL: str(trial), schema.IDENTITY: run.identity,
                schema.FINGERPRINT: run.fingerprint, schema.NUMERICS: str(NUMERICS_VERSION),
                schema.SUMMARY_RUN: summary,
            }, start_time_ms=begin,
        )  # fmt: skip
        put_file(writer, run_id, "config.json", run.config.model_dump_json())
        evals = evals_of(objective)
        writer.log_records(
            run_id,
            steps=[
                StepRecord(step, 32 * step, 3.0, 1e-3, 1.0, 1e4, False, START + step)
                for step in range(1, evals[-1].step + 1)
            ],
            evals=evals,
        )
        if state != "RUNNING":
            metrics = {} if objective is None else {schema.OBJECTIVE: objective}
            writer.end_run(run_id, state=state, end_time_ms=begin + 60_000, metrics=metrics, is_repeat=False)
    return ids


def evals_of(objective: float | None) -> list[EvalRecord]:
    """Evaluations that go down to an objective, or half-way there where there is none."""
    last = NUM_STEPS if objective is not None else NUM_STEPS // 2
    return [
        EvalRecord(step, 32 * step, (objective or 2.0) + 1 - step / NUM_STEPS, 0.1, 2.0, 0.1, START + step)
        for step in range(0, last + 1, 2)
    ]


def put_file(writer: Writer, run_id: str, name: str, text: str) -> None:
    """Log one file with a text."""
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text)
        writer.log_artifacts(run_id, Path(folder))


@pytest.fixture(scope="session")
def server(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that need a server which nothing happens to."""
    with Server(launcher, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def server_on_postgres(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same on a PostgreSQL."""
    with Postgres(tmp_path_factory.mktemp("postgres") / "database") as database:
        database.create_database()
        with ServerOnPostgres(launcher, tmp_path_factory.mktemp("server"), database) as server:
            yield server


ON_POSTGRES = pytest.param("server_on_postgres", marks=[pytest.mark.slow, pytest.mark.faults])


@pytest.fixture(params=["local", pytest.param("server", marks=pytest.mark.slow), ON_POSTGRES])
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> Store:
    """A store to write to, in a folder and behind a server that others use too."""
    monkeypatch.chdir(tmp_path)
    if request.param == "local":
        return open_store(shutil.copytree(empty_store, tmp_path / "store"))
    return open_store(request.getfixturevalue(request.param).uri, create=True)


def listing(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
