"""What `data` names: a built-in corpus, files, or a dataset of the Hugging Face Hub; and how their files are read.

Everything streams: no function here holds a corpus. Knows nothing of splits, tokenizers and caches.
`datasets` and pyarrow, which only some of them need, are loaded then.
"""

import hashlib
import os
import platform
import stat
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tinylm_core.durable import is_disk_full
from tinylm_core.python_docs import python_docs
from tinylm_core.readers import read_text

RANDOM_TOKENS = 1_048_576
RANDOM_VOCAB_SIZE = 256
VAL_SPLITS = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class Source:
    """The files of a corpus: the whole, or its training and its validation part.

    Either they are there (`paths`), or `write` makes train.txt or train.npy, and val.txt for a part of its own, in a
    folder; what it writes depends on `depends_on` alone (JSON).
    """

    paths: tuple[Path, ...] = ()
    write: Callable[[Path], None] | None = None
    depends_on: object = None


def find_source(data: str, tokenizer: str, vocab_size: int | None) -> Source:
    """Where the corpus named `data` comes from, without reading it. ValueError where there is none, or of another kind.

    A folder's text is that of its regular files in the order of their relative paths, hidden ones left out, with two
    line ends between one file and the next. A dataset of the Hub is read once and then kept: a new version of it is
    seen only under another `@revision`.
    """
    ids = tokenizer == "ids"
    if data == "random":
        _check_kind(is_ids=True, tokenizer=tokenizer)
        num_ids = vocab_size or RANDOM_VOCAB_SIZE
        return Source(write=partial(_write_random, num_ids), depends_on=["random", num_ids])
    if data == "python-docs":
        _check_kind(is_ids=False, tokenizer=tokenizer)
        library = Path(sysconfig.get_path("stdlib"))
        version = [platform.python_implementation(), platform.python_version()]
        changed = library.stat().st_mtime_ns
        return Source(write=partial(_write_python_docs, library), depends_on=[data, *version, str(library), changed])
    if data.startswith("hf:"):
        _check_kind(is_ids=False, tokenizer=tokenizer)
        return _find_dataset(data.removeprefix("hf:"))

    path, is_folder = _existing(data)
    if not is_folder:
        if path.suffix.lower() in (".bin", ".npy"):
            _check_kind(is_ids=True, tokenizer=tokenizer)
        return Source(paths=(path,))
    parts = (path / "train.bin", path / "val.bin")
    if all(part.is_file() for part in parts):
        _check_kind(is_ids=True, tokenizer=tokenizer)
        return Source(paths=parts)
    if ids:
        raise ValueError("a folder of token IDs holds train.bin and val.bin, and this one doesn't")
    files = _files_under(path)
    return Source(write=partial(_write_folder, files), depends_on=["folder, links, no marks", str(path), stamp(files)])


def stamp(paths: Iterable[Path]) -> list[list[str | int]]:
    """Path, size and times of each file: other contents have another stamp. ValueError for a file that is gone."""
    newest = 0
    stamps: list[list[str | int]] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from None
        stamps.append([str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
        newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    # File times advance in ticks of up to 10 ms; a second write within one would go unseen, so it is waited out.
    if abs(time.time_ns() - newest) < 20_000_000:
        time.sleep(0.02)
    return stamps


def _check_kind(*, is_ids: bool, tokenizer: str) -> None:
    if is_ids and tokenizer != "ids":
        raise ValueError(f"is token IDs, not text for tokenizer={tokenizer}; set tokenizer=ids")
    if not is_ids and tokenizer == "ids":
        raise ValueError("is text, not token IDs; set tokenizer=bpe, char or byte, not ids")


def _existing(data: str) -> tuple[Path, bool]:
    """The absolute path of a file or folder, and which it is."""
    try:
        path = Path(data).expanduser().absolute()
        mode = path.stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"can't be read: {reason}; allowed are python-docs, random, hf:NAME, or the path of a file or folder"
        ) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("is neither a regular file nor a folder")
    return path, stat.S_ISDIR(mode)


def _files_under(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} can't be read: {error.strerror}")

    files: list[Path] = []
    seen: set[tuple[int, int]] = set()  # folders: a link may lead back to one, or twice to the same
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        there = Path(parent).stat()
        if (there.st_dev, there.st_ino) in seen:
            folders.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    files = sorted(filter(Path.is_file, files), key=lambda file: file.relative_to(folder).as_posix())
    if not files:
        raise ValueError("the folder has no files")
    return files


def _find_dataset(name: str) -> Source:
    folder = Path(name)
    if name and folder.is_dir():
        files = stamp(_files_under(folder.absolute()))
        return Source(write=partial(_write_dataset, str(folder.absolute()), None), depends_on=["hf", files])
    name, _, revision = name.partition("@")
    if not name:
        raise ValueError("names no dataset; write hf:NAME or hf:NAME@revision")
    return Source(write=partial(_write_dataset, name, revision or None), depends_on=["hf", name, revision])


def _write_random(num_ids: int, folder: Path) -> None:
    # An extendable hash instead of NumPy's generators, whose streams may change between versions.
    stream = hashlib.shake_256(b"tinylm random corpus").digest(8 * RANDOM_TOKENS)
    tokens = np.frombuffer(stream, dtype="<u8") % np.uint64(num_ids)
    file = BytesIO()  # NumPy's own writing says of a full disk only that fewer bytes were written
    np.save(file, tokens.astype(np.uint32), allow_pickle=False)
    (folder / "train.npy").write_bytes(file.getvalue())


def _write_folder(files: list[Path], folder: Path) -> None:
    _write_joined(folder / "train.txt", (_without_mark(read_text(file)) for file in files))


def _without_mark(chunks: Iterable[str]) -> Iterator[str]:
    """A file's text without the byte order mark that it may begin with: in the middle of a corpus it would be text."""
    is_first = True
    for chunk in filter(None, chunks):
        yield chunk.removeprefix("\ufeff") if is_first else chunk
        is_first = False


def _write_joined(path: Path, texts: Iterable[Iterable[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        separator = ""
        for chunks in texts:
            start = separator
            for chunk in filter(None, chunks):
                file.write(start + chunk)
                start, separator = "", "\n\n"


def _write_dataset(name: str, revision: str | None, folder: Path) -> None:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import datasets
    except ImportError:
        raise ValueError("needs the datasets library: pip install '.[hub]'") from None
    try:
        splits = datasets.load_dataset(name, revision=revision, keep_in_memory=False)
    except Exception as error:  # the library lets through whatever its readers and the network raise
        cause = error.__cause__ or error
        if is_disk_full(cause):
            raise cause from None
        raise ValueError(f"can't be loaded: {type(error).__name__}: {error}") from None
    if "train" not in splits:
        raise ValueError(f"the dataset has no split train, only {', '.join(splits)}")
    _write_joined(folder / "train.txt", _documents(splits["train"]))
    if val := next((split for split in VAL_SPLITS if split in splits), None):
        _write_joined(folder / "val.txt", _documents(splits[val]))


def _documents(split: Any) -> Iterator[list[str]]:
    import pyarrow

    if "text" not in split.column_names:
        raise ValueError(f"the dataset has no column text, only {', '.join(split.column_names)}")
    # Its files are read, where the library maps them: what is touched of a map counts as this process's memory.
    for cache_file in split.cache_files:
        with pyarrow.OSFile(cache_file["filename"]) as file:
            for batch in pyarrow.ipc.open_stream(file):
                for document in batch.column("text"):
                    text = document.as_py()
                    if not isinstance(text, str | None):
                        raise ValueError(f"the dataset's column text holds {type(text).__name__}, not text")
                    yield [text or ""]


def _write_python_docs(library: Path, folder: Path) -> None:
    _write_joined(folder / "train.txt", ([piece] for piece in python_docs(library)))
