"""Starts commands as a user does, many of them, soon: each is a process of its own, forked from one that has imported
what all of them import, which takes seconds. What is forked goes on exactly as `python -m MODULE ARGUMENTS` does.

    with Launcher(folder) as launcher:
        assert launcher.run("sweeps.run", "--list").code == 0
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import pytest

PRELOADED = (
    "uvicorn", "mlflow", "mlflow.cli", "mlflow.server", "mlflow.store.tracking.sqlalchemy_store", "optuna", "pandas",
    "matplotlib.pyplot", "pyarrow.parquet", "scipy.stats", "torch", "tinylm_core.train", "tinylm_core.generate",
    "sweeps.answer.figures", "sweeps.answer.page", "sweeps.answer.report", "sweeps.analysis.reproduction",
    "sweeps.driver.execute", "sweeps.outbox.work", "sweeps.spec.catalog", "sweeps.store", "sweeps.terminal.dry_run",
    "sweeps.terminal.views", "sweeps.trainers.tinylm", "sweeps.workers.engines", "sweeps.workers.local",
)  # fmt: skip

# Where there is a GPU, commands train on the CPU all the same: bits, paces and tags that tests name are a CPU's.
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Result:
    """How a command ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """The only line on stderr, which is where a user's mistake is told."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("sweeps: "), self
        return lines[0].removeprefix("sweeps: ")


class Command:
    """A command under way, the leader of a process group of its own."""

    def __init__(self, connection: socket.socket, output: Path) -> None:
        self._lines = connection.makefile()
        self._output = output
        self.pid = int(self._lines.readline())
        self._code: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._code = int(self._lines.readline())
        self._ended.set()

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def below(self) -> list[psutil.Process]:
        """Every process that descends from the command's own; none where that has ended."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes that train: the server that they are forked from is a child, they are its children."""
        return [process for process in self.below() if _parent(process) not in (None, self.pid)]

    def signal(self, number: int) -> None:
        """Send a signal to the command's own process, not to its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def result(self, timeout: float = 120) -> Result:
        """Wait for the end."""
        if not self._ended.wait(timeout):
            self.signal_all(signal.SIGKILL)
            raise TimeoutError(f"still running after {timeout} s: {self.out}{self.err}")
        assert self._code is not None, "the launcher is gone"
        return Result(self._code, self.out, without_waiting(self.err))

    @property
    def out(self) -> str:
        return self._output.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        return self._output.with_suffix(".err").read_text()


class Launcher:
    """The process that commands are forked from. Commands run in `folder` unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()

    def __enter__(self) -> "Launcher":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = self.folder / "launcher.sock"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._socket)], stdout=theirs, cwd=Path(__file__).parent.parent
        )
        theirs.close()
        assert ours.recv(1) == b"+", "the launcher has not started"
        ours.close()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        terminal: str | None = None,
    ) -> Command:
        """Start `python -m MODULE ARGUMENTS`; a variable that is None in `env` is not set.

        `terminal` is the path of one that the command gets instead of files.
        """
        output = self.folder / f"command-{next(self._numbers)}"
        for suffix in (".out", ".err"):  # read before the command has opened them
            output.with_suffix(suffix).touch()
        request = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or self.folder),
            "env": dict(os.environ) | ON_CPU | dict(env or {}),
            "output": str(output),
            "terminal": terminal,
        }
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self._socket))
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Command(connection, output)

    def run(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        timeout: float = 120,
    ) -> Result:
        """Start a command and wait for its end."""
        return self.start(module, *arguments, cwd=cwd, env=env).result(timeout)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """One for all test files."""
    with Launcher(tmp_path_factory.mktemp("commands")) as launcher:
        yield launcher


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def wait_until(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait until `condition()` holds; TimeoutError where it never does."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s")
        time.sleep(0.02)


def _serve(path: str) -> None:
    sys.path[0] = str(Path(__file__).parent.parent)  # as `python -m` has it there
    for name in PRELOADED:
        importlib.import_module(name)
    # A command's garbage collector needs not look through all that, which took a fifth of its time.
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        os.write(1, b"+")
        os.close(1)
        os.open(os.devnull, os.O_WRONLY)
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _shepherd(connection)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _shepherd(connection: socket.socket) -> None:
    """Fork the command, tell its process ID and, when it ends, how."""
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict) -> None:
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({name: value for name, value in request["env"].items() if value is not None})
    if request["terminal"] is not None:
        terminal = os.open(request["terminal"], os.O_RDWR)  # of a session without one: it becomes the session's own
        for number in (0, 1, 2):
            os.dup2(terminal, number)
    else:
        for number, suffix in [(1, ".out"), (2, ".err")]:
            os.dup2(os.open(request["output"] + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = [request["module"], *request["arguments"]]
    sys.modules.pop(request["module"], None)
    code: object = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        # The way an interpreter ends: threads joined, exit handlers run, output flushed.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1])


def without_waiting(err: str) -> str:
    """What a command said on stderr, but for that records are on their way, which a busy machine makes it say."""
    return re.sub(r"(?m)^[\d,]+ records are on their way to the tracker\n", "", err)
