"""A trainer of the user's own at work: what it reports and returns, held to what a run promises. Knows no worker."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

from sweeps.spec.config_type import loaded
from sweeps.spec.sweep import Sweep
from tinylm_core.pending import PendingSteps
from tinylm_core.records import EndState, EvalRecord, Metrics, StepRecord

Record = TypeVar("Record", StepRecord, EvalRecord, Metrics)


def train(
    sweep: Sweep,
    config_json: str,
    *,
    on_steps: Callable[[list[StepRecord]], None],
    on_eval: Callable[[EvalRecord], None],
    should_stop: Callable[[], bool],
    **where: Any,
) -> Metrics:
    """What the sweep's own `run` makes of a config, held to what a run promises.

    A loss that is not finite ends it as DIVERGED, and nothing of that step or later is kept (law 11). `steps` and
    `evals` of the metrics are what it reported. TypeError, ValueError where it breaks its promise.
    """
    assert sweep.run is not None
    config = loaded(type(sweep.base), json.loads(config_json))
    guard = ContractGuard(on_steps, on_eval, should_stop, config.num_steps, config.tokens_per_step)
    metrics = sweep.run(
        config, on_steps=guard.steps_taken, on_eval=guard.evaluated, should_stop=guard.should_stop, **where
    )
    if not isinstance(metrics, Metrics):
        raise TypeError(f"run returned {type(metrics).__name__}, not Metrics")
    if metrics.state not in get_args(EndState):
        raise ValueError(f"run returned state={metrics.state!r}, which is not one of {', '.join(get_args(EndState))}")
    metrics = with_plain_numbers(metrics)
    if metrics.vocab_size < 2:
        raise ValueError(f"run returned vocab_size={metrics.vocab_size}: a prediction chooses among 2 at least")
    guard.flush()
    if guard.diverged_at is not None:
        metrics = replace(metrics, state="DIVERGED", diverged_at=guard.diverged_at, weights_sha256=None)
    if metrics.state == "COMPLETE":
        guard.check_complete()
    return replace(metrics, steps=guard.steps, evals=guard.evals)


@dataclass
class ContractGuard:
    """Between a trainer and who listens: holds what is reported to the contract, up to where its loss is no number.

    What a trainer reports must be what its config says, or settings would be compared at budgets that they did not have
    (law 4). It may report step by step; steps are passed on together, as those of our own trainer are.
    """

    on_steps: Callable[[list[StepRecord]], None]
    on_eval: Callable[[EvalRecord], None]
    asked_to_stop: Callable[[], bool]
    num_steps: int  # of the whole run, as its config has it
    tokens_per_step: int
    steps: list[StepRecord] = field(default_factory=list)  # passed on
    evals: list[EvalRecord] = field(default_factory=list)
    _last_step: int = 0  # of those that are kept, passed on or not
    _pending: PendingSteps = field(default_factory=PendingSteps)

    @property
    def diverged_at(self) -> int | None:
        """The first step whose loss is not finite, by itself or as it was evaluated; None of a run that goes on."""
        return self._pending.diverged_at

    def steps_taken(self, records: Iterable[StepRecord]) -> None:
        """`on_steps` of the trainer. TypeError, ValueError for what are no steps in their order."""
        if isinstance(records, StepRecord | str) or not isinstance(records, Iterable):
            raise TypeError(f"on_steps takes a list of StepRecord, not a {type(records).__name__}")
        for record in records:
            if not isinstance(record, StepRecord):
                raise TypeError(f"on_steps takes a list of StepRecord, not of {type(record).__name__}")
            record = with_plain_numbers(record)
            if self.diverged_at is None and record.step != self._last_step + 1:
                why = "" if record.step > 0 else "; steps count from 1"
                raise ValueError(f"on_steps was told step {record.step} after step {self._last_step}{why}")
            self._check_budget("on_steps", record)
            self._pending.add(record, diverged=not math.isfinite(record.loss))
            if self.diverged_at is None:
                self._last_step = record.step
        if self._pending.is_due():
            self.flush()

    def evaluated(self, record: EvalRecord) -> None:
        """`on_eval` of the trainer. TypeError, ValueError as `steps_taken`."""
        self.flush()
        if self.diverged_at is not None:
            return
        if not isinstance(record, EvalRecord):
            raise TypeError(f"on_eval takes an EvalRecord, not {type(record).__name__}")
        record = with_plain_numbers(record)
        if self.evals and record.step <= self.evals[-1].step:
            raise ValueError(f"on_eval was told step {record.step} after step {self.evals[-1].step}")
        self._check_budget("on_eval", record)
        if not math.isfinite(record.val_loss + record.train_loss):
            self._pending.diverged_at = record.step
            return
        self.evals.append(record)
        self.on_eval(record)
        self._pending.restart_clock()

    def should_stop(self) -> bool:
        """`should_stop` of the trainer: also where going on can change nothing any more."""
        return self.diverged_at is not None or self.asked_to_stop()

    def flush(self) -> None:
        """Pass on the steps that wait."""
        if records := self._pending.flush():
            self.steps += records
            self.on_steps(records)

    def check_complete(self) -> None:
        """ValueError where a run that says it is complete was not evaluated after its last step."""
        last = self.evals[-1].step if self.evals else None
        if last != self.num_steps:
            said = "none" if last is None else f"the last at step {last}"
            raise ValueError(
                f"run is complete, and its objective would be an evaluation (on_eval) after step {self.num_steps}, "
                f"config.num_steps: it has told {said}"
            )

    def _check_budget(self, listener: str, record: StepRecord | EvalRecord) -> None:
        if record.step > self.num_steps:
            raise ValueError(f"{listener} was told step {record.step}, and the config says num_steps={self.num_steps}")
        tokens = record.step * self.tokens_per_step
        if record.tokens != tokens:
            raise ValueError(
                f"{listener} was told {record.tokens:,} tokens up to step {record.step}, and the config says "
                f"tokens_per_step={self.tokens_per_step}, which makes {tokens:,}"
            )


def with_plain_numbers(record: Record) -> Record:
    """The record with numbers of Python's own in place of a library's, such as a tensor. TypeError names the field."""
    plain: dict[str, object] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if one.type not in (int, float) or type(value) is one.type:
            continue
        try:
            plain[one.name] = one.type(value)
        except (TypeError, ValueError, RuntimeError):
            what = f"{type(record).__name__}.{one.name}={value!r}"
            raise TypeError(f"{what} is not a {'whole ' * (one.type is int)}number") from None
    return replace(record, **plain)  # type: ignore[arg-type]  # of the fields' own types
