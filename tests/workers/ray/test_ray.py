"""A sweep on a Ray cluster: the same bits as here, whatever is lost, and a word for what is waited for.

The contract that both engines keep is in test_workers.py.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from clusters import Nodes, wait_until_free
from launcher import Launcher, wait_until
from runs import LONG, receive_all
from small_sweeps import GRID, Kept, assert_whole, is_alive, wait_for_steps, write_experiment

from sweeps.trainers.tinylm import TinyLM
from sweeps.workers.protocol import Died, Ended, Job, Raised
from tinylm_core import RunConfig
from tinylm_core.machine import this_machine

if TYPE_CHECKING:
    from sweeps.workers.ray.cluster import Demand, Found
    from sweeps.workers.ray.workers import RayWorkers

pytestmark = pytest.mark.slow

STEPS = 1200
OnCluster = tuple["Demand", "Found"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """Four runs of some seconds."""
    return write_experiment(tmp_path_factory.mktemp("experiment"), GRID, text_file, tokens=32 * STEPS)


@pytest.fixture(scope="module")
def science(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, file: Path) -> dict[str, Any]:
    """What comes of it on this machine."""
    store = tmp_path_factory.mktemp("local") / "store"
    assert launcher.run("sweeps.run", file, "--store", store, "--workers", 2).code == 0
    return Kept(store).science()


def arguments(nodes: Nodes, file: Path, store: Path) -> tuple[object, ...]:
    return (file, "--store", store, "--engine", "ray", "--address", nodes.address, "--checkpoint-seconds", 0.5)


def assert_same(store: Path, science: dict[str, Any]) -> None:
    assert_whole(Kept(store), num_steps=STEPS)
    assert Kept(store).science() == science


@pytest.mark.faults
def test_a_sweep_on_two_nodes_equals_the_local_one_though_one_is_lost(
    launcher: Launcher, nodes: Nodes, file: Path, science: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = launcher.start("sweeps.run", *arguments(nodes, file, store))
    wait_for_steps(store, command, 400)
    wait_until(lambda: len(list(store.glob("work/question/runs/*/state-*"))) >= 2 or command.has_ended)
    assert not command.has_ended, command.out + command.err
    nodes.lose_worker()
    result = command.result(300)
    assert (result.code, result.err) == (0, "")
    assert_same(store, science)
    kept = Kept(store)
    for run in kept.runs:
        assert {"checkpoint", "samples.txt", "history.parquet"} <= kept.files(run)


@pytest.mark.faults
def test_a_killed_driver_goes_on_to_the_same_bits(
    launcher: Launcher, nodes: Nodes, file: Path, science: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = launcher.start("sweeps.run", *arguments(nodes, file, store))
    wait_for_steps(store, command, 400)
    command.signal_all(signal.SIGKILL)
    assert command.result().code == -signal.SIGKILL
    wait_until_free(nodes)
    result = launcher.run("sweeps.run", *arguments(nodes, file, store), timeout=300)
    assert (result.code, result.err) == (0, "")
    assert_same(store, science)


@pytest.mark.faults
def test_a_sweep_waits_for_a_free_slot_and_says_so_once(
    launcher: Launcher, nodes: Nodes, on_cluster: OnCluster, text_file: Path, tmp_path: Path
) -> None:
    import ray

    file = write_experiment(tmp_path, GRID, text_file)
    hold = on_cluster[0].task(lambda: time.sleep(600))
    held = [hold.remote() for _ in range(2)]
    command = launcher.start("sweeps.run", *arguments(nodes, file, tmp_path / "store"))
    waiting = "waiting: the Ray cluster has no free slot of 1 CPU for the sweep; it goes on when there is one\n"
    try:
        wait_until(lambda: waiting in command.out or command.has_ended)
    finally:
        for task in held:
            ray.cancel(task, force=True)
    result = command.result()
    assert (result.code, result.err) == (0, "")
    assert result.out.count("waiting") == 1
    assert_whole(Kept(tmp_path / "store"))


@pytest.fixture
def job(tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., Job]:
    def job(key: str = "a", **changes: object) -> Job:
        return Job(key, tiny(**changes).model_dump_json(), tmp_path / key, "cpu", 1)

    return job


@pytest.fixture
def make_workers(on_cluster: OnCluster) -> Iterator[Callable[..., "RayWorkers"]]:
    """Workers that expect the conditions of the cluster's nodes, but for those that are given."""
    from sweeps.workers.ray.workers import RayWorkers

    demand, found = on_cluster
    made: list[RayWorkers] = []

    def make(**conditions: str) -> RayWorkers:
        made.append(
            RayWorkers(
                demand, replace(found, conditions=found.conditions | conditions), TinyLM(this_machine("cpu")).corpus_of
            )
        )
        return made[-1]

    yield make
    for workers in made:
        workers.kill()


@pytest.mark.faults
def test_runs_that_have_not_begun_are_said_to_wait_and_a_pause_takes_them_back(
    make_workers: Callable[..., "RayWorkers"], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.workers.ray.workers.QUIET_SECONDS", 0.5)
    workers = make_workers()
    for key in "abcd":
        workers.submit(job(key, **LONG))
    begun: set[str] = set()
    wait_until(lambda: begun.update(message.key for message in workers.receive(0.1)) or len(begun) == 2)
    time.sleep(0.5)
    assert workers.waits_for() == (
        "waiting: the Ray cluster has no free slot of 1 CPU for 2 runs; it goes on when there is one"
    )
    workers.pause()
    last = {message.key: message for message in receive_all(workers)}
    assert {key for key, message in last.items() if isinstance(message, Ended)} == begun
    assert {key for key, message in last.items() if isinstance(message, Died)} == set("abcd") - begun
    assert workers.waits_for() is None


@pytest.mark.faults
def test_a_node_under_other_conditions_never_trains(
    make_workers: Callable[..., "RayWorkers"], on_cluster: OnCluster, job: Callable[..., Job]
) -> None:
    workers = make_workers(**{"torch.version": "1.0"})
    workers.submit(job())
    (raised,) = [message for message in receive_all(workers) if isinstance(message, Raised)]
    assert isinstance(raised, Raised)
    assert raised.error.startswith(f"node {socket.gethostname()} (127.0.0.1) trains under other conditions")
    assert raised.error.endswith(f"torch.version is {on_cluster[1].conditions['torch.version']}, not 1.0")


@pytest.mark.usefixtures("ray_folder")
def test_a_ray_of_its_own_listens_to_this_machine_alone_and_ends_with_the_command(
    launcher: Launcher, file: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    command = launcher.start("sweeps.run", file, "--store", store, "--engine", "ray", "--workers", 2)
    wait_for_steps(store, command, 400)
    assert not command.has_ended, command.out + command.err
    started = command.below()
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in started
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    command.signal_all(signal.SIGINT)
    result = command.result()
    assert listening == {"127.0.0.1"}
    assert (result.code, result.err) == (130, "")
    wait_until(lambda: not any(map(is_alive, started)), 20)
    assert list(store.glob("work/question/runs/*/state-*"))


@pytest.mark.usefixtures("ray_folder")
def test_no_cluster_is_told_in_one_line(launcher: Launcher, file: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        result = launcher.run(
            "sweeps.run", file, "--store", tmp_path / "store", "--engine", "ray", "--address", address
        )
    assert (result.code, result.out) == (2, "")
    assert result.one_line.startswith(f"--address {address}: no Ray cluster to use there ([Errno 111] Connection")
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("ray_folder")
def test_a_gpu_s_process_ends_with_its_task_and_a_cpu_s_is_used_again() -> None:
    """The next task's GPU may be another one, and what a process holds of a GPU it keeps."""
    from sweeps.workers.ray.cluster import Demand

    defaults = [Demand(1, gpus).task(lambda: None)._default_options for gpus in (1, 0.5, 0)]
    assert [options.get("max_calls") for options in defaults] == [1, 1, None]
    assert [options["max_retries"] for options in defaults] == [0, 0, 0]


def test_without_ray_the_command_says_how_to_install_it(file: Path) -> None:
    program = (
        f"import sys; sys.modules['ray'] = None; sys.argv = ['sweeps.run', {str(file)!r}, '--engine', 'ray']; "
        "from sweeps.terminal.command import run_command; from sweeps.run import run; run_command(run)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sweeps: --engine ray needs Ray: pip install '.[cluster]'\n"


def test_what_is_of_ray_alone_is_refused_without_it(launcher: Launcher, file: Path) -> None:
    result = launcher.run("sweeps.run", file, "--cpus-per-run", 2)
    assert (result.code, result.one_line) == (2, "--address and --cpus-per-run are of --engine ray")
