"""How does the learning rate affect convergence speed?

    python -m sweeps.run learning_rate          # 5 runs, about 3 minutes on two cores

Found (three seeds): 3e-3 needs 92 thousand tokens for the loss that 1e-4 has after 706 thousand, an eighth; 1e-3 needs
120 thousand. At 1e-2 convergence is slower again (235 thousand) and ends 0.8 nats higher. docs/findings.md has more.

The report's "tokens to" column answers it: tokens until the worst setting's final loss.
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=128, train_tokens=786_432, eval_tokens=16_384),
    space={"learning_rate": Choice(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
)
