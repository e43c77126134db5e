"""Does it work here?

python -m sweeps.run smoke          # 4 runs, at most 20 seconds
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(d_model=64, num_layers=2, max_seq_len=64, train_tokens=32_768, num_evals=4, eval_tokens=8_192),
    space={"learning_rate": Choice(1e-3, 3e-3), "gradient_accumulation_steps": Choice(1, 2)},
)
