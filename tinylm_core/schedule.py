"""The learning rate as a pure function of the optimizer step (law 5). Knows no model and no optimizer."""

import math
from decimal import Decimal

from tinylm_core.config import RunConfig


def warmup_steps(config: RunConfig) -> int:
    """Optimizer steps of linear warmup: ceil(warmup_ratio * steps), in decimal so that 0.07 of 100 is 7 and not 8."""
    return share_of_steps(config.warmup_ratio, config.num_steps)


def share_of_steps(ratio: float, num_steps: int) -> int:
    """How many of the steps a ratio of them is, rounded up."""
    return math.ceil(Decimal(repr(ratio)) * num_steps)


def learning_rate(config: RunConfig, step: int) -> float:
    """The rate that optimizer step `step` (1 … num_steps) uses.

    Linear warmup reaches the peak at its last step (Goyal et al. 2017, arXiv 1706.02677, section 2.2). Then `cosine`
    (Loshchilov & Hutter 2017, arXiv 1608.03983, one cycle) and `linear` end at min_lr_ratio * peak; `wsd` stays at the
    peak and decays linearly over the last decay_ratio of the steps (Hu et al. 2024, arXiv 2404.06395, section 4).
    """
    num_steps, warmup, peak = config.num_steps, warmup_steps(config), config.learning_rate
    if not 1 <= step <= num_steps:
        raise ValueError(f"step={step} is not one of 1 … {num_steps}")
    if step <= warmup:
        return peak * step / warmup
    match config.schedule:
        case "constant":
            share = 1.0
        case "cosine":
            share = (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup))) / 2
        case "linear":
            share = 1 - (step - warmup) / (num_steps - warmup)
        case "wsd":
            start = max(warmup, num_steps - share_of_steps(config.decay_ratio, num_steps))
            share = 1.0 if step <= start else 1 - (step - start) / (num_steps - start)
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * share)
