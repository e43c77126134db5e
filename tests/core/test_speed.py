"""How fast a config trains, as a plan is told."""

import time
from collections.abc import Callable

import pytest

from tinylm_core import RunConfig
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.machine import this_machine
from tinylm_core.speed import tokens_per_second
from tinylm_core.train import TrainingLoop


@pytest.mark.parametrize("num_steps", [1, 2, 12])
def test_the_pace_is_that_of_a_run_however_short(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, num_steps: int
) -> None:
    """A step that takes 0.02 s, and the first ten times as long where there are others."""
    config = resolve(tiny(train_tokens=64 * num_steps, num_evals=1), this_machine("cpu"))
    took: list[float] = []
    step = TrainingLoop.optimizer_step

    def slow(self: TrainingLoop) -> object:
        time.sleep(0.2 if num_steps > 1 and not took else 0.02)
        took.append(1)
        return step(self)

    monkeypatch.setattr(TrainingLoop, "optimizer_step", slow)
    pace = tokens_per_second(config, load_corpus(config), "cpu", threads=1)
    assert 64 / 0.2 < pace < 64 / 0.02
    assert len(took) == min(num_steps, 6)
