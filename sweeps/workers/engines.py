"""Where the runs of a command execute: processes on this machine, or tasks of a Ray cluster. Knows no plan."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sweeps.workers.protocol import Workers
    from tinylm_core.corpus import Corpus
    from tinylm_core.machine import Machine


@dataclass(frozen=True)
class Engine:
    """Where runs execute."""

    machine: "Machine"  # that trains
    num_slots: int  # runs at a time
    make_workers: "Callable[[Callable[[str], Corpus | None]], Workers]"  # of where a config's corpus comes from


@contextmanager
def on_this_machine(
    workers: int | None,
    runs_per_gpu: int,
    checkpoint_seconds: float,
    *,
    has_own_trainer: bool = False,
    only_looks: bool = False,
) -> Iterator[Engine]:
    """Processes here. Unless a command `only_looks`, their server gets ready beside all that is to be done first."""
    # torch and Ray: what a command that only asks, or runs elsewhere, need not wait for
    from sweeps.workers.local import LocalWorkers, start_server
    from tinylm_core.machine import this_machine

    if not only_looks:
        start_server(has_own_trainer=has_own_trainer)  # this process loads torch too, to look at the machine
    machine = this_machine()
    slots = worker_slots(machine.device, workers, runs_per_gpu)
    local = LocalWorkers(slots, checkpoint_seconds, has_own_trainer=has_own_trainer)
    yield Engine(machine, len(slots), lambda _: local)


@contextmanager
def on_ray(
    address: str | None, workers: int | None, cpus_per_run: int, runs_per_gpu: int, checkpoint_seconds: float
) -> Iterator[Engine]:
    """Tasks on the nodes of a cluster, or of a Ray that is started here and ended afterwards."""
    if address is None:
        # Read when ray is imported. Without it even a Ray of our own listens to the whole network.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Without one of our own Ray keeps a token in the user's home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    from sweeps.workers.ray.cluster import connected, demand_of, look
    from sweeps.workers.ray.workers import RayWorkers

    with connected(address):
        demand = demand_of(cpus_per_run, runs_per_gpu)
        found = look(demand, click.echo)
        num_slots = min(demand.num_slots(), workers or demand.num_slots())
        yield Engine(
            found.machine,
            num_slots,
            lambda corpus_of: RayWorkers(demand, found, corpus_of, workers, checkpoint_seconds),
        )


def worker_slots(device: str, workers: int | None, runs_per_gpu: int) -> list[str]:
    """The device of each run that executes at a time: GPUs in turn, at most `workers` in all."""
    if device.startswith("cuda"):
        import torch

        slots = [f"cuda:{index}" for _ in range(runs_per_gpu) for index in range(torch.cuda.device_count())]
        return slots[:workers]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [device] * (workers or (cores if device == "cpu" else 1))
