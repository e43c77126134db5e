"""Goal 6: ten thousand runs through the real driver, outbox and MLflow store on SQLite; only the training is none.

    python -m benchmarks.many [--runs 10000]

Each run has one optimizer step, two evaluations and its files. How many runs have arrived in MLflow is read from the
database by another thread, each half second; the time a run is taken from that, so a queue that grows can't hide.
"""

import argparse
import contextlib
import hashlib
import io
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import psutil

from benchmarks.measure import Goal, timed
from sweeps import Choice, Range, Sweep
from sweeps.driver.execute import NO_LIMITS
from sweeps.plan.plan import make_plan
from sweeps.search.ask_tell import TrialSearch
from sweeps.session import run_session
from sweeps.spec.catalog import Experiment, load_experiment
from sweeps.store import open_store
from sweeps.terminal.signals import Signals
from sweeps.workers.protocol import Ended, Evaluated, Job, Message, Steps
from tinylm_core import RunConfig
from tinylm_core.machine import conditions, this_machine
from tinylm_core.records import EvalRecord, Metrics, StepRecord

BASE = (
    "RunConfig(tokenizer='char', max_seq_len=8, d_model=8, num_layers=1, num_heads=1, batch_size=4, train_tokens=32, "
    "num_evals=1, eval_tokens=64, precision='fp32')"
)
EXPERIMENT = '''"""How many runs does a driver carry?"""
from sweeps import Range, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(base={base}, space={{"learning_rate": Range(1e-4, 1e-1, log=True, points={runs})}})
'''
NUM_SLOTS = 8
TPE_TRIALS = 1000
ASKS = 5


class NoTraining:
    """Workers whose runs are over as soon as they begin, with records of the right kind and made-up numbers."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._busy = 0

    def has_room(self) -> bool:
        return self._busy < NUM_SLOTS

    def next_device(self) -> str:
        return "cpu"

    def conditions(self, device: str) -> dict[str, str]:
        return conditions(device, 1)

    def waits_for(self) -> str | None:
        return None

    def is_busy(self) -> bool:
        return self._busy > 0

    def submit(self, job: Job) -> None:
        self._busy += 1
        rate = RunConfig.model_validate_json(job.config).learning_rate
        now = time.time_ns() // 1_000_000
        loss = 2 + abs(rate - 1e-2) * 10
        steps = [StepRecord(1, 32, loss, rate, 1.0, 1e4, False, now)]
        evals = [EvalRecord(step, 32 * step, loss, 0.1, loss - 0.1, 0.1, now) for step in (0, 1)]
        digest = hashlib.sha256(job.key.encode()).hexdigest()
        self._messages += [
            Evaluated(job.key, evals[0]), Steps(job.key, steps), Evaluated(job.key, evals[1]),
            Ended(job.key, Metrics("COMPLETE", 1000, 100, steps, evals, digest)),
        ]  # fmt: skip

    def receive(self, timeout: float) -> list[Message]:  # noqa: ARG002
        messages, self._messages = self._messages, []
        self._busy = 0
        return messages

    def pause(self) -> None: ...

    def kill(self) -> None: ...


@contextlib.contextmanager
def arrivals(database: Path) -> Iterator[list[tuple[float, int]]]:
    """Seconds and the number of runs that MLflow has as finished, while the block runs."""
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            while not over.wait(0.5):
                (count,) = connection.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()
                seen.append((time.monotonic(), count))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def ms_a_run(seen: list[tuple[float, int]], first: int, last: int) -> float:
    """Milliseconds a run, from the arrival of run `first` to that of run `last`."""
    begin = next(moment for moment, count in seen if count >= first)
    end, count = next(((moment, count) for moment, count in seen if count >= last), seen[-1])
    return 1000 * (end - begin) / max(1, count - first)


def ask_ms(trials: int) -> float:
    """Milliseconds that TPE takes to propose a trial when it knows so many."""
    search = TrialSearch(
        Sweep(
            base=RunConfig(),
            space={"learning_rate": Range(1e-4, 1e-1, log=True), "weight_decay": Range(0.0, 0.3),
                   "warmup_ratio": Range(0.0, 0.2), "gradient_accumulation_steps": Choice(1, 2, 4)},
            search="tpe", num_trials=trials + ASKS,
        )
    )  # fmt: skip
    taken = []
    for number in range(trials + ASKS):
        began = time.perf_counter()
        setting = search.ask()
        taken.append(time.perf_counter() - began)
        rate, decay = setting["learning_rate"], setting["weight_decay"]
        assert isinstance(rate, float) and isinstance(decay, float)  # noqa: PT018
        search.tell(number, abs(rate - 1e-2) + decay)
    return 1000 * median(taken[-ASKS:])


def main(runs: int = 10_000) -> list[Goal]:
    thousand = runs // 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "many.py"
        file.write_text(EXPERIMENT.format(base=BASE, runs=runs))
        experiment: Experiment = load_experiment(str(file))
        plan = make_plan(experiment, this_machine("cpu"))
        store = open_store(folder / "store", create=True)
        began = time.monotonic()
        quietly = contextlib.redirect_stdout(io.StringIO())
        with arrivals(folder / "store" / "mlflow.db") as seen, quietly, Signals(ends_after=True) as signals:
            code = run_session(
                plan, NoTraining(), store, limits=NO_LIMITS, signals=signals, output="people", resume_hint=""
            )
        whole = time.monotonic() - began
        memory = psutil.Process().memory_info().rss / 1e6
        if code:
            raise RuntimeError(f"the sweep ended with {code}")
        first, last = ms_a_run(seen, 1, thousand), ms_a_run(seen, runs - thousand, runs)
        print(f"{runs:,} runs in {whole:.0f} s, the report included; {first:.1f} ms a run at first, {last:.1f} at last")
        again = timed("-m", "sweeps.run", file, "--store", folder / "store", cwd=folder)
        report = timed("-m", "sweeps.report", "many", "--store", folder / "store", cwd=folder)
    return [
        Goal("6 time a run, the last tenth", last, 40, "ms", at_least=False),
        Goal("6 time a run, last tenth against first", last / first, 1.25, "x", at_least=False),
        Goal("6 the driver's memory", memory, 1000, "MB", at_least=False),
        Goal("6 a start with everything finished", again, 20, "s", at_least=False),
        Goal("6 a report", report, 30, "s", at_least=False),
        Goal(f"6 a TPE ask at {TPE_TRIALS:,} trials", ask_ms(TPE_TRIALS), 20, "ms", at_least=False),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    for goal in main(parser.parse_args().runs):
        print(goal)
