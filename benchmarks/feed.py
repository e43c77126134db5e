"""How many workers one driver feeds: the rates at which its outbox gets runs and steps into MLflow, and a sum on paper.

    python -m benchmarks.feed [--rounds 3]

On SQLite, and over HTTP to an `mlflow server` on this machine that keeps SQLite itself. Steps go in the batches of 20
in which runs tell them; runs as in `benchmarks/many.py`, files included.
"""

import argparse
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.many import BASE, EXPERIMENT, NoTraining
from benchmarks.measure import command_environment, in_turn
from sweeps.driver.execute import execute
from sweeps.outbox.disk import DiskSpace
from sweeps.outbox.journal import Journal
from sweeps.outbox.operations import Dataset, Records, Start
from sweeps.outbox.outbox import Outbox
from sweeps.outbox.sender import Sender
from sweeps.outbox.work import locked_work
from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.spec.config_type import to_params
from sweeps.store import open_store
from sweeps.store.read import Store
from sweeps.terminal.live_view import view_for
from tinylm_core import RunConfig
from tinylm_core.machine import this_machine
from tinylm_core.records import StepRecord

NUM_RUNS = 100
NUM_BATCHES = 100
BATCH = 20
STEPS_PER_SECOND = 12.0  # of one worker at the default size (benchmarks/step.py)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of an `mlflow server` on a folder of its own, of two processes."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = command_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not answers(address):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def ms_a_step(store: Store, folder: Path) -> float:
    """Milliseconds that a step takes from the outbox into MLflow."""
    journal = Journal(folder / f"{time.time_ns()}.jsonl", store.layout.root)
    outbox = Outbox(journal, Sender(store, "feed"), DiskSpace(folder, wait=60))
    run = f"feed-{time.time_ns()}"
    data = Dataset(name="none", digest="0", source="none")
    outbox.put(Start(run=run, name="feed", tags={}, params=to_params(RunConfig()), start_time_ms=1, dataset=data))
    outbox.drain(60)
    now = time.time_ns() // 1_000_000
    records = [StepRecord(step, step, 3.0, 1e-3, 1.0, 1e4, False, now) for step in range(BATCH * NUM_BATCHES)]
    began = time.monotonic()
    for first in range(0, len(records), BATCH):
        outbox.put(Records(run=run, steps=tuple(records[first : first + BATCH])))
    if not outbox.close(300):
        raise RuntimeError(outbox.trouble)
    return 1000 * (time.monotonic() - began) / len(records)


def ms_a_run(where: str | Path, folder: Path) -> float:
    """Milliseconds that a run without training takes through the real driver, less what a sweep of two takes."""

    def seconds(runs: int) -> float:
        file = folder / f"feed_{time.time_ns()}.py"
        file.write_text(EXPERIMENT.format(base=BASE, runs=runs))
        plan = make_plan(load_experiment(str(file)), this_machine("cpu"))
        store, workers = open_store(where, create=True), NoTraining()
        with contextlib.redirect_stdout(io.StringIO()), locked_work(store, plan.experiment.name) as outbox:
            began = time.monotonic()
            view = partial(view_for, plan, outbox=outbox, waits_for=workers.waits_for)
            execute(plan, workers, store, outbox, view, lambda: False)  # until all has arrived
            return time.monotonic() - began

    return 1000 * (seconds(NUM_RUNS) - seconds(2)) / (NUM_RUNS - 2)


def main(rounds: int = 3) -> None:
    base = RunConfig()
    run_seconds = base.num_steps / STEPS_PER_SECOND
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        with server(folder / "server") as address:
            places: dict[str, str | Path] = {"SQLite": folder / "store", "HTTP": address}
            sides: dict[str, Callable[[], float]] = {}
            for place, where in places.items():
                store = open_store(where, create=True)
                sides[f"{place}, ms a step"] = lambda store=store: ms_a_step(store, folder)  # type: ignore[misc]
                sides[f"{place}, ms a run"] = lambda where=where: ms_a_run(where, folder)  # type: ignore[misc]
            measured = in_turn(sides, rounds)
    print(
        f"\nA worker at the default size makes {STEPS_PER_SECOND:.0f} steps/s, a run of {base.num_steps:,} steps each "
        f"{run_seconds:.0f} s:"
    )
    for place in places:
        step, run = measured[f"{place}, ms a step"], measured[f"{place}, ms a run"]
        busy = STEPS_PER_SECOND * step + run / run_seconds
        print(f"{place}: {step:.2f} ms a step, {run:.0f} ms a run: one driver feeds {1000 / busy:.0f} workers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
