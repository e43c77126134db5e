"""Steps that have not been told yet: a GPU is not synchronised at each."""

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinylm_core.config import RunConfig
from tinylm_core.records import StepRecord, now_ms

FLUSH_STEPS = 20


FLUSH_SECONDS = 1.0


@dataclass
class Pending:
    """Steps taken but not yet told: their tensors stay on the device until `flush`, so that a GPU isn't waited for."""

    config: RunConfig
    step: int
    _rows: list[tuple[float, Tensor, Tensor, Tensor, int]] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def add(self, rate: float, loss: Tensor, grad_norm: Tensor, skipped: Tensor) -> None:
        self._rows.append((rate, loss, grad_norm, skipped, now_ms()))

    def is_due(self) -> bool:
        return len(self._rows) >= FLUSH_STEPS or time.monotonic() - self._since >= FLUSH_SECONDS

    def restart_clock(self) -> None:
        """Leave what was not training out of the next tokens per second."""
        self._since = time.monotonic()

    def flush(self) -> tuple[list[StepRecord], int | None]:
        """The records up to the first that diverged, and that step: the first loss or gradient norm that isn't finite.

        An overflow that fp16 scaling skipped is no divergence.
        """
        rates, *tensors, timestamps = zip(*self._rows, strict=True)
        losses, grad_norms, skips = (torch.stack(values).tolist() for values in tensors)
        elapsed = max(time.monotonic() - self._since, 1e-9)
        tokens_per_second = len(self._rows) * self.config.tokens_per_step / elapsed
        records: list[StepRecord] = []
        diverged_at = None
        for rate, loss, grad_norm, skipped, timestamp in zip(rates, losses, grad_norms, skips, timestamps, strict=True):
            step = self.step + len(records) + 1
            if not math.isfinite(loss) or not (math.isfinite(grad_norm) or skipped):
                diverged_at = step
                break
            tokens = step * self.config.tokens_per_step
            records.append(StepRecord(step, tokens, loss, rate, grad_norm, tokens_per_second, bool(skipped), timestamp))
        self.step += len(records)
        self._rows.clear()
        self.restart_clock()
        return records, diverged_at
