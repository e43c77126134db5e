"""The driver's side: tasks are submitted, and what comes back is put into the runs' folders here. Trains nothing."""

import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.workers.protocol import LOG, Died, Job, Message, NoSpace, UnderWay
from sweeps.workers.ray.cluster import QUIET_SECONDS, Demand, Found
from sweeps.workers.ray.mailbox import Letter, Mailbox
from sweeps.workers.ray.task import train
from tinylm_core.checkpoint import is_state, keep_state, state_files
from tinylm_core.corpus import Corpus
from tinylm_core.durable import is_disk_full, write_durably

COUNT_SECONDS = 2.0  # between looks at the cluster's size
MAX_TASKS = 10_000  # that one mailbox listens to at a time


@dataclass
class Task:
    """A job under way."""

    job: Job
    result: Any  # ObjectRef[None]
    submitted: float = field(default_factory=time.monotonic)
    node: str | None = None  # once it has begun
    is_over: bool = False  # what it said last may still be to come


class RayWorkers:
    """Tasks on the cluster that this process is connected to, on nodes that are as the one that was found."""

    def __init__(
        self,
        demand: Demand,
        found: Found,
        corpus_of: Callable[[str], Corpus | None],
        max_runs: int | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> None:
        self._demand, self._found, self._corpus_of = demand, found, corpus_of
        self._max_runs, self._checkpoint_seconds = max_runs or MAX_TASKS, checkpoint_seconds
        self._tasks: dict[str, Task] = {}
        self._tokens: dict[Corpus, Any] = {}  # ObjectRef[Corpus]
        self._num_slots, self._counted = 0, -COUNT_SECONDS
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Each task has a letter and a question in the mailbox at most.
        options = {"num_cpus": 0, "max_concurrency": 2 * MAX_TASKS, "scheduling_strategy": here}
        self._mailbox = ray.remote(Mailbox).options(**options).remote()
        self._letters = self._mailbox.take.remote()

    def has_room(self) -> bool:
        if time.monotonic() - self._counted >= COUNT_SECONDS:
            self._num_slots, self._counted = self._demand.num_slots(), time.monotonic()
        # Where no node is large enough one run waits, so that the cluster knows what is wanted.
        return len(self._tasks) < min(self._max_runs, max(1, self._num_slots))

    def next_device(self) -> str:
        return self._demand.device

    def conditions(self, device: str) -> dict[str, str]:
        assert device == self._demand.device
        return self._found.conditions

    def waits_for(self) -> str | None:
        late = time.monotonic() - QUIET_SECONDS
        waiting = sum(task.node is None and task.submitted < late for task in self._tasks.values())
        return self._demand.waiting(f"{waiting} run{'s' if waiting > 1 else ''}") if waiting else None

    def is_busy(self) -> bool:
        return bool(self._tasks)

    def submit(self, job: Job) -> None:
        corpus = self._corpus_of(job.config) if job.trainer is None else None
        tokens = None if corpus is None else self._put(corpus)
        states = {path.name: path.read_bytes() for path in state_files(job.workdir)}
        attempt = uuid.uuid4().hex
        task = self._demand.task(train).options(name=f"run {job.key[:16]}")
        result = task.remote(
            job, attempt, states, tokens, self._found.conditions, self._mailbox, self._checkpoint_seconds
        )
        self._tasks[attempt] = Task(job, result)

    def _put(self, corpus: Corpus) -> Any:
        """A corpus goes to the object store once, and from there to a node once, where its tasks share it."""
        if corpus not in self._tokens:
            train, val = np.asarray(corpus.train), np.asarray(corpus.val)
            self._tokens[corpus] = ray.put(replace(corpus, train=train, val=val, text_path=None))
        return self._tokens[corpus]

    def receive(self, timeout: float) -> list[Message]:
        under_way = {task.result: attempt for attempt, task in self._tasks.items() if not task.is_over}
        ray.wait([self._letters, *under_way], timeout=timeout)
        over = ray.wait(list(under_way), num_returns=len(under_way), timeout=0)[0] if under_way else []
        for result in over:
            self._note_end(under_way[result])
        if not ray.wait([self._letters], timeout=0)[0]:
            return []
        letters: list[Letter] = ray.get(self._letters)
        self._letters = self._mailbox.take.remote()
        return [message for letter in letters for message in self._open(letter)]

    def _note_end(self, attempt: str) -> None:
        task = self._tasks[attempt]
        task.is_over = True
        try:
            ray.get(task.result)
        except ray.exceptions.RayError as error:
            died = Died(task.job.key, _reason(task, error))
            self._mailbox.put.remote(Letter(attempt, task.node or "", [died], {}))  # behind all that the task has said

    def _open(self, letter: Letter) -> list[Message]:
        task = self._tasks.get(letter.attempt)
        if task is None:
            return []
        task.node = letter.node
        try:
            for name, content in letter.files.items():
                _keep(task.job.workdir / name, content)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._end(letter.attempt)
            return [NoSpace(task.job.key, str(error), traceback.format_exc())]
        if letter.messages and not isinstance(letter.messages[-1], UnderWay):
            del self._tasks[letter.attempt]
        return letter.messages

    def pause(self) -> None:
        self._mailbox.pause.remote(list(self._tasks))
        for task in self._tasks.values():
            if task.node is None:
                ray.cancel(task.result)

    def kill(self) -> None:
        for attempt in list(self._tasks):
            self._end(attempt)

    def _end(self, attempt: str) -> None:
        ray.cancel(self._tasks.pop(attempt).result, force=True)


def _reason(task: Task, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # A task that raised reports its traceback, others what happened and then what might be done.
    line = " ".join(lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0].split())
    where = f"the worker on {task.node} was lost" if task.node else "the task had not begun"
    return f"{where}: {line.partition('. ')[0]}"


def _keep(path: Path, content: bytes) -> None:
    if is_state(path):
        keep_state(path, content)
    elif path.name == LOG:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:  # of all its attempts
            log.write(content)
    else:
        write_durably(path, content)
