"""How text becomes token IDs and IDs become text again: by character, by byte, or by byte-level BPE.

Knows nothing of files, corpora and training. A tokenizer is kept as JSON, never pickled. The
library of byte-level BPE is loaded where text is.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tokenizers

NUM_BYTES = 256


class UnknownCharacterError(ValueError):
    """A character that the tokenizer has no ID for, and its position, counted from 0."""

    def __init__(self, character: str, position: int) -> None:
        super().__init__(f"character {character!r} at position {position} is not in the tokenizer's vocabulary")
        self.character = character
        self.position = position


@dataclass(frozen=True)
class CharTokenizer:
    """One token a character (Unicode code point)."""

    alphabet: str  # ID i stands for alphabet[i]

    @property
    def vocab_size(self) -> int:
        """The number of characters known."""
        return len(self.alphabet)

    def encode(self, text: str) -> np.ndarray:
        """The IDs of the text's characters, shape [num_tokens]. UnknownCharacterError for one that has none."""
        return _joined(self.encode_chunks([text]), self.vocab_size)

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The IDs of the chunks' concatenation, in arrays; positions in errors count from the first chunk."""
        codes = _code_points(self.alphabet)
        id_of_code = np.full(int(codes.max(initial=0)) + 1, -1, dtype=np.int32)
        id_of_code[codes] = np.arange(len(codes))
        position = 0
        for chunk in chunks:
            codes = _code_points(chunk)
            ids = id_of_code[np.minimum(codes, len(id_of_code) - 1)]
            unknown = np.flatnonzero((ids < 0) | (codes >= len(id_of_code)))
            if len(unknown):
                first = int(unknown[0])
                raise UnknownCharacterError(chunk[first], position + first)
            position += len(chunk)
            yield ids.astype(token_dtype(self.vocab_size))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the IDs; one outside the vocabulary has none."""
        return "".join(self.alphabet[i] for i in _known(ids, self.vocab_size))

    def to_json(self) -> str:
        """What `tokenizer_from_json` reads."""
        return json.dumps({"kind": "char", "alphabet": self.alphabet})


@dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of the text's UTF-8."""

    @property
    def vocab_size(self) -> int:
        """256."""
        return NUM_BYTES

    def encode(self, text: str) -> np.ndarray:
        """The text's UTF-8 bytes, shape [num_tokens]. ValueError for a lone surrogate, which has none."""
        return _joined(self.encode_chunks([text]), self.vocab_size)

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The IDs of the chunks' concatenation, in arrays."""
        for chunk in chunks:
            yield np.frombuffer(chunk.encode(), dtype=np.uint8).astype(token_dtype(self.vocab_size))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the bytes, U+FFFD where they are no UTF-8; an ID outside the vocabulary has none."""
        return bytes(_known(ids, self.vocab_size)).decode(errors="replace")

    def to_json(self) -> str:
        """What `tokenizer_from_json` reads."""
        return json.dumps({"kind": "byte"})


@dataclass(frozen=True, eq=False)
class BpeTokenizer:
    """Byte-level byte-pair encoding (Radford et al. 2019, section 2.2), by Hugging Face; knows every text."""

    backend: "tokenizers.Tokenizer"

    @property
    def vocab_size(self) -> int:
        """The 256 bytes and the merges learned; fewer than were asked for where the text had no more."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """The text's IDs, shape [num_tokens]. ValueError for a lone surrogate, which has no UTF-8."""
        return _joined(self.encode_chunks([text]), self.vocab_size)

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """The IDs of the chunks' concatenation, in arrays: the same however the text is cut into chunks."""
        dtype = token_dtype(self.vocab_size)
        for pieces in _piece_lists(chunks):
            encodings = self.backend.encode_batch_fast(pieces, add_special_tokens=False)
            yield np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the IDs, U+FFFD where their bytes are no UTF-8; an ID outside the vocabulary has none."""
        return self.backend.decode(_known(ids, self.vocab_size), skip_special_tokens=False)

    def to_json(self) -> str:
        """The library's own `tokenizer.json`, which other programs read too."""
        return self.backend.to_str()


Tokenizer = CharTokenizer | ByteTokenizer | BpeTokenizer


def train_tokenizer(kind: str, chunks: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """A tokenizer of the kind (char, byte, bpe), made from a text that comes in chunks.

    `vocab_size` is the most tokens it may have; bpe needs it. ValueError where that is too few.
    """
    if kind == "bpe":
        assert vocab_size is not None
        _check_vocab_size(vocab_size, NUM_BYTES, "bpe starts from the 256 bytes")
        return _train_bpe(chunks, vocab_size)
    assert kind in ("char", "byte")
    tokenizer = ByteTokenizer() if kind == "byte" else CharTokenizer(_alphabet(chunks))
    if vocab_size is not None:
        what = "there are 256 bytes" if kind == "byte" else f"the text has {tokenizer.vocab_size} different characters"
        _check_vocab_size(vocab_size, tokenizer.vocab_size, what)
    return tokenizer


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave the text. ValueError for any other text."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    match content:
        case {"kind": "char", "alphabet": str(alphabet)} if len(set(alphabet)) == len(alphabet):
            return CharTokenizer(alphabet)
        case {"kind": "byte"}:
            return ByteTokenizer()
        case {"model": {"type": "BPE"}}:
            return _bpe_from_json(text)
    raise ValueError(f"not a tokenizer: {text[:60]!r}")


def token_dtype(vocab_size: int) -> type[np.uint16 | np.uint32]:
    """The type that token IDs are kept in: two bytes where the vocabulary allows it, else four."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def _joined(arrays: Iterable[np.ndarray], vocab_size: int) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=token_dtype(vocab_size)), *arrays])


def _known(ids: Iterable[int], vocab_size: int) -> list[int]:
    return [int(i) for i in ids if 0 <= i < vocab_size]


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _alphabet(chunks: Iterable[str]) -> str:
    seen = np.zeros(0x110000, dtype=bool)
    for chunk in chunks:
        seen[_code_points(chunk)] = True
    return "".join(map(chr, np.flatnonzero(seen)))


def _check_vocab_size(vocab_size: int, at_least: int, why: str) -> None:
    if vocab_size < at_least:
        raise ValueError(f"vocab_size={vocab_size}: at least {at_least}, as {why}")


# A line with the line ends behind it, so that a blank line can become one token. Bounded, so that a text without line
# ends is not held whole; the bound only moves where a longer line is cut.
_PIECE = re.compile(r"[^\n]{0,4096}\n{0,64}")


def _pieces(chunks: Iterable[str]) -> Iterator[str]:
    """The text cut where it always would be, however it arrives: a match that ends before the text does is final."""
    rest = ""
    for chunk in chunks:
        text = rest + chunk
        start = 0
        while (end := _end_of_piece(text, start)) < len(text):
            yield text[start:end]
            start = end
        rest = text[start:]
    if rest:
        yield rest


def _end_of_piece(text: str, start: int) -> int:
    match = _PIECE.match(text, start)
    assert match is not None
    return match.end()


def _piece_lists(chunks: Iterable[str]) -> Iterator[list[str]]:
    """Lists long enough to keep the library's threads busy, short enough to hold."""
    pieces = _pieces(chunks)
    while batch := list(islice(pieces, 2048)):
        for piece in batch:
            piece.encode()  # a lone surrogate is a ValueError here, a TypeError in the library
        yield batch


def _train_bpe(chunks: Iterable[str], vocab_size: int) -> BpeTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(_piece_lists(chunks), trainer)
    return BpeTokenizer(backend)


def _bpe_from_json(text: str) -> BpeTokenizer:
    from tokenizers import Tokenizer

    try:
        return BpeTokenizer(Tokenizer.from_str(text))
    except Exception as error:  # the library raises the class itself
        raise ValueError(f"not a tokenizer: {error}") from None
