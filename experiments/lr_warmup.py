"""What happens without warmup?

python -m sweeps.run lr_warmup          # 32 runs, about 5 minutes on two cores

Found (two seeds, preliminary): nothing at small rates. At 1e-3, the best rate, warmup 0.2 ends 0.09 nats below no
warmup (4.68 against 4.77), which two seeds can't tell apart; at 3e-3 it ends 0.42 nats below (4.74 against 5.17).
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=128, train_tokens=327_680, eval_tokens=16_384),
    space={
        "learning_rate": Choice(1e-4, 3e-4, 1e-3, 3e-3),
        "warmup_ratio": Choice(0.0, 0.05, 0.1, 0.2),
    },
    search="grid",
    seeds=2,
)
