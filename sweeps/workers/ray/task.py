"""A task: one run's training on a node, and what it sends to the driver. Knows no driver."""

import os
import shutil
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
from filelock import FileLock

from sweeps.workers.protocol import LOG, SAMPLES, Died, Job, Message, NoSpace, Raised, UnderWay
from sweeps.workers.ray.mailbox import Letter
from sweeps.workers.training import train_job, write_output_to
from tinylm_core.corpus import Corpus
from tinylm_core.machine import conditions

SEND_SECONDS = 0.25  # what is said in so long goes together
FOLDER = "sweeps-run-"


def train(
    job: Job,
    attempt: str,
    states: dict[str, bytes],
    corpus: Corpus | None,  # of our own trainer
    expected: dict[str, str],
    mailbox: Any,  # the actor
    checkpoint_seconds: float,
) -> None:
    """Execute a job on this node, from the newest of the states it was given. It fails under other conditions."""
    node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
    with _work_folder() as folder:
        post = Post(mailbox, attempt, node, folder)
        found = conditions(job.device, job.threads)
        differences = [f"{key} is {found[key]}, not {value}" for key, value in expected.items() if found[key] != value]
        if differences:
            error = f"node {node} trains under other conditions than this sweep: {'; '.join(differences)}"
            post.say(Raised(job.key, error, error))
            return
        for state, content in states.items():
            (folder / state).write_bytes(content)
        with _output_to(folder / LOG):
            here = replace(job, workdir=folder)
            train_job(here, post.say, post.is_paused, checkpoint_seconds, on_checkpoint=post.send_state, corpus=corpus)


@dataclass
class Parcel:
    """What goes with the next letter."""

    messages: list[Message]
    files: dict[str, bytes]
    is_last: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)


class Post:
    """A task's way to the mailbox, by threads of its own: Ray gives away the CPUs of a task whose main thread waits.

    A letter goes when the one before has arrived, since an actor's may overtake.
    """

    def __init__(self, mailbox: Any, attempt: str, node: str, folder: Path) -> None:
        self._mailbox, self._attempt, self._node, self._folder = mailbox, attempt, node, folder
        self._parcels: SimpleQueue[Parcel] = SimpleQueue()
        self._hurry, self._paused = threading.Event(), threading.Event()
        self._parcels.put(Parcel([], {}))  # the word that it has begun
        for work in (self._deliver, self._listen):
            threading.Thread(target=_while_there_is_a_driver, args=(work,), daemon=True).start()

    def say(self, message: Message) -> None:
        """Send a message; the last, with what the run leaves, has arrived when this returns."""
        if isinstance(message, NoSpace):  # here; on another node it may go on
            message = Died(message.key, f"the worker on {self._node} has a full disk")
        if isinstance(message, UnderWay):
            self._parcels.put(Parcel([message], {}))
        else:
            self._send(Parcel([message], self._results(), is_last=True))

    def is_paused(self) -> bool:
        """Whether the driver wants its runs to end."""
        return self._paused.is_set()

    def send_state(self, state: Path) -> None:
        """Returns when the driver has it, so that the time it takes counts as the checkpoint's."""
        self._send(Parcel([], {state.name: state.read_bytes()}))

    def _send(self, parcel: Parcel) -> None:
        self._parcels.put(parcel)
        self._hurry.set()
        parcel.arrived.wait()

    def _deliver(self) -> None:
        parcels: list[Parcel] = []
        while not any(parcel.is_last for parcel in parcels):
            self._hurry.wait(SEND_SECONDS)
            self._hurry.clear()
            parcels = [self._parcels.get()]
            while not self._parcels.empty():
                parcels.append(self._parcels.get())
            messages = [message for parcel in parcels for message in parcel.messages]
            files = {name: content for parcel in parcels for name, content in parcel.files.items()}
            ray.get(self._mailbox.put.remote(Letter(self._attempt, self._node, messages, files)))
            for parcel in parcels:
                parcel.arrived.set()
        ray.get(self._mailbox.pause.remote([self._attempt]))  # nothing more to listen for

    def _listen(self) -> None:
        while not ray.get(self._mailbox.is_paused.remote(self._attempt)):
            pass
        self._paused.set()

    def _results(self) -> dict[str, bytes]:
        sys.stdout.flush()
        found = [*self._folder.glob("checkpoint/*"), self._folder / SAMPLES, self._folder / LOG]
        return {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in found if path.is_file()}


def _while_there_is_a_driver(work: Callable[[], None]) -> None:
    try:
        work()
    except ray.exceptions.RayError:
        os._exit(1)


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder of this task's own; what killed tasks have left on this node goes, known by a lock that nobody holds."""
    parent = Path(tempfile.gettempdir())
    for lock in parent.glob(f"{FOLDER}*.lock"):
        with suppress(OSError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""))
            lock.unlink()
    folder = parent / f"{FOLDER}{uuid.uuid4().hex}"
    lock = folder.with_suffix(".lock")
    with FileLock(lock):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink()


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """What is printed goes to a file; Ray runs many tasks in a process, whose own output comes back afterwards."""
    before = os.dup(1), os.dup(2)
    write_output_to(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, descriptor in zip((1, 2), before, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
