"""Learning rate, warmup, weight decay and accumulation together: what matters, and what depends on what?

python -m sweeps.run exercise          # 108 runs, about 6 minutes on two cores
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=64, batch_size=4, train_tokens=131_072, num_evals=4, eval_tokens=8_192),
    space={
        "learning_rate": Choice(1e-4, 3e-4, 1e-3),
        "warmup_ratio": Choice(0.05, 0.1, 0.2),
        "weight_decay": Choice(0.0, 0.01, 0.1),
        "gradient_accumulation_steps": Choice(1, 2, 4, 8),
    },
)
