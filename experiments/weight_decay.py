"""How does weight decay affect generalization?

    python -m sweeps.run weight_decay          # 3 runs

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
