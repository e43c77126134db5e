"""What the tests of `run` share: its bits, who listens to it, who stops it, and fp16 where a CPU lacks it."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from sweeps.workers.protocol import Message, Workers
from tinylm_core import train as train_module
from tinylm_core.config import RunConfig, resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.machine import this_machine
from tinylm_core.records import EvalRecord, Metrics, StepRecord
from tinylm_core.state import TrainState
from tinylm_core.train import TrainingLoop, reproducible, run

Tiny = Callable[..., RunConfig]


# What reads the clock, and so is no part of the bits.
CLOCK = {"timestamp_ms", "tokens_per_second"}


def bits(metrics: Metrics) -> str:
    """All that law 1 promises, every float with all its digits."""
    steps = [{k: v for k, v in asdict(record).items() if k not in CLOCK} for record in metrics.steps]
    evals = [{k: v for k, v in asdict(record).items() if k not in CLOCK} for record in metrics.evals]
    rest = [metrics.state, metrics.weights_sha256, metrics.num_parameters, metrics.vocab_size, metrics.diverged_at]
    return json.dumps([steps, evals, rest])


class Listener:
    """What a run has told, in order."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.evals: list[EvalRecord] = []
        self.batches: list[int] = []

    def on_steps(self, records: list[StepRecord]) -> None:
        assert records
        self.steps += records
        self.batches.append(len(records))

    def on_eval(self, record: EvalRecord) -> None:
        self.evals.append(record)

    def run(self, config: RunConfig, **options: Any) -> Metrics:
        return run(config, on_steps=self.on_steps, on_eval=self.on_eval, threads=1, **options)


class StopAt:
    """Says yes at the n-th question, counted from 0, and from then on."""

    def __init__(self, n: float) -> None:
        self.n, self.asked = n, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.n


@contextmanager
def loop_of(config: RunConfig) -> Iterator[TrainingLoop]:
    config = resolve(config, this_machine("cpu"))
    with reproducible("cpu", 1):
        yield TrainingLoop(config, load_corpus(config), "cpu", None, 1e9)


@pytest.fixture
def reported_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """should_stop is asked, and a checkpoint kept if due, at every step; an evaluation takes several batches."""
    monkeypatch.setattr("tinylm_core.pending.FLUSH_STEPS", 1)
    monkeypatch.setattr(train_module, "MAX_CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr("tinylm_core.evaluate.EVAL_BATCH_TOKENS", 128)


def allow_fp16(monkeypatch: pytest.MonkeyPatch, first_scale: float = 2.0**16) -> None:
    """Let the CPU emulate fp16, and start its loss scale where the test wants it."""
    fresh = TrainState.fresh

    def fresh_scaled(config: RunConfig, vocab_size: int, device: str) -> TrainState:
        state = fresh(config, vocab_size, device)
        enabled = config.precision == "fp16"
        return replace(state, scaler=torch.amp.GradScaler("cpu", init_scale=first_scale, enabled=enabled))

    monkeypatch.setattr(train_module, "check_precision", lambda *_: None)
    monkeypatch.setattr(TrainState, "fresh", fresh_scaled)


LONG = {"train_tokens": 64 * 3 * 20_000}


def receive_all(workers: Workers) -> list[Message]:
    messages: list[Message] = []
    while workers.is_busy():
        messages += workers.receive(1)
    return messages
