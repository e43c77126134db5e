"""From the name of a corpus to arrays of token IDs: split, tokenized, cached by content, fingerprinted.

Everything streams, so that a corpus may be larger than memory. Knows nothing of training.

The cache holds folders, each named by a digest of all its content depends on: `sources` (texts that had to be written:
extracted, joined or downloaded), `surveys` (what reading a file once has found) and `tokens`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tinylm_core.cache import cached, default_cache_dir, is_whole
from tinylm_core.config import BPE_VOCAB_SIZE, RunConfig
from tinylm_core.readers import read_text, read_tokens
from tinylm_core.sources import find_source, stamp
from tinylm_core.tokenizer import Tokenizer, UnknownCharacterError, token_dtype, tokenizer_from_json, train_tokenizer


@dataclass(frozen=True, eq=False)
class Corpus:
    """A training and a validation part as token IDs, and what they come from."""

    train: np.ndarray  # [num_train_tokens], mapped read-only; uint16, or uint32 where vocab_size > 65,536
    val: np.ndarray  # [num_val_tokens], likewise
    vocab_size: int  # what the model needs: the config's, else the tokenizer's own
    tokenizer: Tokenizer | None  # None where the corpus already is token IDs
    fingerprint: str  # hex SHA-256 of the text's bytes, or of the token IDs as little-endian uint32
    text_path: Path | None  # one UTF-8 file with the whole text; None for token IDs and where val is a split of its own


@dataclass(frozen=True)
class _Part:
    """A stretch of a file, in characters, or in tokens of a file of IDs."""

    path: Path
    start: int
    stop: int

    def texts(self) -> Iterator[str]:
        return _between(read_text(self.path), self.start, self.stop)

    def tokens(self) -> Iterator[np.ndarray]:
        return _between(read_tokens(self.path), self.start, self.stop)


def load_corpus(config: RunConfig, *, cache_dir: Path | None = None) -> Corpus:
    """The corpus that `data`, `tokenizer`, `vocab_size` and `val_ratio` describe; from the cache where it is there.

    A corpus without a validation split of its own gives its last `val_ratio`, in characters (token IDs: in tokens),
    rounded up. The tokenizer is made from the training part alone. `cache_dir` is by default the environment's
    TINYLM_CACHE, else the user's cache directory. ValueError, in one line, for the user's mistakes; OSError for a full
    disk.
    """
    try:
        return _load(config, cache_dir or default_cache_dir())
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"data={config.data!r}: {reason}") from error


def _load(config: RunConfig, cache: Path) -> Corpus:
    ids = config.tokenizer == "ids"
    source = find_source(config.data, config.tokenizer, config.vocab_size)
    paths = source.paths
    if source.write is not None:
        written, _ = cached(cache / "sources", source.depends_on, source.write, by_size=True)
        names = ("train.txt", "train.npy", "val.txt")
        paths = tuple(written / name for name in names if (written / name).exists())

    before = stamp(paths)
    _, survey = cached(cache / "surveys", [before, ids], lambda _: _survey(paths, ids=ids))
    train, val = _split(paths, survey["sizes"], config.val_ratio)
    vocab_size = config.vocab_size
    if config.tokenizer == "bpe" and vocab_size is None:
        vocab_size = BPE_VOCAB_SIZE
    if ids:
        vocab_size = _vocab_size_of_ids(vocab_size, survey["max_id"])

    def write(folder: Path) -> dict[str, Any]:
        if source.write is not None and not is_whole(paths[0].parent):
            raise ValueError(f"its cached text is damaged; remove {paths[0].parent}")
        facts = _write_tokens(folder, train, val, config.tokenizer, vocab_size)
        # What is kept under a fingerprint must be what was fingerprinted.
        if stamp(paths) != before:
            raise ValueError("changed while it was read")
        return facts

    key = [survey["fingerprint"], config.tokenizer, vocab_size, repr(config.val_ratio), version("tokenizers")]
    tokens, facts = cached(cache / "tokens", key, write)
    dtype = token_dtype(facts["vocab_size"])
    return Corpus(
        train=np.memmap(tokens / "train.bin", dtype=dtype, mode="r"),
        val=np.memmap(tokens / "val.bin", dtype=dtype, mode="r"),
        vocab_size=facts["vocab_size"],
        tokenizer=None if ids else tokenizer_from_json((tokens / "tokenizer.json").read_text(encoding="utf-8")),
        fingerprint=survey["fingerprint"],
        text_path=None if ids or len(paths) > 1 else paths[0],
    )


def _survey(paths: tuple[Path, ...], *, ids: bool) -> dict[str, Any]:
    """Read each file once: its size in characters or tokens, the digest of the content, the largest token ID."""
    sizes, digests, max_id = [], [], 0
    for path in paths:
        size, digest = 0, hashlib.sha256()
        if ids:
            for tokens in read_tokens(path):
                size += len(tokens)
                digest.update(tokens.astype("<u4").tobytes())
                max_id = max(max_id, int(tokens.max(initial=0)))
        else:
            for text in read_text(path):
                size += len(text)
                digest.update(text.encode())
        sizes.append(size)
        digests.append(digest.hexdigest())
    fingerprint = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return {"sizes": sizes, "fingerprint": fingerprint, "max_id": max_id}


def _split(paths: tuple[Path, ...], sizes: list[int], val_ratio: float) -> tuple[_Part, _Part]:
    if not any(sizes):
        raise ValueError("is empty")
    if len(paths) == 2:
        train, val = (_Part(path, 0, size) for path, size in zip(paths, sizes, strict=True))
    else:
        # Exact decimals: in binary, ten characters of a hundred would be nine where 1 - 0.9 is a little less than 0.1.
        end = int(sizes[0] * (1 - Fraction(repr(val_ratio))))
        train, val = _Part(paths[0], 0, end), _Part(paths[0], end, sizes[0])
    for name, part in [("training", train), ("validation", val)]:
        if part.start == part.stop:
            raise ValueError(f"is too short: with val_ratio={val_ratio} its {name} part is empty")
    return train, val


def _vocab_size_of_ids(vocab_size: int | None, max_id: int) -> int:
    if vocab_size is not None and max_id >= vocab_size:
        raise ValueError(f"has token ID {max_id}, and vocab_size={vocab_size} allows IDs below that")
    return vocab_size or max_id + 1


def _write_tokens(folder: Path, train: _Part, val: _Part, kind: str, vocab_size: int | None) -> dict[str, Any]:
    """Make the tokenizer, write it and the tokens of both parts; the facts are the vocabulary's size."""
    if kind == "ids":
        assert vocab_size is not None
        arrays = {"train.bin": train.tokens(), "val.bin": val.tokens()}
    else:
        tokenizer = train_tokenizer(kind, train.texts(), vocab_size)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        vocab_size = vocab_size or tokenizer.vocab_size
        arrays = {"train.bin": tokenizer.encode_chunks(train.texts()), "val.bin": tokenizer.encode_chunks(val.texts())}
    dtype = token_dtype(vocab_size)
    for name, chunks in arrays.items():
        with (folder / name).open("wb") as file:
            try:
                for chunk in chunks:
                    file.write(chunk.astype(dtype).tobytes())
            except UnknownCharacterError as error:
                raise ValueError(
                    f"the validation part has the character {error.character!r} at position "
                    f"{val.start + error.position}, and the training part never; set tokenizer=byte or bpe"
                ) from None
    return {"vocab_size": vocab_size}


def _between(chunks: Iterable[Any], start: int, stop: int) -> Iterator[Any]:
    """Elements start … stop of the chunks' concatenation."""
    position = 0
    for chunk in chunks:
        if position >= stop:
            return
        part = chunk[max(0, start - position) : stop - position]
        position += len(chunk)
        if len(part):
            yield part
