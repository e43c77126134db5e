"""Where runs execute: what is begun, and when, and on which devices."""

import subprocess
import sys

import pytest
import torch

from sweeps.workers.engines import worker_slots

BEFORE_TORCH = """
import sys
from multiprocessing import forkserver

def server():
    return forkserver._forkserver._forkserver_pid

def look(event, arguments):
    if event == "import" and arguments[0] == "torch":
        print("torch is loaded", "with a server" if server() else "without one")

sys.addaudithook(look)
from sweeps.workers.engines import on_this_machine
with on_this_machine(1, 1, 30, only_looks={only_looks}) as engine:
    print("ready", "with a server" if server() else "without one")
"""

# What the server imports, with all that would make CUDA ready, or ask it for its devices, an error.
NOTHING_OF_CUDA = """
import importlib
from multiprocessing import forkserver
from sweeps.workers import local as workers

named = []
workers.multiprocessing.set_forkserver_preload = named.extend
workers.ensure_running = lambda: None
workers.start_server(has_own_trainer=True)
import torch

def refuse(*arguments, **options):
    raise AssertionError("CUDA was asked")

for name in ("is_available", "device_count", "is_initialized", "init", "_lazy_init", "get_device_capability"):
    setattr(torch.cuda, name, refuse)
for name in [name for name in dir(torch._C) if name.startswith("_cuda_")]:
    setattr(torch._C, name, refuse)
for name in named:
    importlib.import_module(name)
print(*named)
"""


def printed_by(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are no forks")
@pytest.mark.parametrize(("only_looks", "said"), [(False, "with a server"), (True, "without one")])
def test_the_server_of_workers_loads_torch_beside_the_command_unless_that_only_looks(
    *, only_looks: bool, said: str
) -> None:
    torch_line, *_, ready = printed_by(BEFORE_TORCH.format(only_looks=only_looks))
    assert (torch_line, ready) == (f"torch is loaded {said}", f"ready {said}")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are no forks")
def test_the_server_of_workers_asks_nothing_of_cuda_which_would_not_survive_its_forks() -> None:
    [named] = printed_by(NOTHING_OF_CUDA)
    assert "tinylm_core.train" in named.split()
    assert "torch._dynamo" in named.split()


@pytest.mark.parametrize(
    ("workers", "runs_per_gpu", "slots"),
    [
        (None, 1, ["cuda:0", "cuda:1"]),
        (None, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        (1, 2, ["cuda:0"]),
        (3, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        (8, 1, ["cuda:0", "cuda:1"]),
    ],
)
def test_gpus_are_given_runs_in_turn_up_to_the_number_of_workers(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, runs_per_gpu: int, slots: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_slots("cuda", workers, runs_per_gpu) == slots


def test_a_cpu_is_given_a_run_a_core_or_as_many_as_are_wanted() -> None:
    assert set(worker_slots("cpu", None, 1)) == {"cpu"}
    assert worker_slots("cpu", 3, 1) == ["cpu"] * 3
    assert worker_slots("mps", None, 1) == ["mps"]
