"""A small process beside each worker, which ends what a run leaves behind when its worker has ended, however it did.

What a run starts is in its worker's process group; what has left that is found by a mark in its environment, which a
program has from the process that executes it. So a process escapes that has left the group and either was forked
without executing a program, or has emptied its environment. Knows no job.
"""

import ctypes
import os
import signal
import sys
import time
import uuid
from contextlib import suppress

MARK = "SWEEPS_WORKER"  # a variable that what a run executes inherits
POLL_SECONDS = 0.5  # where the kernel doesn't say that a parent has ended
WAKE = signal.SIGUSR1


def watch_over_this_process() -> None:
    """Fork the watcher, and lead a process group from here on. To be called before this process has other threads."""
    os.setpgid(0, 0)
    worker, mark = os.getpid(), f"{os.getpid()}-{uuid.uuid4().hex}"
    signal.pthread_sigmask(signal.SIG_BLOCK, [WAKE])
    if os.fork() == 0:
        try:
            _watch(worker, mark)
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [WAKE])
    os.environ[MARK] = mark


def end_with_parent(number: signal.Signals) -> None:
    """From here on, Linux sends this process a signal when the thread that started it ends."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _watch(worker: int, mark: str) -> None:
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):  # which reach all processes of a terminal, or of a service
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(WAKE)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the pipe to the driver, which must see it end with the worker
    while os.getppid() == worker:
        if sys.platform == "linux":
            signal.sigwait([WAKE])
        else:
            time.sleep(POLL_SECONDS)
    with suppress(ProcessLookupError, PermissionError):  # nothing is left of its group
        os.killpg(worker, signal.SIGKILL)
    _end_marked(mark)


def _end_marked(mark: str) -> None:
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.kill()
