"""What a driver and the place where runs execute say to each other. Knows no MLflow and no Optuna.

A worker computes, keeps its checkpoints in the run's folder, and tells what happens. `sweeps/local_workers.py` are
processes on this machine, `sweeps/ray_workers/` tasks of a cluster.
"""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tinylm_core.config import RunConfig
from tinylm_core.durable import is_disk_full
from tinylm_core.records import EvalRecord, Metrics, StepRecord, UsageRecord

if TYPE_CHECKING:
    from tinylm_core.corpus import Corpus

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
    key: str
    records: list[StepRecord]


@dataclass(frozen=True)
class Evaluated:
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


def train_job(
    job: Job,
    say: Callable[[Message], None],
    should_stop: Callable[[], bool],
    checkpoint_seconds: float,
    *,
    on_checkpoint: Callable[[Path], None] = lambda _: None,
    corpus: "Corpus | None" = None,
) -> None:
    """Train a job's run in this process, and say what it does and, last, how it ended."""
    ended: Message
    try:
        import torch

        from tinylm_core.usage import watched

        torch.set_num_threads(job.threads)  # for the samples too
        listeners: dict[str, Any] = {
            "workdir": job.workdir,
            "on_steps": lambda records: say(Steps(job.key, records)),
            "on_eval": lambda record: say(Evaluated(job.key, record)),
            "should_stop": should_stop,
            "device": job.device,
            "threads": job.threads,
        }
        with watched(lambda record: say(Used(job.key, record)), job.device):
            if job.trainer is not None:
                metrics = job.trainer(job.config, **listeners)
            else:
                from tinylm_core.train import run

                config = RunConfig.model_validate_json(job.config)
                metrics = run(
                    config,
                    checkpoint_seconds=checkpoint_seconds,
                    on_checkpoint=on_checkpoint,
                    corpus=_as_planned(job, config, corpus),
                    **listeners,
                )
        if metrics.state == "COMPLETE" and job.trainer is None:
            from tinylm_core.samples import write_samples

            write_samples(job.workdir / "checkpoint", job.workdir / SAMPLES)
        ended = Ended(job.key, metrics)
    except (Exception, SystemExit) as error:  # whatever a run raises is told, with its traceback
        ended = (NoSpace if is_disk_full(error) else Raised)(job.key, _said(error), _writable(traceback.format_exc()))
    say(ended)


def _as_planned(job: Job, config: RunConfig, corpus: "Corpus | None") -> "Corpus":
    """The corpus that was sent along, or is read here. ValueError where it is not the one of the plan."""
    from tinylm_core.corpus import load_corpus

    corpus = corpus or load_corpus(config)
    if job.fingerprint not in (None, corpus.fingerprint):
        raise ValueError(
            f"data={config.data!r} has changed since this was planned: its fingerprint was {job.fingerprint[:12]} and "
            f"is {corpus.fingerprint[:12]}"
        )
    return corpus


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as another:  # of a class whose own code is at fault
        text = f"({type(another).__name__} in its __str__)"
    places = "".join(f" ({place})" for place in getattr(error, "__notes__", []))
    return _writable(" ".join(f"{type(error).__name__}: {text}{places}".split()))


def _writable(text: str) -> str:
    """Without what no file and no database takes: half a surrogate pair, as a file's name may have, and the like."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def write_output_to(log: Path) -> None:
    """From here on, all that this process prints is appended to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
