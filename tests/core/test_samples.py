"""What a trained model writes beside its weights: the same each time, for text and for token IDs."""

from pathlib import Path

import pytest
import torch

from tinylm_core.checkpoint import save_model
from tinylm_core.config import RunConfig
from tinylm_core.model import TinyGPT
from tinylm_core.samples import NEW_TOKENS, NUM_SAMPLES, write_samples, write_text
from tinylm_core.tokenizer import Tokenizer, train_tokenizer


def samples(folder: Path, tokenizer: Tokenizer | None, vocab_size: int) -> list[str]:
    torch.manual_seed(0)
    config = RunConfig(max_seq_len=8, d_model=12, num_layers=1, num_heads=2)
    save_model(folder, TinyGPT(config, vocab_size), config, tokenizer)
    texts = []
    for attempt in range(2):
        write_samples(folder, folder / f"samples-{attempt}.txt")
        texts.append((folder / f"samples-{attempt}.txt").read_text())
    assert texts[0] == texts[1]
    return texts[0].split("\n\n--------\n\n")


def test_text_starts_at_a_newline(tmp_path: Path) -> None:
    texts = samples(tmp_path, train_tokenizer("char", ["abc\ndef\n"], None), 7)
    assert len(texts) == NUM_SAMPLES
    assert all(text[0] == "\n" and len(text) == NEW_TOKENS + 1 and set(text) <= set("abcdef\n") for text in texts)


def test_a_corpus_without_newlines_starts_at_any_token(tmp_path: Path) -> None:
    texts = samples(tmp_path, train_tokenizer("char", ["abcdef"], None), 6)
    assert all(len(text) == NEW_TOKENS + 1 and set(text) <= set("abcdef") for text in texts)


def test_token_ids_are_written_as_numbers(tmp_path: Path) -> None:
    texts = samples(tmp_path, None, 5)
    assert all([int(token) < 5 for token in text.split()] == [True] * (NEW_TOKENS + 1) for text in texts)


@pytest.mark.parametrize("tokenizer", [train_tokenizer("char", ["abcdef"], None), None])
def test_a_text_can_be_written_without_a_prompt(tokenizer: Tokenizer | None) -> None:
    """Of a corpus that has no new line, and of one that is IDs."""
    torch.manual_seed(0)
    model = TinyGPT(RunConfig(max_seq_len=8, d_model=12, num_layers=1, num_heads=2), 6)
    text = write_text(model, tokenizer, max_new_tokens=5)
    assert len(text.split() if tokenizer is None else text) == 6
