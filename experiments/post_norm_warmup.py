"""Does post-norm need warmup?

    python -m sweeps.run post_norm_warmup          # 32 runs

Found (three seeds, twice the tokens): yes, at a large rate. At 3e-3 all seeds train only with warmup 0.2, and then it
is the best setting of all (3.839 nats, pre-norm's best has 4.100); with 0 and 0.05 one and two seeds of three stay
above 5.7.

The same grid as lr_warmup, with the norm after each residual addition as in the first transformer.
"""

from dataclasses import replace

from experiments.lr_warmup import SWEEP as PRE_NORM

SWEEP = replace(PRE_NORM, base=PRE_NORM.base.replace({"norm_first": False}))
