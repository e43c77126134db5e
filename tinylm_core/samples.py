"""What a trained model writes, kept beside its weights."""

import contextlib
from pathlib import Path

from tinylm_core.checkpoint import load_model, write_durably
from tinylm_core.generate import generate

NUM_SAMPLES = 2
NEW_TOKENS = 96


def write_samples(checkpoint: Path, to: Path) -> None:
    """A few samples at temperature 0.8 from a newline, or from token 0 where the corpus is IDs."""
    model, _, tokenizer = load_model(checkpoint)
    prompt = [0]
    if tokenizer is not None:
        with contextlib.suppress(ValueError):  # a corpus without a newline: any token will do
            prompt = [int(token) for token in tokenizer.encode("\n")]
    texts = []
    for seed in range(NUM_SAMPLES):
        ids = generate(model, prompt, max_new_tokens=NEW_TOKENS, temperature=0.8, seed=seed)
        texts.append(tokenizer.decode(ids) if tokenizer is not None else " ".join(map(str, ids)))
    write_durably(to, "\n\n--------\n\n".join(texts).encode())
