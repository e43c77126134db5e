"""Learning rate, warmup, weight decay and accumulation together: what matters, and what depends on what?

python -m sweeps.run exercise          # 108 runs
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=128, train_tokens=327_680, eval_tokens=16_384),
    space={
        "learning_rate": Choice(1e-4, 3e-4, 1e-3),
        "warmup_ratio": Choice(0.05, 0.1, 0.2),
        "weight_decay": Choice(0.0, 0.01, 0.1),
        "gradient_accumulation_steps": Choice(1, 2, 4, 8),
    },
)
