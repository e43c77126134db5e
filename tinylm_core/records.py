"""What a run says of itself while it trains and when it ends. Plain data; knows nobody who listens."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal

EndState = Literal["COMPLETE", "DIVERGED", "INTERRUPTED"]
RESULTS = ("COMPLETE", "DIVERGED")  # states of a run that ended with an objective


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step. `loss` is nats per token over the step's tokens, with dropout. NaN: not measured."""

    step: int  # 1 … num_steps
    tokens: int  # trained on so far, this step included
    loss: float
    learning_rate: float  # the rate this step used
    grad_norm: float = math.nan  # before clipping
    tokens_per_second: float = math.nan
    skipped: bool = False  # fp16 loss scaling found an overflow and left the weights alone
    timestamp_ms: int = field(default_factory=now_ms)  # Unix time, stamped once


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One evaluation: both losses by the same routine, dropout off, in nats per token."""

    step: int  # 0 is before the first update
    tokens: int
    val_loss: float
    val_loss_standard_error: float
    train_loss: float
    train_loss_standard_error: float
    timestamp_ms: int = field(default_factory=now_ms)

    @property
    def gap(self) -> float:
        """Validation loss minus train loss, in nats per token."""
        return self.val_loss - self.train_loss

    @property
    def val_perplexity(self) -> float:
        """exp(validation loss); infinite where that overflows."""
        return math.exp(self.val_loss) if self.val_loss < 700 else math.inf


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One look at the process that trains. Those of a GPU are None where there is none, or nothing that tells."""

    timestamp_ms: int  # Unix time
    cpu_percent: float  # since the look before; 100 is one core
    memory_megabytes: float  # resident
    memory_percent: float  # of the machine's
    gpu_memory_megabytes: float | None = None  # that PyTorch holds for this process
    gpu_memory_percent: float | None = None
    gpu_utilization_percent: float | None = None  # of the whole GPU, whoever uses it
    gpu_power_watts: float | None = None  # of the whole GPU


@dataclass(frozen=True)
class Metrics:
    """What a run ends with. `steps` and `evals` hold its whole history, also after a resume."""

    state: EndState
    num_parameters: int
    vocab_size: int  # what a prediction chooses among: ln of it is the loss of knowing nothing
    steps: list[StepRecord] = field(default_factory=list, repr=False)
    evals: list[EvalRecord] = field(default_factory=list, repr=False)
    weights_sha256: str | None = None  # over the tensors' bytes in name order; None unless complete
    diverged_at: int | None = None  # the step whose loss or gradient norm was not finite

    @property
    def final(self) -> EvalRecord:
        """The last evaluation; IndexError before the first."""
        return self.evals[-1]

    @property
    def best(self) -> EvalRecord:
        """The first evaluation with the lowest validation loss; ValueError before any."""
        return min(self.evals, key=lambda record: record.val_loss)

    @property
    def objective(self) -> float:
        """Final validation loss, at most ln(vocabulary size), which a diverged run has."""
        worst = math.log(self.vocab_size)
        return worst if self.state == "DIVERGED" else min(self.final.val_loss, worst)
