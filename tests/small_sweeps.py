"""Sweeps small enough for a test, and the content of a store as MLflow's own client reads it."""

import json
import shlex
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from launcher import Command, Launcher, Result, wait_until
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from sweeps.store import schema

HEAD = '"""Does it?"""\nfrom sweeps import Choice, Range, Sweep\nfrom tinylm_core import RunConfig\n'

BASE = (
    "RunConfig(data={data!r}, tokenizer='char', max_seq_len=8, d_model=16, num_layers=2, num_heads=2, batch_size=4, "
    "train_tokens={tokens}, num_evals=3, eval_tokens=256, precision='fp64')"
)

GRID = "SWEEP = Sweep(base={base}, space={{'learning_rate': Choice(1e-3, 3e-3)}}, seeds=2)"

TPE = (
    "SWEEP = Sweep(base={base}, space={{'learning_rate': Range(1e-4, 1e-1, log=True), 'dropout': Range(0.0, 0.3)}}, "
    "search='tpe', num_trials={trials}, concurrency=2)"
)

STEPS = 96

TOKENS = 32 * STEPS

NUM_RUNS = 4

NUM_TRIALS = 14  # of the search that learns

PAUSED_WITHIN = 8  # five seconds, and three that a busy machine takes


def write_experiment(folder: Path, text: str, data: Path, *, tokens: int = TOKENS, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "question.py"
    path.write_text(HEAD + text.format(base=BASE.format(data=str(data), tokens=tokens), **fields))
    return path


class Kept:
    """The content of a store."""

    def __init__(self, store: Path, name: str = "question") -> None:
        self.store, self.name = store, name
        self.client = MlflowClient(f"sqlite:///{store}/mlflow.db")

    @property
    def all_runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.name)
        return list(self.client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []

    def of(self, role: str) -> list[Run]:
        return [run for run in self.all_runs if run.data.tags["sweep.role"] == role]

    @property
    def runs(self) -> list[Run]:
        return sorted(
            self.of("run"), key=lambda run: (int(run.data.tags["trial.number"]), int(run.data.params["seed"]))
        )

    @property
    def summary(self) -> Run:
        (summary,) = self.of("summary")
        return summary

    def history(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]

    def files(self, run: Run, folder: str | None = None) -> set[str]:
        return {info.path for info in self.client.list_artifacts(run.info.run_id, folder)}

    def artifact(self, run: Run, path: str) -> Path:
        return Path(self.client.download_artifacts(run.info.run_id, path))

    @property
    def models(self) -> list[LoggedModel]:
        experiment = self.client.get_experiment_by_name(self.name)
        return list(self.client.search_logged_models([experiment.experiment_id]))

    @property
    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(self.artifact(self.summary, "plan.json").read_text())
        return plan

    def science(self) -> dict[str, Any]:
        """All that must be the same to the last bit, by identity: what a clock says is left out."""
        numbers = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens", *schema.EVAL_METRICS)
        return {
            run.data.tags["run.identity"]: {
                "name": run.info.run_name,
                "weights": run.data.tags.get("weights.sha256"),
                "params": run.data.params,
                "final": {
                    k: v
                    for k, v in run.data.metrics.items()
                    if not k.endswith("tokens_per_second") and not k.startswith("system/")
                },
                **{metric: self.history(run, metric) for metric in numbers},
            }
            for run in self.runs
            if run.info.status == "FINISHED"
        }

    def trials(self) -> list[dict[str, Any]]:
        trials: list[dict[str, Any]] = self.plan["trials"]
        return trials

    def run_folders(self) -> list[Path]:
        return list((self.store / "work" / self.name / "runs").glob("*"))


def assert_whole(kept: Kept, num_runs: int = NUM_RUNS, num_steps: int = STEPS) -> None:
    """Laws 2 and 8 for a sweep that is done, however it came to be."""
    runs = kept.runs
    assert Counter(run.info.status for run in kept.all_runs if run.data.tags["sweep.role"] != "reproduction") == {
        "FINISHED": num_runs + 1
    }
    assert len({run.data.tags["run.identity"] for run in runs}) == len(runs)
    for run in runs:
        assert run.data.tags["trial.state"] == "COMPLETE"
        for metric in schema.STEP_METRICS:
            assert [step for step, _ in kept.history(run, metric)] == list(range(1, num_steps + 1)), metric
        for metric in schema.EVAL_METRICS:
            assert [step for step, _ in kept.history(run, metric)] == [num_steps * k // 3 for k in range(4)], metric
        for metric in schema.SUMMARY_METRICS:
            assert len(kept.history(run, metric)) == 1, metric
    models = kept.models
    assert {model.tags["sweep.definition"]: model.status for model in models} == {
        run.data.tags["sweep.definition"]: "READY" for run in kept.of("summary")
    }
    assert len(models) == len(kept.of("summary"))
    assert kept.run_folders() == []
    assert (kept.store / "work" / kept.name / "journal.jsonl").read_bytes() == b""


def run_sweep(launcher: Launcher, file: Path, store: Path, *more: object) -> Result:
    return launcher.run("sweeps.run", file, "--store", store, "--workers", 2, *more)


def wait_for_steps(store: Path, command: Command, least: int) -> None:
    """Wait until so many steps are in the store, or the command has ended."""

    def enough() -> bool:
        try:
            with closing(sqlite3.connect(f"file:{store}/mlflow.db?mode=ro", uri=True)) as database:
                (found,) = database.execute("SELECT count(*) FROM metrics WHERE key = 'train/loss'").fetchone()
        except sqlite3.OperationalError:
            return False
        return bool(found >= least)

    wait_until(lambda: enough() or command.has_ended, 90)


def assert_none_outlives(below: list[psutil.Process]) -> None:
    """No orphan: all that a driver started dies with it, also what has only begun or waits for its disk."""
    try:
        wait_until(lambda: not any(map(is_alive, below)))
    except TimeoutError as error:
        raise AssertionError(f"outlived its driver: {[*map(words, filter(is_alive, below))]}") from error


def words(process: psutil.Process) -> str:
    """What a process is, for somebody who did not see it."""
    try:
        with process.oneshot():
            return f"{process.pid} {process.status()} below {process.ppid()}: {shlex.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid} has ended meanwhile"


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
