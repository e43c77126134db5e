"""Can a sweep beat nanoGPT's own CPU setting at the same tokens?

    python -m sweeps.run shakespeare_char --set data=PATH          # 3 runs; PATH: the Tiny Shakespeare text

The setting of nanoGPT's README for a CPU (4 layers, width 128, context 64, batch 12, 2000 steps), three seeds, measured
over the whole validation text. A sweep around it:

    python -m sweeps.run shakespeare_char --set data=PATH --sweep learning_rate=1e-3,2e-3,4e-3,8e-3

Found (three seeds): nanoGPT's setting ends at 1.8937 ± 0.0030 nats, 4e-3 at 1.7637 ± 0.0021; 8e-3 is worse again.
"""

from sweeps import Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(
        data="input.txt",
        tokenizer="char",
        max_seq_len=64,
        d_model=128,
        num_layers=4,
        num_heads=4,
        dropout=0.0,
        bias=False,
        tie_embeddings=True,
        learning_rate=1e-3,
        warmup_ratio=0.05,  # 100 of 2000 steps
        min_lr_ratio=0.1,
        weight_decay=0.1,
        beta2=0.99,
        batch_size=12,
        train_tokens=1_536_000,
        eval_tokens=None,
    ),
    space={},
    seeds=3,
)
