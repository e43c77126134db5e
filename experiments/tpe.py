"""What is the best setting that 24 trials can find?

python -m sweeps.run tpe          # 24 runs
"""

from sweeps import Choice, Range, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=128, train_tokens=327_680, eval_tokens=16_384),
    space={
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "warmup_ratio": Range(0.0, 0.3),
        "weight_decay": Range(1e-3, 0.3, log=True),
        "gradient_accumulation_steps": Choice(1, 2, 4, 8),
    },
    search="tpe",
    num_trials=24,
)
