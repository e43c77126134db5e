"""From the name of a corpus to token arrays: what is read, how it is split, what the cache may be trusted with."""

import hashlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylm_core.config import BPE_VOCAB_SIZE, RunConfig
from tinylm_core.corpus import Corpus, load_corpus
from tinylm_core.sources import stamp

OPENED: list[str] | None = None


def note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None:
        OPENED.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else "")


sys.addaudithook(note_opened)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Every path this process opens meanwhile, by whatever function."""
    global OPENED
    OPENED = []
    try:
        yield OPENED
    finally:
        OPENED = None


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(data: object, tokenizer: str = "char", **fields: Any) -> Corpus:
        config = RunConfig.model_validate({"data": str(data), "tokenizer": tokenizer, **fields})
        return load_corpus(config, cache_dir=tmp_path / "cache")

    return load


def refusal(load: Any, *arguments: object, **fields: object) -> str:
    """The one line that load_corpus refuses with."""
    with pytest.raises(ValueError, match=r"^data='") as caught:
        load(*arguments, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def text_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def decoded(corpus: Corpus) -> tuple[str, str]:
    assert corpus.tokenizer is not None
    return corpus.tokenizer.decode(corpus.train), corpus.tokenizer.decode(corpus.val)


def run_python(program: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    env = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)


# --- Splitting


def test_the_last_characters_validate_and_all_others_train(load: Any, tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) + "é😀\r\n"[i % 4] for i in range(500))
    file = text_file(tmp_path / "a.txt", text)
    for kind in ("char", "byte", "bpe"):
        assert decoded(load(file, kind, val_ratio=0.3)) == (text[:700], text[700:])


@pytest.mark.parametrize(
    ("size", "val_ratio", "train"), [(100, 0.9, 10), (10, 0.1, 9), (1000, 0.07, 930), (11, 0.5, 5)]
)
def test_the_split_is_exact_in_decimals(load: Any, tmp_path: Path, size: int, val_ratio: float, train: int) -> None:
    corpus = load(text_file(tmp_path / "a.txt", "x" * size), val_ratio=val_ratio)
    assert (len(corpus.train), len(corpus.val)) == (train, size - train)


@pytest.mark.skipif("SWEEPS_TEST_TEXT" not in os.environ, reason="SWEEPS_TEST_TEXT names tinyshakespeare.txt")
def test_tinyshakespeare_has_the_split_everybody_uses(load: Any) -> None:
    corpus = load(os.environ["SWEEPS_TEST_TEXT"], val_ratio=0.1)
    assert (len(corpus.train), len(corpus.val), corpus.vocab_size) == (1_003_854, 111_540, 65)


def test_tokenizer_never_sees_the_validation_part(load: Any, tmp_path: Path) -> None:
    train = ("the cat sat on the mat\n" * 40)[:900]
    first = load(text_file(tmp_path / "a.txt", train + "zq" * 50), "bpe", vocab_size=300)
    second = load(text_file(tmp_path / "b.txt", train + "at" * 50), "bpe", vocab_size=300)
    assert len(first.val) == 100  # z and q were never merged
    assert len(second.val) < 100
    assert first.tokenizer.to_json() == second.tokenizer.to_json()
    assert first.fingerprint != second.fingerprint


def test_a_character_that_only_validates_is_named_with_its_position(load: Any, tmp_path: Path) -> None:
    line = refusal(load, text_file(tmp_path / "a.txt", "ab" * 48 + "aéaa"), val_ratio=0.1)
    assert "'é' at position 97" in line
    assert not list((tmp_path / "cache" / "tokens").iterdir())


# --- What a corpus is


def test_fingerprint_is_of_the_content_alone(load: Any, tmp_path: Path) -> None:
    text = "Ein Text für alle.\r\n" * 30
    file = text_file(tmp_path / "a.txt", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert load(file).fingerprint == digest
    assert load(text_file(tmp_path / "folder" / "b.md", text), "byte", val_ratio=0.5).fingerprint == digest
    assert load(tmp_path / "folder", "bpe").fingerprint == digest


def test_the_text_kept_gives_the_same_corpus(load: Any, tmp_path: Path) -> None:
    text_file(tmp_path / "folder" / "a.txt", "one\n" * 50)
    text_file(tmp_path / "folder" / "b.txt", "two\n" * 50)
    first = load(tmp_path / "folder", "bpe")
    second = load(first.text_path, "bpe")
    assert second.fingerprint == first.fingerprint
    assert second.train.tolist() == first.train.tolist()
    assert second.val.tolist() == first.val.tolist()
    assert load(tmp_path / "folder" / "a.txt").text_path == tmp_path / "folder" / "a.txt"


def test_tokens_are_read_only_and_as_narrow_as_the_vocabulary_allows(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "a.txt", "abc" * 50)
    narrow, wide = load(file, vocab_size=65_536), load(file, vocab_size=65_537)
    assert (narrow.train.dtype, wide.train.dtype) == (np.uint16, np.uint32)
    assert narrow.val.tolist() == wide.val.tolist()
    with pytest.raises(ValueError, match="read-only"):
        narrow.train[0] = 1


def test_vocabulary_is_the_configs_else_the_tokenizers(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "a.txt", "abc" * 50)
    assert load(file).vocab_size == 3
    assert load(file, vocab_size=10).vocab_size == 10
    assert load(file, "byte").vocab_size == 256
    bpe = load(file, "bpe")
    assert bpe.vocab_size == BPE_VOCAB_SIZE > bpe.tokenizer.vocab_size
    for kind, vocab_size in [("char", 2), ("byte", 255), ("bpe", 255)]:
        assert f"vocab_size={vocab_size}" in refusal(load, file, kind, vocab_size=vocab_size)


def test_a_linked_folder_is_read_once_wherever_its_links_lead(load: Any, tmp_path: Path) -> None:
    text_file(tmp_path / "folder" / "a.txt", "aaa\n" * 40)
    text_file(tmp_path / "elsewhere" / "b.txt", "bbb\n" * 40)
    (tmp_path / "folder" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "folder")
    train, val = decoded(load(tmp_path / "folder", "byte"))
    assert train + val == "aaa\n" * 40 + "\n\n" + "bbb\n" * 40


def test_a_byte_order_mark_of_a_file_in_a_folder_is_no_text(load: Any, tmp_path: Path) -> None:
    for name, text in (("1.txt", "one\n" * 40), ("2.txt", "two \ufeff\n" * 40)):
        text_file(tmp_path / "folder" / name, f"\ufeff{text}")
    train, val = decoded(load(tmp_path / "folder", "byte"))
    assert train + val == "one\n" * 40 + "\n\n" + "two \ufeff\n" * 40


def test_a_folder_is_its_files_in_the_order_of_their_paths(load: Any, tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.md", "empty.txt", "a/.hidden", ".git/config", "a.b"]:
        text_file(tmp_path / "folder" / name, "" if name == "empty.txt" else name * 3)
    train, val = decoded(load(tmp_path / "folder", "byte"))
    assert train + val == "a.ba.ba.b\n\na/z.mda/z.mda/z.md\n\nb.txtb.txtb.txt"


# --- The built-in corpora


PYTHON_DOCS = RunConfig.model_validate({"data": "python-docs", "tokenizer": "byte"})
LOAD_PYTHON_DOCS = """
import sys
from pathlib import Path
from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus
load_corpus(RunConfig(data="python-docs", tokenizer="byte"), cache_dir=Path(sys.argv[1]))
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def python_docs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A cache that a process of its own filled, and the modules that process had imported."""
    cache = tmp_path_factory.mktemp("cache")
    done = run_python(LOAD_PYTHON_DOCS, cache)
    assert done.returncode == 0, done.stderr
    return cache, set(done.stdout.split())


def test_python_docs_are_two_megabytes_of_ascii_docstrings_and_reference(python_docs: tuple[Path, set[str]]) -> None:
    text = load_corpus(PYTHON_DOCS, cache_dir=python_docs[0]).text_path.read_text()  # type: ignore[union-attr]
    assert text.isascii()
    assert 1_300_000 < len(text) < 4_000_000
    assert f"\n\n{inspect.cleandoc(json.JSONDecoder.raw_decode.__doc__ or '')}\n\n" in text
    assert text.count("An assignment statement evaluates the expression list") == 1


def test_python_docs_import_none_of_the_modules_they_quote(python_docs: tuple[Path, set[str]]) -> None:
    assert "tinylm_core.corpus" in python_docs[1]
    assert not {"this", "antigravity", "turtle", "pydoc_data.topics", "torch", "datasets"} & python_docs[1]


def test_python_docs_train_and_validate_on_the_same_kind_of_text(python_docs: tuple[Path, set[str]]) -> None:
    corpus = load_corpus(PYTHON_DOCS, cache_dir=python_docs[0])
    shares = [np.bincount(part, minlength=256) / len(part) for part in (corpus.train, corpus.val)]
    assert np.abs(shares[0] - shares[1]).sum() < 0.1


def test_python_docs_are_extracted_once(python_docs: tuple[Path, set[str]]) -> None:
    with opened_files() as opened:
        load_corpus(PYTHON_DOCS, cache_dir=python_docs[0])
    assert opened
    assert not [path for path in opened if path.endswith((".py", ".txt"))]


def test_random_tokens_are_uniform_and_always_the_same(load: Any, tmp_path: Path) -> None:
    corpus = load("random", "ids", val_ratio=0.25)
    assert (len(corpus.train), len(corpus.val)) == (786_432, 262_144)
    assert (corpus.vocab_size, corpus.tokenizer, corpus.text_path) == (256, None, None)
    counts = np.bincount(np.concatenate([corpus.train, corpus.val]), minlength=256)
    assert abs(((counts - 4096) ** 2 / 4096).sum() - 255) < 5 * np.sqrt(2 * 255)  # chi-squared, 255 degrees of freedom
    other = load_corpus(
        RunConfig.model_validate({"data": "random", "tokenizer": "ids"}), cache_dir=tmp_path / "another cache"
    )
    assert other.fingerprint == corpus.fingerprint
    assert corpus.train[:4].tolist() == [194, 249, 178, 154]
    assert load("random", "ids", vocab_size=1000).train.max() == 999


# --- Token IDs


def test_the_same_ids_are_the_same_corpus_in_every_format(load: Any, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 500, 200_000)
    ids.astype("<u2").tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", ids.astype(">i8"))
    lines = [" ".join(map(str, ids[i : i + 77])) for i in range(0, len(ids), 77)]
    text_file(tmp_path / "lines.txt", "\n".join(lines))
    text_file(tmp_path / "line.csv", "  " + " ".join(lines) + "\r\n")
    corpora = [load(tmp_path / name, "ids") for name in ("a.bin", "a.npy", "lines.txt", "line.csv")]
    for corpus in corpora:
        assert np.array_equal(corpus.train, ids[:180_000])
        assert np.array_equal(corpus.val, ids[180_000:])
        assert corpus.vocab_size == ids.max() + 1
        assert corpus.fingerprint == hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()


def test_train_bin_and_val_bin_keep_their_own_split(load: Any, tmp_path: Path) -> None:
    np.arange(100, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(200, 260, dtype="<u2").tofile(tmp_path / "val.bin")
    corpus = load(tmp_path, "ids")
    assert corpus.train.tolist() == list(range(100))
    assert corpus.val.tolist() == list(range(200, 260))
    assert corpus.vocab_size == 260


def test_an_id_outside_the_vocabulary_is_named(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "a.txt", "1 2 300 4 5 6 7 8 9 10")
    assert "token ID 300" in refusal(load, file, "ids", vocab_size=300)
    assert load(file, "ids", vocab_size=301).vocab_size == 301
    np.save(tmp_path / "a.npy", np.array([3, -7, 1]))
    assert "-7 at position 1" in refusal(load, tmp_path / "a.npy", "ids")


@pytest.mark.parametrize("piece", ["x", "-1", "1.5", "1_0", "٣", "9" * 30, "x" * 600_000])
def test_a_piece_that_is_no_id_is_named_with_its_line(load: Any, tmp_path: Path, piece: str) -> None:
    file = text_file(tmp_path / "a.txt", "1 2\n" * 100_000 + f"3 {piece} 4\n")
    line = refusal(load, file, "ids")
    assert f"{piece[:20]}" in line
    assert "in line 100001" in line
    assert len(line) < 300


# --- The cache


def test_second_load_reads_only_the_cache(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "text" / "a.txt", "abc\n" * 100)
    for data in (file, file.parent):
        with opened_files() as opened:
            first = load(data, "bpe")
        assert str(file) in opened
        with opened_files() as opened:
            second = load(data, "bpe")
        read = [Path(path) for path in opened if path.startswith(str(tmp_path))]
        assert {path.name for path in read} == {"meta.json", "train.bin", "val.bin", "tokenizer.json"}
        assert second.train.tolist() == first.train.tolist()
        assert second.fingerprint == first.fingerprint


def test_a_cache_of_an_earlier_version_without_digests_still_serves(load: Any, tmp_path: Path) -> None:
    folder = text_file(tmp_path / "text" / "a.txt", "abc\n" * 100).parent
    first = load(folder)
    for meta in list(tmp_path.rglob("meta.json")):
        content = json.loads(meta.read_text())
        meta.write_text(json.dumps({"sizes": content["sizes"], "facts": content["facts"]}))
    second = load(folder)
    assert (second.train.tolist(), second.fingerprint) == (first.train.tolist(), first.fingerprint)


def test_tokens_are_not_made_from_a_cached_text_that_is_damaged(load: Any, tmp_path: Path) -> None:
    folder = text_file(tmp_path / "text" / "a.txt", "abc\n" * 100).parent
    load(folder)
    for tokens in tmp_path.rglob("train.bin"):
        tokens.write_bytes(bytes(tokens.stat().st_size))
    (source,) = [path for path in tmp_path.rglob("train.txt") if "sources" in path.parts]
    source.write_text(source.read_text().replace("b", "d", 1))
    with pytest.raises(ValueError, match=r"its cached text is damaged; remove .*sources"):
        load(folder)


def test_changed_content_is_noticed_whatever_its_size_and_time(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "text" / "a.txt", "abab" * 10)
    times = file.stat().st_mtime_ns
    for data in (file, file.parent):
        for text in ("abba" * 10, "baab" * 10, "bbaa" * 11):
            text_file(file, text)
            os.utime(file, ns=(times, times))
            assert "".join(decoded(load(data))) == text


def test_writes_in_quick_succession_have_different_stamps(tmp_path: Path) -> None:
    stamps = [stamp([text_file(tmp_path / "a.txt", str(i))]) for i in range(10)]
    assert all(earlier != later for earlier, later in pairwise(stamps))


def test_other_settings_are_other_tokens(load: Any, tmp_path: Path) -> None:
    file = text_file(tmp_path / "a.txt", "the cat sat on the mat\n" * 40)
    settings: list[dict[str, Any]] = [
        {},
        {"val_ratio": 0.2},
        {"tokenizer": "bpe"},
        {"tokenizer": "bpe", "vocab_size": 260},
    ]
    lengths = [len(load(file, **setting).train) for setting in settings]
    assert len(set(lengths)) == len(settings)
    assert [len(load(file, **setting).train) for setting in settings] == lengths


@pytest.mark.parametrize("damage", ["shorter", "gone", "no meta", "broken meta", "no folder"])
def test_damaged_cache_is_rebuilt(load: Any, tmp_path: Path, damage: str) -> None:
    folder = text_file(tmp_path / "folder" / "a.txt", "abc\n" * 100).parent
    first = load(folder)
    expected = (first.train.tolist(), first.val.tolist(), first.fingerprint)
    for room in ("sources", "surveys", "tokens"):
        for entry in (tmp_path / "cache" / room).iterdir():
            files = [path for path in entry.iterdir() if path.name != "meta.json"]
            if damage == "no folder":
                entry.rename(entry.with_name("elsewhere"))
            elif damage in ("no meta", "broken meta"):
                (entry / "meta.json").unlink()
                (entry / "meta.json").write_text('{"sizes": ') if damage == "broken meta" else None
            for path in files if damage in ("shorter", "gone") else []:
                path.write_bytes(path.read_bytes()[:-1]) if damage == "shorter" else path.unlink()
    again = load(folder)
    assert (again.train.tolist(), again.val.tolist(), again.fingerprint) == expected


def test_processes_that_fill_one_cache_together_agree(tmp_path: Path) -> None:
    text_file(tmp_path / "folder" / "a.txt", "".join(f"line {i * i}\n" for i in range(3000)))
    program = (
        "import sys, hashlib; from pathlib import Path; from tinylm_core.corpus import load_corpus\n"
        "from tinylm_core.config import RunConfig; print('ready', flush=True); sys.stdin.readline()\n"
        "c = load_corpus(RunConfig(data=sys.argv[1]), cache_dir=Path(sys.argv[2]))\n"
        "print(c.fingerprint, hashlib.sha256(c.train.tobytes() + c.val.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "folder"), str(tmp_path / "cache")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1
    for room in ("sources", "surveys", "tokens"):
        assert len(list((tmp_path / "cache" / room).iterdir())) == 1


def test_what_a_killed_process_left_is_removed_after_a_day(load: Any, tmp_path: Path) -> None:
    old, new = (tmp_path / "cache" / "tokens" / f".work-{name}" for name in ("old", "new"))
    for folder in (old, new):
        text_file(folder / "new" / "train.bin", "")
    os.utime(old, (time.time() - 90_000,) * 2)
    load(text_file(tmp_path / "a.txt", "abc" * 50))
    assert new.exists()
    assert not old.exists()


def test_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLM_CACHE", str(tmp_path / "here"))
    file = text_file(tmp_path / "a.txt", "abc" * 50)
    load_corpus(RunConfig.model_validate({"data": str(file), "tokenizer": "char"}))
    assert (tmp_path / "here" / "tokens").is_dir()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = text_file(tmp_path / "a.txt", "abc" * 50)
    with pytest.raises(ValueError, match=r"^data=.*set TINYLM_CACHE$"):
        load_corpus(RunConfig.model_validate({"data": str(file), "tokenizer": "char"}), cache_dir=file / "cache")


# --- Users' mistakes


@pytest.mark.parametrize(
    ("content", "tokenizer", "expected"),
    [
        (None, "char", "No such file"),
        (b"", "char", "is empty"),
        (b"", "ids", "is empty"),
        (b" \n ", "ids", "is empty"),
        (b"a", "char", "too short"),
        (b"abc" * 200_000 + b"\xff", "char", "byte 600000"),
        (b"abc" * 200_000 + "é".encode()[:1], "char", "byte 600000"),
        (b"7", "ids", "too short"),
        (b"hello there", "ids", "'hello' in line 1"),
        (b"\xff\xfe1 2", "ids", "in line 1"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    load: Any, tmp_path: Path, content: bytes | None, tokenizer: str, expected: str
) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    assert expected in refusal(load, tmp_path / "a.txt", tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.bin", b"\x01", "odd number of bytes"),
        ("a.bin", b"", "is empty"),
        ("a.npy", b"", "no readable .npy"),
        ("a.npy", b"PK\x03\x04", "no readable .npy"),
        ("a.npy", b"\x80\x04N.", "no readable .npy"),
    ],
)
def test_bad_token_files_are_refused_in_one_line(
    load: Any, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(load, tmp_path / name, "ids")


@pytest.mark.parametrize("array", [np.zeros((2, 2), dtype=int), np.zeros(9), np.array([{}, None]), np.array(["1"])])
def test_arrays_that_are_no_ids_are_refused(load: Any, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert "npy" in refusal(load, tmp_path / "a.npy", "ids")


def test_a_truncated_array_is_refused(load: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    assert "no readable .npy" in refusal(load, tmp_path / "a.npy", "ids")


def test_text_and_token_ids_are_not_mixed_up(load: Any, tmp_path: Path) -> None:
    for name in ("train.bin", "val.bin", "other.npy"):
        (tmp_path / name).write_bytes(b"\x00\x00")
    for data in ("random", tmp_path, tmp_path / "train.bin", tmp_path / "other.npy"):
        assert "set tokenizer=ids" in refusal(load, data, "bpe")
    for data in ("python-docs", "hf:some/dataset"):
        assert "set tokenizer=bpe, char or byte" in refusal(load, data, "ids")


def test_folders_without_a_corpus_are_refused(load: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "no files" in refusal(load, folder)
    assert "train.bin and val.bin" in refusal(load, folder, "ids")
    text_file(folder / "a.txt", "")
    assert "is empty" in refusal(load, folder)
    (folder / "b.txt").write_bytes(b"ok \xff")
    line = refusal(load, folder)
    assert "b.txt is not UTF-8" in line
    assert "byte 3" in line


@pytest.mark.parametrize("data", ["/dev/null", "no/such\0file", "~nobody-of-this-name/a.txt", "x" * 5000])
def test_what_is_no_file_is_refused_in_one_line(load: Any, data: str) -> None:
    refusal(load, data)


# --- Datasets of the Hugging Face Hub

needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the extra hub")
LOAD_DATASETS = """
import json, sys
from pathlib import Path
from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus
for data in sys.argv[2:]:
    try:
        corpus = load_corpus(RunConfig(data=data, tokenizer="byte", val_ratio=0.5), cache_dir=Path(sys.argv[1]))
        parts = [corpus.tokenizer.decode(part) for part in (corpus.train, corpus.val)]
        print(json.dumps([*parts, str(corpus.text_path)]))
    except ValueError as error:
        print(json.dumps(str(error)))
print(json.dumps("datasets" in sys.modules))
"""


def load_datasets(tmp_path: Path, *data: str) -> list[Any]:
    done = run_python(LOAD_DATASETS, tmp_path / "cache", *data, HF_HOME=tmp_path / "hf", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def jsonl(path: Path, *records: dict[str, object]) -> None:
    text_file(path, "".join(json.dumps(record) + "\n" for record in records))


@needs_datasets
def test_datasets_become_text_with_their_own_validation_where_they_have_one(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    jsonl(one / "train.jsonl", {"text": "first", "id": 1}, {"text": ""}, {"text": None}, {"text": "sécond"})
    for split, text in [("train", "to train"), ("test", "to test"), ("validation", "to validate")]:
        jsonl(two / f"{split}.jsonl", {"text": text}, {"text": text})
    jsonl(other / "train.jsonl", {"content": "no text"})
    jsonl(tmp_path / "numbers" / "train.jsonl", {"text": 5})
    names = [f"hf:{one}", f"hf:{two}", f"hf:{other}", "hf:no-such/dataset@main", "hf:"]
    whole, split, no_text, unknown, nameless, imported = load_datasets(tmp_path, *names)
    assert "holds int, not text" in load_datasets(tmp_path, f"hf:{tmp_path / 'numbers'}")[0]
    assert whole[:2] == ["first\n", "\nsécond"]
    assert Path(whole[2]).read_text(encoding="utf-8") == "first\n\nsécond"
    assert split == ["to train\n\nto train", "to validate\n\nto validate", "None"]
    assert "no column text, only content" in no_text
    assert unknown.startswith("data='hf:no-such/dataset@main': can't be loaded")
    assert "names no dataset" in nameless
    assert not any("\n" in line for line in (no_text, unknown, nameless))
    assert imported

    again = load_datasets(tmp_path, *names[:2])
    assert again == [whole, split, False]
    jsonl(one / "train.jsonl", {"text": "changed!"})
    assert load_datasets(tmp_path, names[0])[0][:2] == ["chan", "ged!"]


def test_without_the_datasets_library_the_extra_is_named(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(load, "hf:some/dataset").endswith("pip install '.[hub]'")


# --- Memory

MEASURE = """
import sys
from pathlib import Path
from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
kind, cache, small, large = sys.argv[1:]
load_corpus(RunConfig(data=small, tokenizer=kind), cache_dir=Path(cache))
before = peak()
load_corpus(RunConfig(data=large, tokenizer=kind), cache_dir=Path(cache))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(("kind", "repeats"), [("char", 60), pytest.param("bpe", 45, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, kind: str, repeats: int) -> None:
    megabyte = "".join(f"line {i:06d} of many words, all alike\n" for i in range(27_000))
    small = text_file(tmp_path / "small.txt", megabyte)
    large = text_file(tmp_path / "large.txt", megabyte * repeats)
    done = run_python(MEASURE, kind, tmp_path / "cache", small, large, RAYON_NUM_THREADS=2)  # each has its buffers
    assert int(done.stdout) < large.stat().st_size / 2, done.stderr


@pytest.mark.slow
@needs_datasets
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    line = json.dumps({"text": "many words, all alike " * 50}) + "\n"
    text_file(tmp_path / "small" / "train.jsonl", line * 20_000)
    large = text_file(tmp_path / "large" / "train.jsonl", line * 250_000)
    names = [f"hf:{tmp_path / name}" for name in ("small", "large")]
    done = run_python(MEASURE, "char", tmp_path / "cache", *names, HF_HOME=tmp_path / "hf", HF_HUB_OFFLINE="1")
    assert int(done.stdout) < large.stat().st_size / 2, done.stderr
