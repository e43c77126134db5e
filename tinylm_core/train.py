"""`run`: one config → its metrics. The only training loop; it does not know who listens.

from tinylm_core import RunConfig, run
metrics = run(RunConfig(data="my.txt", train_tokens=262_144), workdir="work/first")
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from tinylm_core.checkpoint import load_states, save_model, save_state, weights_sha256
from tinylm_core.config import RunConfig, identity, resolve
from tinylm_core.corpus import Corpus, load_corpus
from tinylm_core.cuda_graph import Graphed, GraphedBackward
from tinylm_core.data import micro_batch, train_eval_windows, train_windows, val_windows
from tinylm_core.determinism import reproducible
from tinylm_core.device_steps import DeviceSteps
from tinylm_core.evaluate import evaluate, widest_float, window_sums
from tinylm_core.machine import check_precision, conditions, this_machine
from tinylm_core.model import TinyGPT
from tinylm_core.records import EndState, EvalRecord, Metrics, StepRecord, now_ms
from tinylm_core.schedule import learning_rate
from tinylm_core.state import TrainState
from tinylm_core.step import add_gradients, autocast, update

GRAPHED = ("cuda",)  # the kinds of device on which a step is launched as a graph
MAX_CHECKPOINT_SHARE = 0.01  # of the time; a slow disk stretches the interval


def run(
    config: RunConfig,
    *,
    workdir: Path | str | None = None,
    on_steps: Callable[[list[StepRecord]], None] = lambda _: None,
    on_eval: Callable[[EvalRecord], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    device: str | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
    on_checkpoint: Callable[[Path], None] = lambda _: None,
    corpus: Corpus | None = None,
) -> Metrics:
    """Train a model and measure it.

    With `workdir` the run keeps checkpoints there, goes on from the last one to the same bits (after a resume the
    listeners hear the history since step 1 again), and leaves `checkpoint/` with the final weights. Steps are reported
    in batches, every 20 or about a second; `should_stop` is asked then, and a stopped run is INTERRUPTED.
    `on_checkpoint` hears of each state file once it is durable. `threads` are CPU threads. `corpus` is the one that
    `config.data` names, where that can't be read here. ValueError for a config that can't run here, in one line.
    """
    machine = this_machine(device)
    config = resolve(config, machine)
    check_precision(config.precision, machine)
    num_steps = config.num_steps
    corpus = corpus or load_corpus(config)
    with reproducible(machine.device, threads or torch.get_num_threads(), compiles=config.compile is True):
        folder = Path(workdir) if workdir else None
        loop = TrainingLoop(config, corpus, machine.device, folder, checkpoint_seconds, on_checkpoint)
        state = loop.state
        for record in state.evals:
            on_eval(record)
        if state.steps:
            on_steps(list(state.steps))  # a listener may keep it, and this one grows
        pending = DeviceSteps(state.step, config.tokens_per_step)
        diverged_at: int | None = None
        while diverged_at is None:
            if loop.evaluation_is_due():
                evaluated = loop.evaluate(should_stop)
                if evaluated is None:
                    return loop.interrupt()
                if not math.isfinite(evaluated.val_loss + evaluated.train_loss):
                    diverged_at = state.step
                    break
                state.evals.append(evaluated)
                on_eval(evaluated)
                pending.restart_clock()
            if state.step == num_steps:
                break
            pending.add(*loop.optimizer_step())
            if pending.is_due() or loop.evaluation_is_due():
                records, diverged_at = pending.flush()
                state.steps += records
                if records:  # none, where the first has diverged
                    on_steps(records)
                if diverged_at is None:
                    if should_stop():
                        return loop.interrupt()
                    loop.checkpoint_if_due()
        return loop.finish(diverged_at)


class TrainingLoop:
    """One run's model, windows and files; owns the state that a checkpoint holds."""

    def __init__(
        self,
        config: RunConfig,
        corpus: Corpus,
        device: str,
        workdir: Path | None,
        checkpoint_seconds: float,
        on_checkpoint: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.config, self.corpus, self.device, self.workdir = config, corpus, device, workdir
        self.train_windows = train_windows(corpus, config)
        self.val_windows = val_windows(corpus, config)
        self.train_eval_windows = train_eval_windows(corpus, config, len(self.val_windows))
        self.state = TrainState.fresh(config, corpus.vocab_size, device)
        self.model = self.state.model
        if config.compile:
            # PyTorch compiles one piece of code for a few models and runs it as it is for more: begin to count anew.
            torch.compiler.reset()
            self.model = cast(TinyGPT, torch.compile(self.model, dynamic=False))
        self.state.model.masks.native = None if device == "cpu" else device.partition(":")[0]
        self._prepare_step()
        self.steps_per_eval = config.num_steps // config.num_evals
        self.checkpoint_seconds, self.on_checkpoint = checkpoint_seconds, on_checkpoint
        self.next_checkpoint = time.monotonic() + checkpoint_seconds
        self.stamp = {
            "identity": identity(config, corpus.fingerprint),
            "conditions": json.dumps(conditions(device, torch.get_num_threads()), sort_keys=True),
        }
        if workdir:
            self._resume(workdir)

    def _prepare_step(self) -> None:
        config, state, mixed = self.config, self.state, autocast(self.config, self.device)
        self.window_sums: Callable[..., Tensor] = partial(window_sums, self.model, mixed)
        self.add_gradients: Callable[..., Tensor] = partial(
            add_gradients, self.model, state.scaler, mixed, config.tokens_per_step
        )
        self.update: Callable[[], Tensor] = partial(update, state, config.max_grad_norm)
        if self.device.partition(":")[0] in GRAPHED:
            self.window_sums = Graphed(self.window_sums)
            self.add_gradients = GraphedBackward(self.add_gradients, list(state.model.parameters()))
            if config.precision != "fp64":  # AdamW's kernel reads a rate that can change in a graph as float32
                state.optimizer.rate = torch.zeros((), device=self.device)
                self.update = Graphed(self.update)

    def _resume(self, workdir: Path) -> None:
        for tensors, metadata in load_states(workdir):
            if metadata.get("identity", self.stamp["identity"]) != self.stamp["identity"]:
                raise ValueError(
                    f"workdir={str(workdir)!r} holds the checkpoint of another run; choose an empty folder"
                )
            if metadata.get("conditions") != self.stamp["conditions"]:
                continue  # never continued (law 2)
            with suppress(ValueError):  # damaged: the one before it, or the start, gives the same bits
                self.state.unpack(tensors, metadata)
                return

    def evaluation_is_due(self) -> bool:
        """At step 0 and every `steps_per_eval`, unless a checkpoint has brought the record along."""
        done = self.state.evals and self.state.evals[-1].step == self.state.step
        return self.state.step % self.steps_per_eval == 0 and not done

    def evaluate(self, should_stop: Callable[[], bool]) -> EvalRecord | None:
        measure = partial(evaluate, self.window_sums, device=self.device, should_stop=should_stop)
        if (val := measure(self.val_windows)) is None or (train := measure(self.train_eval_windows)) is None:
            return None
        step = self.state.step
        return EvalRecord(
            step, step * self.config.tokens_per_step, val.loss, val.standard_error, train.loss, train.standard_error,
            now_ms(),
        )  # fmt: skip

    def optimizer_step(self) -> tuple[float, Tensor, Tensor, Tensor]:
        """One update: the rate used, the step's loss, the gradient norm before clipping, whether fp16 skipped it."""
        config, state = self.config, self.state
        rate = learning_rate(config, state.step + 1)
        state.optimizer.set_rate(rate)
        loss = torch.zeros((), device=self.device, dtype=widest_float(self.device))
        for k in range(config.gradient_accumulation_steps):
            loss += self._backward(state.step * config.gradient_accumulation_steps + k)
        grad_norm, skipped = self.update()
        state.optimizer.zero_grad()
        state.step += 1
        return rate, loss, grad_norm, skipped

    def _backward(self, index: int) -> Tensor:
        batch = micro_batch(self.train_windows, self.config.seed, index, self.config.batch_size).to(self.device)
        self.state.model.masks.reseed(self.config.seed, index)
        return self.add_gradients(batch.input_ids, batch.labels)

    def checkpoint_if_due(self) -> None:
        if self.workdir and time.monotonic() >= self.next_checkpoint:
            started = time.monotonic()
            self.checkpoint()
            cost = time.monotonic() - started
            self.next_checkpoint = time.monotonic() + max(self.checkpoint_seconds, cost / MAX_CHECKPOINT_SHARE)

    def checkpoint(self) -> None:
        if self.workdir:
            tensors, metadata = self.state.pack(with_moments=self.state.step < self.config.num_steps)
            self.on_checkpoint(save_state(self.workdir, self.state.step, tensors, metadata | self.stamp))

    def interrupt(self) -> Metrics:
        self.checkpoint()
        return self._metrics("INTERRUPTED", None)

    def finish(self, diverged_at: int | None) -> Metrics:
        if diverged_at is not None:
            return self._metrics("DIVERGED", diverged_at)
        self.checkpoint()  # a driver that dies before it has kept the result finds it again
        if self.workdir:
            save_model(self.workdir / "checkpoint", self.state.model, self.config, self.corpus.tokenizer)
        return self._metrics("COMPLETE", None)

    def _metrics(self, state: EndState, diverged_at: int | None) -> Metrics:
        return Metrics(
            state=state,
            num_parameters=sum(p.numel() for p in self.state.model.parameters()),
            vocab_size=self.corpus.vocab_size,
            steps=self.state.steps,
            evals=self.state.evals,
            weights_sha256=weights_sha256(self.state.model) if state == "COMPLETE" else None,
            diverged_at=diverged_at,
        )
