"""How the files of a corpus are read, in chunks: UTF-8 text, and token IDs written out, as uint16 or as .npy."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAX_VOCAB_SIZE = 2**24  # of RunConfig.vocab_size
CHUNK_BYTES = 2**18


def read_text(path: Path) -> Iterator[str]:
    """The file's text in chunks. ValueError with the position of the first byte that is no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    for chunk, final in _bytes_and_end(path):
        start = position - len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {start + error.start}") from None
        position += len(chunk)


def read_tokens(path: Path) -> Iterator[np.ndarray]:
    """The file's token IDs in chunks. ValueError for what is no ID, with the place."""
    read = {".bin": _read_bin, ".npy": _read_npy}.get(path.suffix.lower(), _read_written_ids)
    position = 0
    for ids in read(path):
        wrong = np.flatnonzero((ids < 0) | (ids >= MAX_VOCAB_SIZE))
        if len(wrong):
            token, place = int(ids[wrong[0]]), position + int(wrong[0])
            raise ValueError(f"{path} has {token} at position {place}; a token ID is from 0 to {MAX_VOCAB_SIZE - 1}")
        position += len(ids)
        yield ids


def _bytes(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None


def _bytes_and_end(path: Path) -> Iterator[tuple[bytes, bool]]:
    for chunk in _bytes(path):
        yield chunk, False
    yield b"", True


def _read_bin(path: Path) -> Iterator[np.ndarray]:
    for chunk in _bytes(path):
        if len(chunk) % 2:
            raise ValueError(f"{path} has an odd number of bytes; a .bin file holds uint16")
        yield np.frombuffer(chunk, dtype="<u2")


def _read_npy(path: Path) -> Iterator[np.ndarray]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no readable .npy file: {error}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; needed are integers in one dimension")
    for start in range(0, len(array), CHUNK_BYTES):
        yield np.array(array[start : start + CHUNK_BYTES])


def _read_written_ids(path: Path) -> Iterator[np.ndarray]:
    """Whitespace-separated numbers; the end of a chunk may be half a number and waits for the next."""
    rest = b""
    line = 1
    for chunk, final in _bytes_and_end(path):
        block = rest + chunk
        end = len(block) if final else _after_last_space(block)
        block, rest = block[:end], block[end:]
        pieces = block.split()
        if not all(map(_is_id, pieces)):
            wrong = next(match for match in re.finditer(rb"\S+", block) if not _is_id(match[0]))
            piece = wrong[0][:40].decode(errors="replace")
            line += block.count(b"\n", 0, wrong.start())
            raise ValueError(f"{path} has {piece!r} in line {line}, which is no token ID")
        line += block.count(b"\n")
        yield np.array(list(map(int, pieces)), dtype=np.int64)


def _is_id(piece: bytes) -> bool:
    return piece.isdigit() and len(piece) <= 18  # 18 digits fit an int64


def _after_last_space(block: bytes) -> int:
    """Where the last whole number of a block ends; the whole of a block that is no list of numbers at all."""
    end = len(block) - len(re.search(rb"\S{0,64}\Z", block)[0])  # type: ignore[index]
    return end or len(block)
