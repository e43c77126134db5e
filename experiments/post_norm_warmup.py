"""Does post-norm need warmup?

    python -m sweeps.run post_norm_warmup          # 32 runs

The same grid as lr_warmup, with the norm after each residual addition as in the first transformer.
"""

from dataclasses import replace

from experiments.lr_warmup import SWEEP as PRE_NORM

SWEEP = replace(PRE_NORM, base=PRE_NORM.base.replace({"norm_first": False}))
