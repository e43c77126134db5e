"""Runs as processes on this machine, one a run, forked from a server that has loaded torch.

Each streams its records through a pipe of its own, so that one killed in the middle of a word harms nobody else. It
dies with its driver: the pipe ends, and on Linux the kernel is asked to end it too. Knows no sweep.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.forkserver import ensure_running

from sweeps.workers.protocol import LOG, MALLOC, MALLOC_VARIABLE, THREADS, Died, Job, Message, UnderWay
from sweeps.workers.training import train_job, write_output_to
from sweeps.workers.watcher import end_with_parent, watch_over_this_process

# Ctrl-C reaches the whole terminal, and SIGTERM all processes where a service, a batch system or GNU timeout ends them;
# the driver says what to do.
LEFT_TO_THE_DRIVER = (signal.SIGINT, signal.SIGTERM)

# A fork of a process that has torch loaded starts in 0.02 s. macOS' own libraries survive no fork.
HAS_SERVER = sys.platform == "linux"

MOST_TEMPORARY = 70  # characters: the address of its socket, 32 longer, must stay below 108

# What that server imports before it forks; a test imports each, since Python passes over what it can't import here.
PRELOADED = ("sweeps.workers.forkserver", "tinylm_core.train", "tinylm_core.usage")


@contextlib.contextmanager
def tuned_memory() -> Iterator[None]:
    """Processes that are executed here keep the memory that they free, and that in huge pages; see MALLOC."""
    before = os.environ.get(MALLOC_VARIABLE)
    os.environ.setdefault(MALLOC_VARIABLE, MALLOC)
    try:
        yield
    finally:
        if before is None:
            del os.environ[MALLOC_VARIABLE]


@contextlib.contextmanager
def held_back_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait; a process that is executed here holds them back too, until it has said what they do."""
    resource_tracker.ensure_running()  # else it is started within, and lets Ctrl-C through when it was
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_DRIVER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_server(*, has_own_trainer: bool) -> None:
    """Start the server that workers are forked from, unless it runs; it loads torch while its driver goes on.

    It asks nothing of CUDA, which would not survive the forks. ValueError where TMPDIR is too long for its socket.
    """
    if not HAS_SERVER:
        return
    if len(temporary := tempfile.gettempdir()) > MOST_TEMPORARY:
        raise ValueError(
            f"TMPDIR={temporary}: the path of a socket within it would be too long; name a folder by at most "
            f"{MOST_TEMPORARY} characters"
        )
    # PyTorch's optimizers import it, for most of a second, when the first is made. Ours does not.
    multiprocessing.set_forkserver_preload([*PRELOADED, *["torch._dynamo"] * has_own_trainer])
    with tuned_memory(), held_back_signals():
        ensure_running()


class LocalWorkers:
    """Processes on this machine, one a slot; a slot is a device."""

    def __init__(
        self, slots: Iterable[str], checkpoint_seconds: float = 30.0, *, has_own_trainer: bool = False
    ) -> None:
        self._checkpoint_seconds = checkpoint_seconds
        self._free = list(slots)
        method = "forkserver" if HAS_SERVER else "spawn"
        self._context: SpawnContext | ForkServerContext = multiprocessing.get_context(method)  # type: ignore[assignment]
        self._has_own_trainer = has_own_trainer
        self._jobs: dict[Connection, tuple[Job, str, multiprocessing.process.BaseProcess]] = {}

    def has_room(self) -> bool:
        return bool(self._free)

    def next_device(self) -> str:
        return self._free[0]

    def conditions(self, device: str) -> dict[str, str]:
        from tinylm_core.machine import conditions

        return conditions(device, THREADS)

    def waits_for(self) -> str | None:
        return None

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        start_server(has_own_trainer=self._has_own_trainer)
        slot = self._free.pop(0)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(job, theirs, self._checkpoint_seconds), daemon=True)
        with tuned_memory(), held_back_signals():
            process.start()
        theirs.close()
        self._jobs[ours] = (job, slot, process)

    def receive(self, timeout: float) -> list[Message]:
        messages: list[Message] = []
        for pipe in wait(list(self._jobs), timeout):
            assert isinstance(pipe, Connection)
            job, _, process = self._jobs[pipe]
            try:
                message: Message = pipe.recv()
            except (EOFError, OSError):
                process.join(5)
                message = Died(job.key, _reason(process.exitcode))
            messages.append(message)
            if not isinstance(message, UnderWay):
                self._release(pipe)
        return messages

    def _release(self, pipe: Connection) -> None:
        _, slot, process = self._jobs.pop(pipe)
        pipe.close()
        process.join(5)
        if process.is_alive():
            process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of its group
            assert process.pid
            os.killpg(process.pid, signal.SIGKILL)
        self._free.append(slot)

    def pause(self) -> None:
        for pipe in self._jobs:
            with contextlib.suppress(OSError):
                pipe.send("pause")

    def kill(self) -> None:
        for pipe in list(self._jobs):
            self._jobs[pipe][2].kill()
            self._release(pipe)


def _reason(exitcode: int | None) -> str:
    if exitcode is None:
        return "the worker fell silent and did not end"
    if exitcode >= 0:
        return f"the worker ended with exit code {exitcode}"
    names = {int(known): known.name for known in signal.Signals}  # those between SIGRTMIN and SIGRTMAX have none
    return f"the worker was killed by {names.get(-exitcode, f'signal {-exitcode}')}"


def _work(job: Job, pipe: Connection, checkpoint_seconds: float) -> None:
    """A worker process, from start to end."""
    _leave_signals_to_the_driver()
    end_with_parent(signal.SIGKILL)
    watch_over_this_process()  # what the run starts ends with it
    # Python lets a daemon start no processes, such as the workers of a DataLoader: they would outlive it. These don't.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    paused = threading.Event()
    threading.Thread(target=_listen, args=(pipe, paused), daemon=True).start()
    job.workdir.mkdir(parents=True, exist_ok=True)
    write_output_to(job.workdir / LOG)

    one_at_a_time = threading.Lock()  # two threads speak: the run's and the one that looks at it

    def say(message: Message) -> None:
        try:
            with one_at_a_time:
                pipe.send(message)
        except BrokenPipeError:
            os._exit(1)  # the driver is gone

    train_job(job, say, paused.is_set, checkpoint_seconds)


def _leave_signals_to_the_driver() -> None:
    """Nothing ends by them but what this process forks, such as a trainer's pool, which is ended by SIGTERM."""
    worker = os.getpid()

    def end_unless_worker(number: int, _: object) -> None:
        if os.getpid() != worker:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_unless_worker)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_DRIVER)


def _listen(pipe: Connection, paused: threading.Event) -> None:
    """Wait for the driver's word to pause; without a driver there is nobody to compute for."""
    try:
        while True:
            pipe.recv()
            paused.set()
    except (EOFError, OSError):
        os._exit(1)
