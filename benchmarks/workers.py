"""Goals 3, 4 and 7: what tracking costs, what a second worker gains, and what a worker weighs, at the default size.

    python -m benchmarks.workers [--rounds 3]

A sweep's time is counted from the start of its first run to the end of its last, as the driver stamped them in MLflow;
how long a command takes to begin is goal 5. The bare side trains the same runs in as many workers, whose records are
received and thrown away. Memory is the PSS of each worker, read every half second of a sweep.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil

from benchmarks.measure import Goal, command_environment, in_turn, text_file, timed
from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.spec.config_type import dumped
from sweeps.workers.local import LocalWorkers
from sweeps.workers.protocol import Job
from tinylm_core.machine import this_machine

NUM_RUNS = 8
STEPS = 160
EXPERIMENT = '''"""What does the harness cost?"""
from sweeps import Choice, Sweep
from tinylm_core import RunConfig

BASE = RunConfig(data={data!r}, train_tokens=8 * 128 * {steps}, num_evals=2, eval_tokens=8192)
SWEEP = Sweep(base=BASE, space={{"learning_rate": Choice(*(1e-4 * 2**k for k in range({runs})))}})
'''


def span(store: Path) -> float:
    """Seconds from the start of a sweep's first run to the end of its last."""
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        began, ended = database.execute(
            "SELECT min(start_time), max(end_time) FROM runs "
            "WHERE run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'sweep.role' AND value = 'run')"
        ).fetchone()
    return float(ended - began) / 1000


def bare(file: Path, folder: Path, num_workers: int) -> float:
    """Seconds that the same runs take in as many workers with nobody who keeps what they say."""
    plan = make_plan(load_experiment(str(file)), this_machine("cpu"))
    runs = [run for trial in plan.known_trials() for run in trial.runs]
    workers = LocalWorkers(["cpu"] * num_workers)
    began = time.monotonic()
    while runs or workers.is_busy():
        while runs and workers.has_room():
            run = runs.pop(0)
            workers.submit(Job(run.identity, json.dumps(dumped(run.config)), folder / run.identity[:16], "cpu", 1))
        workers.receive(0.2)
    return time.monotonic() - began


def heaviest_worker(file: Path, folder: Path) -> float:
    """The largest PSS of any worker of a sweep, in MB."""
    command = [sys.executable, "-m", "sweeps.run", str(file), "--store", str(folder / "weighed")]
    most = 0.0
    with subprocess.Popen(command, env=command_environment(), cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for server in psutil.Process(process.pid).children():
                    for worker in server.children():
                        most = max(most, worker.memory_full_info().pss / 1e6)
            time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}")
    return most


def main(rounds: int = 3) -> list[Goal]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "cost.py"
        file.write_text(EXPERIMENT.format(data=str(text_file() or "python-docs"), steps=STEPS, runs=NUM_RUNS))

        def tracked(num_workers: int) -> Callable[[], float]:
            def side() -> float:
                shutil.rmtree(folder / "store", ignore_errors=True)
                arguments = (file, "--store", folder / "store", "--workers", str(num_workers))
                timed("-m", "sweeps.run", *arguments, cwd=folder)
                return span(folder / "store")

            return side

        def untracked() -> float:
            shutil.rmtree(folder / "bare", ignore_errors=True)
            return bare(file, folder / "bare", 2)

        megabytes = heaviest_worker(file, folder)  # and the tokens are in the cache then
        seconds = in_turn({"two workers": tracked(2), "bare": untracked, "one worker": tracked(1)}, rounds)
    return [
        Goal("3 tracking", 100 * (seconds["two workers"] / seconds["bare"] - 1), 2, "%", at_least=False),
        Goal("4 two workers against one", seconds["one worker"] / seconds["two workers"], 1.7, "x"),
        Goal("7 a worker's own memory", megabytes, 700, "MB", at_least=False),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for goal in main(parser.parse_args().rounds):
        print(goal)
