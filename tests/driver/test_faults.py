"""A sweep while what it stands on breaks: server, network, database, disk, checkpoints, workers.

Whatever happened, everything is in MLflow once at the end and the numbers are those of a sweep left in peace. Nothing
is mocked: real servers are killed, real disks are full. Read with MLflow's own client.
"""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from launcher import Command, Launcher, Result, wait_until
from mlflow.entities import Run
from servers import ROOT, Lock, Proxy, Server, SmallDisk, folder_beside
from small_sweeps import (
    GRID,
    NUM_RUNS,
    PAUSED_WITHIN,
    STEPS,
    TOKENS,
    Kept,
    assert_none_outlives,
    assert_whole,
    is_alive,
    wait_for_steps,
    write_experiment,
)

LOCK_SECONDS = float(os.environ.get("FAULT_LOCK_SECONDS", "25"))
LONGER = 5  # so that there is a middle to break something in
COME_BACK_LATER = 75
PAUSED = 130

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"), GRID, text_file, tokens=TOKENS * LONGER)


@pytest.fixture(scope="module")
def whole(launcher: Launcher, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A sweep that nothing disturbed."""
    kept = Kept(tmp_path_factory.mktemp("whole") / "store")
    assert launcher.run("sweeps.run", file, "--store", kept.store, "--workers", 2).code == 0
    assert_whole(kept, num_steps=STEPS * LONGER)
    return kept


class Faulty(Kept):
    """A sweep that is to be disturbed, in a store of its own: a folder, or what a server keeps."""

    def __init__(self, launcher: Launcher, file: Path, database: Path, uri: str | None = None) -> None:
        super().__init__(database)
        self.database = database
        self.store = launcher_folder = database if uri is None else folder_beside(database.parent, uri)
        self._arguments = (file, "--store", uri or launcher_folder, "--workers", 2)
        self._launcher, self._folder = launcher, database.parent

    def start(self, *more: object) -> Command:
        return self._launcher.start("sweeps.run", *self._arguments, *more, cwd=self._folder)

    def start_and_wait(self, *more: object, runs: int = 1, steps: int = 20) -> Command:
        """Start, and wait for the middle of training: so many steps are sent, so many runs under way."""
        command = self.start(*more)
        wait_for_steps(self.database, command, steps)
        wait_until(lambda: command.has_ended or len(self.run_folders()) >= runs)
        assert not command.has_ended, command.result()
        return command

    def run(self, *more: object) -> Result:
        return self.start(*more).result(180)

    def waiting(self) -> bytes:
        """The records that are on their way to the tracker."""
        return (self.store / "work" / "question" / "journal.jsonl").read_bytes()

    def num_bytes(self) -> int:
        """How much of the sweep is on disk and not yet in MLflow."""
        return sum(size(path) for path in (self.store / "work").rglob("*"))


def size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def assert_undisturbed(kept: Kept, whole: Kept) -> None:
    """All is there once, no MLflow run has a double, and the numbers are the same to the last bit."""
    assert_whole(kept, num_steps=STEPS * LONGER)
    assert len({run.data.tags["sweep.creation_id"] for run in kept.runs}) == len(kept.runs) == NUM_RUNS
    assert kept.science() == whole.science()


def assert_ends_within(command: Command, seconds: float, code: int) -> Result:
    started = time.monotonic()
    result = command.result()
    assert (result.code, time.monotonic() - started < seconds) == (code, True), (time.monotonic() - started, result)
    return result


def assert_comes_back_later(result: Result) -> None:
    assert result.code == COME_BACK_LATER, result
    assert "othing is lost" in result.err
    assert "same command" in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def local(launcher: Launcher, file: Path, empty_store: Path, tmp_path: Path) -> Faulty:
    return Faulty(launcher, file, Path(shutil.copytree(empty_store, tmp_path / "store")))


# --- A server that goes away


@pytest.fixture
def server(launcher: Launcher, empty_store: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(launcher, Path(shutil.copytree(empty_store, tmp_path / "served"))) as server:
        yield server


@pytest.fixture
def served(launcher: Launcher, file: Path, server: Server) -> Faulty:
    return Faulty(launcher, file, server.folder, server.uri)


def test_a_server_that_goes_away_and_comes_back_gets_every_step_once(
    server: Server, served: Faulty, whole: Kept
) -> None:
    command = served.start_and_wait(runs=2)
    server.kill()
    num_bytes = served.num_bytes()
    wait_until(lambda: served.num_bytes() > num_bytes + 1000)  # runs go on, records wait on disk
    time.sleep(2)  # the time in which that is noticed
    under_way = set(served.run_folders())
    assert len(under_way) < NUM_RUNS
    # Until all of them have ended, and as long again as the next would take to begin.
    wait_until(lambda: command.has_ended or not command.workers())
    time.sleep(2)
    assert not command.has_ended, command.result()
    assert set(served.run_folders()) == under_way  # none begins, and none that isn't sent is forgotten
    server.start()
    result = command.result(180)
    assert result.code == 0, result
    assert_undisturbed(served, whole)


def test_a_server_that_stays_away_gets_the_rest_from_the_same_command(
    server: Server, served: Faulty, whole: Kept
) -> None:
    command = served.start_and_wait("--wait", 3, runs=2)
    server.kill()
    assert_comes_back_later(command.result())
    assert_comes_back_later(served.run("--wait", 3))
    server.start()
    result = served.run("--wait", 3)
    assert result.code == 0, result
    assert_undisturbed(served, whole)


def test_what_waits_for_a_server_is_not_touched_by_a_sweep_of_the_same_name_in_another_store(
    launcher: Launcher, file: Path, server: Server, served: Faulty, whole: Kept
) -> None:
    command = served.start_and_wait("--wait", 3, runs=2)
    server.kill()
    assert_comes_back_later(command.result())
    waiting = served.waiting()
    assert waiting
    local = launcher.run(
        "sweeps.run", file, "--workers", 2, cwd=server.folder.parent, env={"MLFLOW_TRACKING_URI": None}
    )
    assert (local.code, local.err) == (0, ""), local
    assert served.waiting() == waiting
    removed = launcher.run(
        "sweeps.rm", "question", "--yes", cwd=server.folder.parent, env={"MLFLOW_TRACKING_URI": None}
    )
    assert removed.code == 0, removed
    assert served.waiting() == waiting
    server.start()
    result = served.run()
    assert result.code == 0, result
    assert_undisturbed(served, whole)


def test_two_drivers_that_share_nothing_but_a_server_are_told_of_each_other(
    launcher: Launcher, file: Path, server: Server, served: Faulty, whole: Kept, tmp_path: Path
) -> None:
    command = served.start_and_wait()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    arguments = ("sweeps.run", file, "--store", server.uri, "--workers", 2)
    second = launcher.run(*arguments, cwd=elsewhere)
    assert (second.code, f"is being run by process {command.pid} on " in second.one_line) == (2, True), second
    command.signal(signal.SIGKILL)
    command.result()
    result = launcher.run(*arguments, "--take-over", cwd=elsewhere)  # nobody need wait to see that it is dead
    assert result.code == 0, result
    assert {run.data.tags["sweep.epoch"] for run in served.runs} == {"1", "2"}
    assert Counter(run.data.tags["trial.state"] for run in served.runs)["COMPLETE"] == NUM_RUNS
    assert served.science() == whole.science()


# --- A network that loses, refuses and hangs


def test_lost_and_refused_requests_leave_everything_once(
    launcher: Launcher, file: Path, server: Server, whole: Kept
) -> None:
    with Proxy(server, lost=0.2, refused=0.2, seed=2) as proxy:
        sweep = Faulty(launcher, file, server.folder, proxy.uri)
        result = sweep.run()
        for _ in range(3):  # who reads is told after three retries, and the same command goes on
            if result.code == COME_BACK_LATER:
                result = sweep.run()
        assert result.code == 0, result
        assert proxy.counts["lost"] > 0
        assert proxy.counts["refused"] > 0
    assert_undisturbed(sweep, whole)


def test_a_network_that_resets_connections_only_slows_a_sweep_down(
    launcher: Launcher, file: Path, server: Server, whole: Kept
) -> None:
    with Proxy(server, reset=0.15) as proxy:
        served = Faulty(launcher, file, server.folder, proxy.uri)
        result = served.run("--wait", 100)
    assert result.code == 0, result
    assert proxy.counts["reset"] > 5
    assert_undisturbed(served, whole)


def test_ctrl_c_ends_a_sweep_whose_server_hangs_in_the_middle_of_training(
    launcher: Launcher, file: Path, server: Server, whole: Kept
) -> None:
    with Proxy(server) as proxy:
        sweep = Faulty(launcher, file, server.folder, proxy.uri)
        command = sweep.start_and_wait()
        proxy.hang()
        wait_until(lambda: proxy.counts["hung"])
        command.signal_all(signal.SIGINT)
        assert_ends_within(command, PAUSED_WITHIN, PAUSED)
        proxy.mend()
        result = sweep.run()
        assert result.code == 0, result
    assert_undisturbed(sweep, whole)


def test_ctrl_c_ends_a_command_that_is_started_while_the_server_hangs(
    launcher: Launcher, file: Path, server: Server, whole: Kept
) -> None:
    with Proxy(server) as proxy:
        sweep = Faulty(launcher, file, server.folder, proxy.uri)
        proxy.hang()
        command = sweep.start()
        wait_until(lambda: proxy.counts["hung"])
        time.sleep(1)
        command.signal_all(signal.SIGINT)
        assert_ends_within(command, PAUSED_WITHIN, PAUSED)
        proxy.mend()
        result = sweep.run()
        assert result.code == 0, result
    assert_undisturbed(sweep, whole)


# --- A database that another program has locked


def test_a_locked_database_is_waited_for(local: Faulty, whole: Kept) -> None:
    command = local.start_and_wait()
    Lock(local.database / "mlflow.db", LOCK_SECONDS).wait()
    result = command.result(180)
    assert result.code == 0, result
    assert_undisturbed(local, whole)


# --- A disk that is full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        disk = SmallDisk(tmp_path / "disk", megabytes=24)
    except OSError as error:
        pytest.skip(str(error))
    with disk:
        yield disk


class OnDisk:
    """A sweep whose store is on a small disk; its commands are processes from the start."""

    def __init__(self, disk: SmallDisk, file: Path, empty_store: Path, folder: Path) -> None:
        shutil.copytree(empty_store, disk.outside / "store")
        self.disk, self.folder = disk, folder
        self._arguments = ("-m", "sweeps.run", file, "--store", disk.folder / "store", "--workers", 2)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *more: object) -> "subprocess.Popen[bytes]":
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            process = subprocess.Popen(
                self.disk.command(*self._arguments, *more),
                stdout=out,
                stderr=err,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd=self.folder,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def start_and_wait(self, *more: object) -> "subprocess.Popen[bytes]":
        process = self.start(*more)
        wait_until(lambda: process.poll() is not None or self.num_steps() >= 20, 90)
        assert process.poll() is None, self.said
        return process

    def num_steps(self) -> int:
        """SQLite can't follow the path that leads to the disk from outside, so somebody inside counts."""
        code = (
            "import sqlite3, sys\n"
            "database = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
            "print(database.execute(\"SELECT count(*) FROM metrics WHERE key = 'train/loss'\").fetchone()[0])\n"
        )
        counted = subprocess.run(
            self.disk.command("-c", code, self.disk.folder / "store" / "mlflow.db"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return int(counted.stdout or 0)

    def result(self, process: "subprocess.Popen[bytes]") -> Result:
        process.wait(180)
        return Result(process.returncode, *self.said)

    def run(self, *more: object) -> Result:
        return self.result(self.start(*more))

    @property
    def said(self) -> tuple[str, str]:
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def said_of_the_disk(self) -> list[str]:
        return [line for line in "".join(self.said).splitlines() if "disk" in line and "full" in line]

    def kept(self) -> Kept:
        """What is there, in a copy."""
        shutil.rmtree(self.folder / "copy", ignore_errors=True)
        return Kept(Path(shutil.copytree(self.disk.outside / "store", self.folder / "copy")))

    def kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def on_disk(disk: SmallDisk, file: Path, empty_store: Path, tmp_path: Path) -> Iterator[OnDisk]:
    sweep = OnDisk(disk, file, empty_store, tmp_path)
    yield sweep
    sweep.kill()


def test_a_full_disk_is_waited_for_and_said_once(on_disk: OnDisk, whole: Kept) -> None:
    process = on_disk.start_and_wait()
    on_disk.disk.fill()
    wait_until(lambda: process.poll() is not None or on_disk.said_of_the_disk())
    time.sleep(5)
    assert process.poll() is None, on_disk.said
    assert len(on_disk.said_of_the_disk()) == 1, on_disk.said
    on_disk.disk.make_room()
    result = on_disk.result(process)
    assert result.code == 0, result
    assert_undisturbed(on_disk.kept(), whole)


def test_a_disk_that_stays_full_gets_the_rest_from_the_same_command(on_disk: OnDisk, whole: Kept) -> None:
    process = on_disk.start_and_wait("--wait", 3)
    on_disk.disk.fill()
    assert_comes_back_later(on_disk.result(process))
    on_disk.disk.make_room()
    result = on_disk.run("--wait", 3)
    assert result.code == 0, result
    assert_undisturbed(on_disk.kept(), whole)


def test_a_plan_that_does_not_fit_on_the_disk_is_refused_before_anything_is_trained(on_disk: OnDisk) -> None:
    refused = on_disk.run("--set", "d_model=512", "--set", "num_layers=8")
    assert refused.code == 2, refused
    assert "disk" in refused.one_line
    assert on_disk.kept().runs == []
    assert on_disk.kept().run_folders() == []


# --- Ctrl-C, twice


@pytest.mark.parametrize("hangs", [False, True], ids=["busy", "a-worker-hangs"])
def test_a_second_ctrl_c_stops_at_once_and_leaves_nobody_behind(local: Faulty, whole: Kept, hangs: bool) -> None:
    command = local.start_and_wait(runs=2)
    below = command.below()
    if hangs:
        worker_of(command, local.run_folders()[0]).suspend()
    command.signal_all(signal.SIGINT)
    time.sleep(0.3)
    command.signal_all(signal.SIGINT)
    result = assert_ends_within(command, 3, PAUSED)
    assert "Traceback" not in result.err
    assert_none_outlives(below)
    again = local.run()
    assert again.code == 0, again
    assert_undisturbed(local, whole)


def test_a_signal_that_comes_twice_at_once_pauses_with_a_checkpoint(local: Faulty, whole: Kept) -> None:
    """As that of GNU timeout does, which sends it to its command and then to the group."""
    command = local.start_and_wait(runs=2)
    command.signal(signal.SIGTERM)
    time.sleep(0.01)
    command.signal_all(signal.SIGTERM)
    assert command.result().code == 143
    assert [folder for folder in local.run_folders() if list(folder.rglob("state-*"))]
    assert local.run().code == 0
    assert_undisturbed(local, whole)


# --- Checkpoints that are damaged


def test_a_sweep_goes_on_to_the_same_bits_from_damaged_checkpoints(local: Faulty, whole: Kept) -> None:
    command = local.start_and_wait("--checkpoint-seconds", 0, runs=2, steps=100)
    command.signal_all(signal.SIGINT)
    assert command.result().code == PAUSED
    states = [sorted(folder.rglob("state-*.safetensors"), key=mtime) for folder in local.run_folders()]
    newest = [found[-1] for found in states if found]
    assert len(newest) >= 2, states
    content = bytearray(newest[0].read_bytes())
    content[len(content) // 2] ^= 0x10
    newest[0].write_bytes(content)
    os.truncate(newest[1], newest[1].stat().st_size // 2)
    result = local.run()
    assert result.code == 0, result
    assert_undisturbed(local, whole)


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


# --- Workers that are killed


def worker_of(command: Command, folder: Path) -> psutil.Process:
    """The process that has a run: the one below the command's own that holds a file in the run's folder open."""
    found: list[psutil.Process] = []

    def holds(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            return any(Path(file.path).is_relative_to(folder) for file in process.open_files())
        return False

    def look() -> bool:
        found[:] = filter(holds, command.below())
        return bool(found)

    wait_until(look, 30)
    return found[0]


def kill_worker_three_times(sweep: Faulty, command: Command) -> None:
    """Kill the worker of the first run as often as it takes for the run to be given up."""
    folder = min(sweep.run_folders(), key=mtime)
    for _ in range(3):
        worker = worker_of(command, folder)
        worker.kill()
        wait_until(lambda worker=worker: not is_alive(worker), 10)


def states(kept: Kept) -> list[str]:
    return sorted(run.data.tags["trial.state"] for run in kept.runs)


def test_a_run_whose_worker_is_killed_three_times_has_failed_and_is_made_again_by_the_next_start(
    local: Faulty, whole: Kept
) -> None:
    command = local.start_and_wait(runs=2)
    kill_worker_three_times(local, command)
    result = command.result()
    assert result.code == 1, result
    assert states(local) == ["COMPLETE"] * (NUM_RUNS - 1) + ["FAILED"]
    (failed,) = (run for run in local.runs if run.info.status == "FAILED")
    assert result.err.startswith(f"FAILED {failed.info.run_name}: ")
    assert "SIGKILL" in result.err
    assert any("SIGKILL" in value for value in failed.data.tags.values()), failed.data.tags
    assert "retry_of" not in str(failed.data.tags)

    again = local.run()
    assert again.code == 0, again
    assert states(local) == ["COMPLETE"] * NUM_RUNS + ["FAILED"]
    (retry,) = (run for run in local.runs if "sweep.retry_of" in run.data.tags)
    assert retry.data.tags["sweep.retry_of"] == failed.info.run_id
    assert retry.data.tags["run.identity"] == failed.data.tags["run.identity"]
    assert local.science() == whole.science()


def test_max_failures_stops_a_sweep(local: Faulty, whole: Kept) -> None:
    command = local.start_and_wait("--max-failures", 1, runs=2)
    kill_worker_three_times(local, command)
    result = command.result()
    assert result.code == 1, result
    assert "stopped after 1 failed run" in result.out
    assert [run.info.status for run in local.runs].count("FAILED") == 1
    assert len(local.science()) < NUM_RUNS - 1
    again = local.run("--max-failures", 1)
    assert again.code == 0, again
    assert local.science() == whole.science()


# --- A hand in MLflow


def delete(kept: Kept, choose: Callable[[Run], bool]) -> None:
    kept.client.delete_run(next(run for run in kept.runs if choose(run)).info.run_id)


def test_a_run_that_is_deleted_under_way_is_made_again_by_the_next_start(local: Faulty, whole: Kept) -> None:
    command = local.start_and_wait(runs=2)
    delete(local, lambda run: run.info.status == "RUNNING")
    ended = command.result(120)  # and not the ten minutes that it waits for a tracker that is away
    assert ended.code in (0, 1), ended
    assert "Traceback" not in ended.err
    again = local.run()
    assert again.code == 0, again
    assert_undisturbed(local, whole)
