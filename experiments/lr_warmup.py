"""What happens without warmup?

python -m sweeps.run lr_warmup          # 32 runs, about 5 minutes on two cores

Found (three seeds, twice the tokens): nothing at 3e-4. At 1e-3 warmup 0.2 ends 0.032 ± 0.003 nats below none, at 3e-3
0.68 ± 0.02, and 3e-3 with warmup 0.2 is the best of all: warmup buys a larger rate. docs/findings.md has more.
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
