"""What a trained model writes: text after a prompt, and the samples kept beside its weights."""

import contextlib
from pathlib import Path

from tinylm_core.checkpoint import load_model
from tinylm_core.durable import write_durably
from tinylm_core.generate import generate, generate_batch
from tinylm_core.model import TinyGPT
from tinylm_core.tokenizer import Tokenizer

NUM_SAMPLES = 2
NEW_TOKENS = 96


def write_samples(checkpoint: Path, to: Path) -> None:
    """A few samples at temperature 0.8 from a newline, or from token 0 where the corpus is IDs."""
    model, _, tokenizer = load_model(checkpoint)
    sequences = generate_batch(
        model, first_tokens(tokenizer), list(range(NUM_SAMPLES)), max_new_tokens=NEW_TOKENS, temperature=0.8
    )
    texts = [tokenizer.decode(ids) if tokenizer is not None else " ".join(map(str, ids)) for ids in sequences]
    write_durably(to, "\n\n--------\n\n".join(texts).encode())


def first_tokens(tokenizer: Tokenizer | None) -> list[int]:
    """What a text starts with where nobody says it: a new line, or token 0 of a corpus without one, or of IDs."""
    if tokenizer is not None:
        with contextlib.suppress(ValueError):
            return [int(token) for token in tokenizer.encode("\n")]
    return [0]


def write_text(
    model: TinyGPT,
    tokenizer: Tokenizer | None,
    prompt: str | None = None,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> str:
    """The prompt and what the model writes after it, sampled as `generate` does.

    Without a tokenizer both are token IDs between blanks. None starts with `first_tokens`. ValueError where the prompt
    has no tokens of the model's.
    """
    try:
        if prompt is None:
            ids = first_tokens(tokenizer)
        else:
            ids = [int(token) for token in (tokenizer.encode(prompt) if tokenizer else prompt.split() or ["0"])]
    except ValueError as error:
        raise ValueError(f"prompt {prompt!r}: {error}") from None
    new = generate(
        model, ids, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    return tokenizer.decode(new) if tokenizer else " ".join(map(str, new))
