"""Laws 1, 2, 8, 9, 10 at once: a sweep killed at random moments ends as one that was never stopped.

The driver, a worker, or all of them are killed from the first moment to the last, and the same command started again
until it is done. `make torture N=300` kills so often; the numbers of kills below suit a test suite.
"""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from launcher import Command, Launcher
from small_sweeps import (
    GRID,
    NUM_TRIALS,
    STEPS,
    TOKENS,
    TPE,
    Kept,
    assert_none_outlives,
    assert_whole,
    write_experiment,
)

LONGER = 4  # a grid has 4 runs of so many times the steps; a search, whose first 10 trials are random, 14 runs
ARGUMENTS = ("--workers", "2", "--checkpoint-seconds", "0.2")
KILLS = int(os.environ.get("TORTURE_KILLS", "8"))
# A run goes on twice after its worker died, and is then FAILED: so many alone in one start harm nobody.
WORKER_KILLS_PER_START = 2


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("search", "kills", "seed"),
    [
        # In halves, which two cores do side by side.
        pytest.param("grid", KILLS - KILLS // 2, 0, id="grid-a"),
        pytest.param("grid", KILLS // 2, 1, id="grid-b"),
        pytest.param("tpe", max(4, KILLS // 3), 2, id="tpe"),
    ],
)
def test_a_sweep_killed_anywhere_ends_as_one_never_stopped(
    launcher: Launcher, text_file: Path, tmp_path: Path, search: str, kills: int, seed: int
) -> None:
    grid = search == "grid"
    text = GRID if grid else TPE.replace("concurrency=2", "concurrency=4")
    longer, num_runs = (LONGER, 4) if grid else (1, NUM_TRIALS)
    file = write_experiment(tmp_path, text, text_file, tokens=TOKENS * longer, **({} if grid else {"trials": num_runs}))
    whole = Kept(tmp_path / "whole")
    started = time.monotonic()
    assert launcher.run("sweeps.run", file, "--store", whole.store, *ARGUMENTS).code == 0
    duration = time.monotonic() - started
    assert_whole(whole, num_runs, STEPS * longer)

    moments, killed, sweeps = random.Random(seed), 0, 0
    while killed < kills:
        store = tmp_path / f"killed-{sweeps}"
        began = time.monotonic()
        kills_here = torture(launcher, file, store, moments, duration, kills - killed)
        if not kills_here:  # quicker than the first, which had less of the machine: else most would end before a kill
            duration = min(duration, time.monotonic() - began)
        killed += kills_here
        kept = Kept(store)
        assert_whole(kept, num_runs, STEPS * longer)
        assert kept.science() == whole.science()
        assert kept.trials() == whole.trials()
        assert file_lists(kept) == file_lists(whole)
        sweeps += 1
    print(f"{killed} kills in {sweeps} sweeps: every one the same bits")


def torture(launcher: Launcher, file: Path, store: Path, moments: random.Random, duration: float, most: int) -> int:
    """Run a sweep to its end, killing it on the way; returns how often."""
    killed = 0
    while True:
        command = launcher.start("sweeps.run", file, "--store", store, *ARGUMENTS)
        for _ in range(WORKER_KILLS_PER_START):
            if killed >= most:
                break
            wait_for(command, moments.uniform(0, duration))
            if command.has_ended:
                break
            killed += 1
            if moments.random() < 0.7 or not kill_a_worker(command, moments):
                kill_driver(command, with_workers=moments.random() < 0.3)
                break
        code = command.result().code
        if code == 0:
            return killed
        assert code == -signal.SIGKILL, command.result()


def wait_for(command: Command, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not command.has_ended:
        time.sleep(0.01)


def kill_a_worker(command: Command, moments: random.Random) -> bool:
    """SIGKILL one training process; False where none runs."""
    workers = command.workers()
    if not workers:
        return False
    try:
        moments.choice(workers).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def kill_driver(command: Command, *, with_workers: bool) -> None:
    below = command.below()
    if with_workers:
        command.signal_all(signal.SIGKILL)
    command.signal(signal.SIGKILL)
    assert_none_outlives(below)


def file_lists(kept: Kept) -> dict[str, set[str]]:
    """The artifacts of each run, by identity; code.diff is there where the checkout was dirty when a run began."""
    return {
        run.data.tags["run.identity"]: (kept.files(run) | kept.files(run, "checkpoint")) - {"code.diff"}
        for run in kept.runs
    }
