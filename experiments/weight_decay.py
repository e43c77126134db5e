"""How does weight decay affect generalization?

    python -m sweeps.run weight_decay          # 3 runs, about 2 minutes on two cores

Found (one seed, preliminary): all three overfit from half of the tokens on. The gap shrinks from 1.95 nats without
decay to 1.88 with 0.1, and validation loss from 4.63 to 4.60, which one seed can't tell from noise.

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
