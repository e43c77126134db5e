"""Where runs execute: what is begun, and when."""

import subprocess
import sys

import pytest

from tinylm_core.machine import may_have_gpu

PROGRAM = """
import sys
from multiprocessing import forkserver

def server():
    return forkserver._forkserver._forkserver_pid

def look(event, arguments):
    if event == "import" and arguments[0] == "torch":
        print("torch is loaded", "with a server" if server() else "without one")

sys.addaudithook(look)
from sweeps.places import on_this_machine
with on_this_machine(1, 1, 30, only_looks={only_looks}) as place:
    print("ready", "with a server" if server() else "without one")
"""


@pytest.mark.skipif(may_have_gpu(), reason="there workers may be no forks")
@pytest.mark.parametrize(("only_looks", "said"), [(False, "with a server"), (True, "without one")])
def test_the_server_of_workers_loads_torch_beside_the_command_unless_that_only_looks(
    *, only_looks: bool, said: str
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(only_looks=only_looks)], capture_output=True, text=True, check=True
    )
    torch, *_, ready = found.stdout.splitlines()
    assert (torch, ready) == (f"torch is loaded {said}", f"ready {said}")
