"""What do larger effective batches do at equal tokens, the learning rate tuned again for each?

python -m sweeps.run accumulation          # 16 runs

Found (three seeds, twice the tokens): so early in training smaller is better. At equal tokens and each at its best
rate, 1, 2, 4 and 8 micro-batches a step end at 4.13, 4.38, 4.94 and 5.43 nats; the best rate is 3e-3 for 1 and 2, and
1e-3 for 4 and 8. docs/findings.md has more.
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=128, train_tokens=327_680, eval_tokens=16_384),
    space={
        "gradient_accumulation_steps": Choice(1, 2, 4, 8),
        "learning_rate": Choice(3e-4, 1e-3, 3e-3, 1e-2),
    },
)
