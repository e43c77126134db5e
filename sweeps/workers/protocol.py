"""What a driver and the place where runs execute say to each other. Knows no MLflow and no Optuna.

A worker computes, keeps its checkpoints in the run's folder, and reports what happens. `sweeps/workers/local.py` are
processes on this machine, `sweeps/workers/ray/` tasks of a cluster.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tinylm_core.records import EvalRecord, Metrics, StepRecord, UsageRecord

if TYPE_CHECKING:
    pass

THREADS = 1  # of a run on CPU: a process a core with a thread each beats one process with many

# Glibc hands big blocks back to the kernel when they are freed, and each step would fault them in anew: 15 % of its
# time. Huge pages, where the kernel gives them to who asks, are another 5 %. A process reads it when it is executed.
MALLOC_VARIABLE = "GLIBC_TUNABLES"
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483647"

LOG, SAMPLES = "worker.log", "samples.txt"  # in a run's folder, beside what `tinylm_core` keeps there


@dataclass(frozen=True)
class Job:
    """One run to execute."""

    key: str
    config: str  # as JSON
    workdir: Path
    device: str
    threads: int
    trainer: Callable[..., Metrics] | None = None  # what takes the config in place of `tinylm_core.run`
    fingerprint: str | None = None  # of the corpus that the run was planned with: another is not trained on


@dataclass(frozen=True)
class Steps:
    """Optimizer steps that a run has made, in order."""

    key: str
    records: list[StepRecord]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that a run has made."""

    key: str
    record: EvalRecord


@dataclass(frozen=True)
class Used:
    """What the worker's process takes of its machine, now and then."""

    key: str
    record: UsageRecord


@dataclass(frozen=True)
class Ended:
    """The run returned: complete, diverged or interrupted."""

    key: str
    metrics: Metrics


@dataclass(frozen=True)
class Raised:
    """The run raised, with its traceback."""

    key: str
    error: str
    traceback: str


@dataclass(frozen=True)
class Died:
    """The process ended without a word: killed, out of memory, a crash in native code."""

    key: str
    reason: str


@dataclass(frozen=True)
class NoSpace:
    """The run could not write something; it goes on from its last checkpoint when there is room."""

    key: str
    error: str
    traceback: str


UnderWay = Steps | Evaluated | Used  # after which more comes
Message = UnderWay | Ended | Raised | Died | NoSpace


class Workers(Protocol):
    """What a driver needs of a place where runs execute."""

    def has_room(self) -> bool:
        """Whether another job would start at once."""
        ...

    def next_device(self) -> str:
        """The device that the next job gets, where there is room."""
        ...

    def conditions(self, device: str) -> dict[str, str]:
        """Those of law 1 under which a job on a device trains, wherever that is."""
        ...

    def waits_for(self) -> str | None:
        """What keeps jobs under way from beginning, in a line."""
        ...

    def is_busy(self) -> bool:
        """Whether a job is under way."""
        ...

    def submit(self, job: Job) -> None:
        """Start a job."""
        ...

    def receive(self, timeout: float) -> list[Message]:
        """What has been said since, in order for each job; waits up to `timeout` seconds for the first."""
        ...

    def pause(self) -> None:
        """Ask every job to keep a checkpoint and end."""
        ...

    def kill(self) -> None:
        """End every job at once."""
        ...
