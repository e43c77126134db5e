"""Steps that wait to be reported together. Knows neither tensors nor who listens, so that any trainer may use it."""

import math
import time
from dataclasses import dataclass, field, replace

from tinylm_core.records import StepRecord

FLUSH_STEPS = 20
FLUSH_SECONDS = 1.0


@dataclass
class PendingSteps:
    """Steps taken but not reported yet, up to the first that diverged: that one and later ones are dropped (law 11)."""

    tokens: int = 0  # trained on up to the last step that was added
    diverged_at: int | None = None
    _waiting: list[StepRecord] = field(default_factory=list)
    _flushed_tokens: int = field(init=False)
    _since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._flushed_tokens = self.tokens

    def add(self, record: StepRecord, *, diverged: bool) -> None:
        """One step more, and whether it is one whose numbers are none any more."""
        self.tokens = max(self.tokens, record.tokens)
        if diverged and self.diverged_at is None:
            self.diverged_at = record.step
        if self.diverged_at is None:
            self._waiting.append(record)

    def is_due(self, num_elsewhere: int = 0) -> bool:
        """Whether enough steps wait, those that were not added yet included, or any wait long enough."""
        waits_for = time.monotonic() - self._since
        return len(self._waiting) + num_elsewhere >= FLUSH_STEPS or waits_for >= FLUSH_SECONDS

    def restart_clock(self) -> None:
        """Leave what was not training out of the next tokens per second."""
        self._since = time.monotonic()

    def flush(self) -> list[StepRecord]:
        """The steps that wait; those that say no tokens per second have that of all that were added since the last."""
        pace = (self.tokens - self._flushed_tokens) / max(time.monotonic() - self._since, 1e-9)
        flushed = [
            replace(record, tokens_per_second=pace) if math.isnan(record.tokens_per_second) else record
            for record in self._waiting
        ]
        self._waiting, self._flushed_tokens = [], self.tokens
        self.restart_clock()
        return flushed
