"""Which learning rate writes the best stories?

    pip install '.[hub]'
    python -m sweeps.run tinystories          # 3 runs; downloads the TinyStories dataset (about 1 GB) once

Then `python -m sweeps.sample RUN_ID --prompt "Once upon a time"`.
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(
        data="hf:roneneldan/TinyStories",  # has a validation split of its own (Eldan & Li 2023, arXiv 2305.07759)
        vocab_size=4096,
        max_seq_len=256,
        dropout=0.0,
        train_tokens=16_777_216,
    ),
    space={"learning_rate": Choice(3e-4, 1e-3, 3e-3)},
)
