"""A Ray cluster of two nodes on this machine, of one CPU each; nothing of it outlives the tests.

It listens on 127.0.0.1 alone. Where Ray is not installed, what needs it is skipped.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from launcher import wait_until

if TYPE_CHECKING:
    from sweeps.workers.ray.cluster import Demand, Found

# Read by ray when it is imported, here and in commands: without it Ray looks for a cluster at the network's address.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
# Ray would put a token of its own into the user's home.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}


class Nodes:
    """A head, where drivers and mailboxes are, and a worker node that may be lost."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster = Cluster(shutdown_at_exit=True)
        self.add()
        self.worker = self.add()

    def add(self) -> Any:
        """Another node."""
        return self._cluster.add_node(
            num_cpus=1, node_ip_address="127.0.0.1", temp_dir=self._folder, include_dashboard=False
        )

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_worker(self) -> None:
        """SIGKILL for a node, and for all that runs on it; another one joins."""
        lost = _processes_of(self.worker)
        for process in lost:
            _kill(process)
        self._cluster.worker_nodes.remove(self.worker)
        self.worker = self.add()

    def tasks(self, name: str) -> list[psutil.Process]:
        """The processes that execute tasks of that name."""
        return [process for process in self._processes() if _title(process) == f"ray::{name}"]

    def _processes(self) -> list[psutil.Process]:
        return [process for node in self._cluster.list_all_nodes() for process in _processes_of(node)]

    def end(self) -> None:
        """End all of it."""
        left = self._processes()
        try:
            self._cluster.shutdown()
        finally:
            for process in left:
                _kill(process)


def _processes_of(node: Any) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process_info in [info for infos in node.all_processes.values() for info in infos]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(process_info.process.pid)
            found += [process, *process.children(recursive=True)]
    return found


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline()).strip()
    return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """Where Ray keeps logs, sockets, whose paths must be short, and the address of this machine's cluster."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[cluster]'")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    (folder / "ray").mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", str(folder))
        yield str(folder / "ray")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def nodes(ray_folder: str) -> Iterator[Nodes]:
    """One cluster for all test files."""
    nodes = Nodes(ray_folder)
    yield nodes
    nodes.end()


@pytest.fixture(scope="session")
def on_cluster(nodes: Nodes) -> Iterator[tuple["Demand", "Found"]]:
    """This process as a driver on the cluster; what its runs reserve, and what its nodes are."""
    from sweeps.workers.ray.cluster import connected, demand_of, look

    with connected(nodes.address):
        demand = demand_of(1, 1)
        yield demand, look(demand, print)


def wait_until_free(nodes: Nodes) -> None:
    """Wait until no run is under way on the cluster."""
    wait_until(lambda: not any(_title(process).startswith("ray::run") for process in nodes._processes()))
