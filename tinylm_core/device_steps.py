"""Steps whose numbers wait on the device until they are reported, so that a GPU isn't waited for at each."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinylm_core.pending import PendingSteps
from tinylm_core.records import StepRecord, now_ms


@dataclass
class DeviceSteps:
    """It holds the steps after step `step`: their tensors stay where they are until `flush` reads them, all at once."""

    step: int
    tokens_per_step: int
    _rows: list[tuple[float, Tensor, Tensor, Tensor, int]] = field(default_factory=list)
    _pending: PendingSteps = field(init=False)

    def __post_init__(self) -> None:
        self._pending = PendingSteps(self.step * self.tokens_per_step)

    def add(self, rate: float, loss: Tensor, grad_norm: Tensor, skipped: Tensor) -> None:
        """Take in one step, which is over, or on its way, now."""
        self._rows.append((rate, loss, grad_norm, skipped, now_ms()))

    def is_due(self) -> bool:
        """Say whether it is time to read them, without asking the device for anything."""
        return self._pending.is_due(len(self._rows))

    def restart_clock(self) -> None:
        """Leave what was not training out of the next tokens per second."""
        self._pending.restart_clock()

    def flush(self) -> tuple[list[StepRecord], int | None]:
        """Return the records up to the first that diverged, and that step: its loss or gradient norm isn't finite.

        An overflow that fp16 scaling skipped is no divergence.
        """
        rates, *tensors, timestamps = zip(*self._rows, strict=True)
        losses, grad_norms, skips = (torch.stack(values).tolist() for values in tensors)
        for rate, loss, grad_norm, skipped, timestamp in zip(rates, losses, grad_norms, skips, timestamps, strict=True):
            self.step += 1
            tokens = self.step * self.tokens_per_step
            record = StepRecord(self.step, tokens, loss, rate, grad_norm, skipped=bool(skipped), timestamp_ms=timestamp)
            is_finite = math.isfinite(loss) and (math.isfinite(grad_norm) or record.skipped)
            self._pending.add(record, diverged=not is_finite)
        self._rows.clear()
        return self._pending.flush(), self._pending.diverged_at
