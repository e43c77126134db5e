"""What a worker does with a job, wherever it is: train it, and report what happens. Knows no driver.

What trains loads torch, for more than a second: a driver imports this file too, and trains nothing itself.
"""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.workers.protocol import SAMPLES, Ended, Evaluated, Job, Message, NoSpace, Raised, Steps, Used
from tinylm_core.config import RunConfig
from tinylm_core.durable import is_disk_full

if TYPE_CHECKING:
    from tinylm_core.corpus import Corpus


# What numerical libraries read when they are loaded: a process that a run starts has the run's threads, and no more.
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                 "VECLIB_MAXIMUM_THREADS")  # fmt: skip


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
        os.environ.update(dict.fromkeys(THREAD_LIMITS, str(job.threads)))  # for what the run starts
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
    except (Exception, SystemExit) as error:  # whatever a run raises is reported, with its traceback
        ended = (NoSpace if is_disk_full(error) else Raised)(job.key, _said(error), _writable(traceback.format_exc()))
    say(ended)


def write_output_to(log: Path) -> None:
    """From here on, all that this process prints is appended to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


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
