"""How fast a config trains here, by training a little. For plans; knows nothing of sweeps."""

import time

import torch

from tinylm_core.config import RunConfig
from tinylm_core.corpus import Corpus
from tinylm_core.determinism import reproducible
from tinylm_core.train import TrainingLoop

MOST_STEPS = 5
MOST_SECONDS = 1.0


def tokens_per_second(config: RunConfig, corpus: Corpus, device: str, threads: int) -> float:
    """Training tokens a second of one run, from up to five steps or about a second.

    The first step doesn't count, nor a GPU's second, in which its graphs are captured; of a run with no more all count.
    """
    warm_steps = 1 if device == "cpu" else 2
    steps = min(warm_steps + MOST_STEPS, config.num_steps)
    with reproducible(device, threads, compiles=config.compile is True):
        loop = TrainingLoop(config, corpus, device, None, checkpoint_seconds=0)
        tokens = 0
        started = time.perf_counter()
        for step in range(1, steps + 1):
            _, loss, _, _ = loop.optimizer_step()
            if device != "cpu":
                torch.isfinite(loss).item()  # wait for the device
            tokens += config.tokens_per_step
            if step <= warm_steps < steps:
                tokens, started = 0, time.perf_counter()
            elif time.perf_counter() - started > MOST_SECONDS:
                break
        return tokens / max(time.perf_counter() - started, 1e-9)
