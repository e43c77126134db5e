"""The cluster: connecting to it, what a run reserves of a node, and what its nodes are. Submits no job."""

import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from sweeps.workers.protocol import MALLOC, MALLOC_VARIABLE, THREADS
from tinylm_core.machine import Machine, conditions, this_machine

CONNECT_SECONDS = 5.0
CLIENT_PORT = 10_001  # of ray://HOST
QUIET_SECONDS = 10.0  # of waiting for a slot that need no word: a worker process starts in two or three


@dataclass(frozen=True)
class Demand:
    """What a run reserves of a node."""

    cpus: int
    gpus: float  # a share of one

    @property
    def device(self) -> str:
        """As a task sees it: Ray shows it the GPU it may use and no other."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        return THREADS if self.gpus else self.cpus

    def task(self, function: Callable[..., Any]) -> Any:
        """A Ray task that reserves it; one that is lost is not tried again: its run goes on from a checkpoint.

        By `.options()` instead, Ray would not end a GPU's process with its task, and the next one in it would find
        the GPU and the memory of the first.
        """
        return ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(function)

    def num_slots(self) -> int:
        """How many runs the cluster's nodes hold at a time, whatever else they do."""
        slots = 0
        for node in ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                by_gpu = [int(has.get("GPU", 0) / self.gpus + 1e-6)] if self.gpus else []
                slots += min([int(has.get("CPU", 0) // self.cpus), *by_gpu])
        return slots

    def waiting(self, who: str) -> str:
        """The line that says who waits for a slot."""
        what = f"{self.cpus} CPU" + ("s" if self.cpus > 1 else "") + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"waiting: the Ray cluster has no free slot of {what} for {who}; it goes on when there is one"


@dataclass(frozen=True)
class Found:
    """A node that trains."""

    machine: Machine
    conditions: dict[str, str]


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A cluster at an address, or a Ray of our own on this machine that ends with us. ValueError where none is."""
    ours = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {}
    # The driver's own code goes along, some hundred kilobytes, so that no node trains with another version of it.
    modules = [str(Path(sys.modules[name].__file__ or "").parent) for name in ("sweeps", "tinylm_core")]
    runtime_env = {
        "py_modules": modules, "excludes": ["**/__pycache__"], "env_vars": {MALLOC_VARIABLE: MALLOC},
    }  # fmt: skip
    try:
        if address is not None:
            _check_listens(address)
        ray.init(address or "local", runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError, SystemExit) as error:  # Ray exits in places
        if address is None:
            raise
        hint = "a cluster with a token wants RAY_AUTH_MODE=token, see docs/cluster.md"
        raise ValueError(f"--address {address}: no Ray cluster to use there ({_first(error)}); {hint}") from None
    try:
        yield
    finally:
        ray.shutdown()


def demand_of(cpus_per_run: int, runs_per_gpu: int) -> Demand:
    """What a run reserves on this cluster: a share of a GPU where it has any."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    # Ray counts in ten-thousandths, and three times a third must not be more than one.
    return Demand(cpus_per_run, 10_000 // runs_per_gpu / 10_000 if has_gpu else 0)


def look(demand: Demand, say: Callable[[str], None]) -> Found:
    """What a node that trains is, asked in a slot of it; `say` hears, once, where that is waited for."""
    task = demand.task(_look).remote(demand)
    if not ray.wait([task], timeout=QUIET_SECONDS)[0]:
        say(demand.waiting("the sweep"))
    found: Found = ray.get(task)
    return found


def _check_listens(address: str) -> None:
    """Ray itself gives up after two minutes, and the process with it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") and not host:
        host, port = port, str(CLIENT_PORT)
    if port.isdecimal():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def _first(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")


def _look(demand: Demand) -> Found:
    return Found(this_machine(demand.device), conditions(demand.device, demand.threads))
