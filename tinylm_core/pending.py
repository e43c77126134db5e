"""Steps that wait to be reported together. Knows neither tensors nor who listens, so that any trainer may use it."""

import math
import time
from dataclasses import dataclass, field, replace

from tinylm_core.records import StepRecord

FLUSH_STEPS = 20
FLUSH_SECONDS = 1.0


@dataclass
class PendingSteps:
    """It holds the steps that were taken and not reported; the first that diverged and later ones it drops (law 11)."""

    tokens: int = 0  # trained on up to the last step that was added
    diverged_at: int | None = None
    _waiting: list[StepRecord] = field(default_factory=list)
    _flushed_tokens: int = field(init=False)
    _since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._flushed_tokens = self.tokens

    def add(self, record: StepRecord, *, diverged: bool) -> None:
        """Take in one step, which has `diverged` where its numbers are none any more."""
        self.tokens = max(self.tokens, record.tokens)
        if diverged and self.diverged_at is None:
            self.diverged_at = record.step
        if self.diverged_at is None:
            self._waiting.append(record)

    def is_due(self, num_elsewhere: int = 0) -> bool:
        """Say whether enough steps wait, with `num_elsewhere` that are still to be added, or a second is over."""
        waits_for = time.monotonic() - self._since
        return len(self._waiting) + num_elsewhere >= FLUSH_STEPS or waits_for >= FLUSH_SECONDS

    def restart_clock(self) -> None:
        """Leave what was not training out of the next tokens per second."""
        self._since = time.monotonic()

    def flush(self) -> list[StepRecord]:
        """Return the steps that wait; those without tokens per second get that of all steps since the last flush."""
        pace = (self.tokens - self._flushed_tokens) / max(time.monotonic() - self._since, 1e-9)
        flushed = [
            replace(record, tokens_per_second=pace) if math.isnan(record.tokens_per_second) else record
            for record in self._waiting
        ]
        self._waiting, self._flushed_tokens = [], self.tokens
        self.restart_clock()
        return flushed
