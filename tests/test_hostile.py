"""Files and words from anyone: a clear ValueError, nothing of them executed, nothing outside touched, no hang.

Law 12 for what no honest user types: pickles under a checkpoint's name, states with a right digest and a wrong
content, journals that ask for other people's folders, devices and loops as data.
"""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launcher import Launcher
from small_sweeps import HEAD
from stores import listing
from synthetic import make_plan

from sweeps.outbox.errors import RefusedError
from sweeps.outbox.journal import from_line
from sweeps.outbox.operations import Open
from sweeps.outbox.sender import Sender
from sweeps.spec.catalog import load_experiment
from sweeps.spec.flags import overridden
from sweeps.store import open_store
from sweeps.store.read import Store
from tinylm_core import RunConfig, run
from tinylm_core.checkpoint import load_model, load_states, save_model, save_state
from tinylm_core.corpus import load_corpus
from tinylm_core.model import TinyGPT
from tinylm_core.state import TrainState
from tinylm_core.tokenizer import train_tokenizer


def refusal(action: Callable[[], object]) -> str | None:
    """How an action was refused, in one line; None where it was done."""
    said = None
    try:
        action()
    except ValueError as error:
        said = str(error)
    assert said is None or (said and "\n" not in said)
    return said


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._path),))


# --- Pickles under the names of checkpoints


@pytest.mark.parametrize("as_torch", [False, True], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pickle_in_a_checkpoint_is_refused_and_never_executed(
    tiny: Callable[..., RunConfig], tmp_path: Path, name: str, as_torch: bool
) -> None:
    config, exploded = tiny(), tmp_path / "exploded"
    save_model(tmp_path / "checkpoint", TinyGPT(config, 3), config, train_tokenizer("char", ["abc"], None))
    with (tmp_path / "checkpoint" / name).open("wb") as file:
        (torch.save if as_torch else pickle.dump)(Bomb(exploded), file)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(tmp_path / "checkpoint")
    assert not exploded.exists()


def test_a_pickle_among_the_states_is_passed_over(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    whole = run(tiny(), workdir=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f"state-0000000005-{'0' * 64}.safetensors").write_bytes(pickle.dumps(Bomb(exploded)))
    assert run(tiny(), workdir=tmp_path / "b").weights_sha256 == whole.weights_sha256
    assert not exploded.exists()


# --- States that were written whole, by somebody else


SHAPES = st.lists(st.integers(0, 4), max_size=3)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.int64, torch.bfloat16])
TENSORS = st.builds(lambda shape, dtype: torch.zeros(shape, dtype=dtype), SHAPES, DTYPES)


@given(data=st.data(), step=st.integers(0, 20), scaler=st.text(max_size=5) | st.sampled_from(["{}", "[]", "null"]))
@settings(max_examples=60)
def test_a_state_with_a_right_digest_and_a_wrong_content_changes_nothing(
    tiny: Callable[..., RunConfig],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    step: int,
    scaler: str,
) -> None:
    state = TrainState.fresh(tiny(), 20, "cpu")
    tensors, metadata = state.pack()
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(tensors)), TENSORS, max_size=3))
    missing = data.draw(st.sets(st.sampled_from(sorted(tensors)), max_size=2))
    tensors = {name: tensor for name, tensor in (tensors | wrong).items() if name not in missing}
    folder = tmp_path_factory.mktemp("states")
    save_state(folder, step, tensors, metadata | {"step": str(step), "scaler": scaler})
    ((found, said),) = load_states(folder)
    before = {name: parameter.clone() for name, parameter in state.model.named_parameters()}
    if refusal(lambda: state.unpack(found, said)):
        assert (state.step, state.steps) == (0, [])
        assert all(torch.equal(parameter, before[name]) for name, parameter in state.model.named_parameters())
    else:
        assert (step, missing) == (0, set())


@given(content=st.binary(max_size=200))
@example(b"\xff" * 8 + b"{}")
@example((2).to_bytes(8, "little") + b"{}")
@example((12).to_bytes(8, "little") + b'{"a": [[[[[[')
def test_any_bytes_under_a_checkpoints_name_are_a_clear_error(
    tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "config.json").write_text(tiny().model_dump_json())
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(folder)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(folder)


# --- Journals


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    return open_store(Path(shutil.copytree(empty_store, tmp_path / "store")))


OPERATIONS = (
    "hold", "release", "open", "ask", "start", "records", "end", "mark_dead", "drop_weights", "publish", "note",
    "model", "pickle", "__init__", "remove",
)  # fmt: skip
FIELDS = (
    "run", "name", "note", "tags", "plan", "summary", "trial", "params", "start_time_ms", "dataset", "steps",
    "evals", "usage", "state", "end_time_ms", "metrics", "artifacts", "workdir", "run_id", "folder", "artifact_path",
    "temporary", "step", "definition", "self",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("../../elsewhere"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=5,
)


def test_an_operation_of_another_making_is_refused_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    """A fuzz with one store: what is refused writes nothing, so the next one meets the same store."""
    precious = tmp_path / "elsewhere"
    precious.mkdir()
    (precious / "thesis.tex").write_text("mine")

    @given(op=st.sampled_from(OPERATIONS), content=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
    @example(op="end", content={"run": "x", "workdir": str(precious)})
    @example(op="ask", content={"trial": {}})
    @settings(max_examples=150)
    def check(op: str, content: dict[str, Any]) -> None:
        said: list[str] = []
        sender = Sender(store, "question", said.append)
        operation = from_line(json.dumps({"op": op, **content}).encode(), store.layout.root)
        assert operation is not None
        refused = refusal(lambda: sender(operation, True))
        assert refused or said or op in ("hold", "release")  # those are of a driver that is gone

    check()
    assert (precious / "thesis.tex").read_text() == "mine"
    assert "question" not in store.sweeps()


@pytest.mark.parametrize("field", ["workdir", "artifacts"])
def test_a_journal_reads_and_removes_no_folder_of_others(store: Store, tmp_path: Path, field: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("mine")
    inside = store.folder / "work" / "question"
    inside.mkdir(parents=True)
    (inside / "link").symlink_to(elsewhere)
    sender = Sender(store, "question")
    plan = make_plan({})
    sender(Open(run="s", name="summary", note="", tags={}, plan=plan), False)
    end = {"op": "end", "run": "s", "state": "COMPLETE", "end_time_ms": 0, "metrics": {}, "tags": {}}
    outside = (elsewhere, inside / ".." / ".." / ".." / "elsewhere", inside / "link", Path("/"))
    for folder in (*outside, "../elsewhere", "work/../../elsewhere", "work/question/link", "work", ""):
        line = json.dumps(end | {"artifacts": None, "workdir": None} | {field: str(folder)}).encode()
        operation = from_line(line, store.layout.root)
        assert operation is not None
        if folder == "":  # as earlier versions wrote none
            sender(operation, False)
            continue
        with pytest.raises(RefusedError, match="is no folder of this store"):
            sender(operation, False)
    assert (elsewhere / "thesis.tex").read_text() == "mine"


# --- Words on the command line


WORDS = st.text(max_size=20) | st.sampled_from(
    ["nan", "inf", "-inf", "1e999", "None", "True", "0x10", "1_0", "٣", "\x00"]
)


@given(field=st.sampled_from(sorted(RunConfig.model_fields)), value=WORDS)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(field: str, value: str) -> None:
    smoke, word = load_experiment("smoke"), f"{field}={value}"
    refusal(lambda: overridden(smoke, [word], [], None, None, None))
    refusal(lambda: overridden(smoke, [], [word], None, None, None))


# --- Data that is no text


def test_what_never_ends_is_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "again").symlink_to(tmp_path / "loops")
    for data in ("/dev/zero", "pipe.txt", "loop.txt", "loops", "\x00", "a\nb", "x" * 10_000, "~nobody-here/x"):
        path = data if data.startswith(("/", "~", "\x00")) else str(tmp_path / data)
        with pytest.raises(ValueError, match="data=") as error:
            load_corpus(RunConfig(data=path, tokenizer="char"))
        assert "\n" not in str(error.value)


@given(content=st.binary(max_size=300), suffix=st.sampled_from(["ids.txt", "tokens.bin", "tokens.npy", "text.txt"]))
@example(b"\x93NUMPY\x01\x00\xff\xff{'descr': '|O'", "tokens.npy")
@example(b"9" * 300, "ids.txt")
def test_any_bytes_are_a_corpus_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / suffix).write_bytes(content)
    config = RunConfig(data=str(folder / suffix), tokenizer="char" if suffix == "text.txt" else "ids")
    if refusal(lambda: load_corpus(config, cache_dir=folder / "cache")) is None:
        corpus = load_corpus(config, cache_dir=folder / "cache")
        assert corpus.train.max() < corpus.vocab_size


def test_a_pickled_array_is_refused_and_never_executed(tmp_path: Path) -> None:
    import numpy as np

    exploded = tmp_path / "exploded"
    np.save(tmp_path / "tokens.npy", np.array([Bomb(exploded)] * 9, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"tokens\.npy"):
        load_corpus(RunConfig(data=str(tmp_path / "tokens.npy"), tokenizer="ids"))
    assert not exploded.exists()


# --- Names and experiment files


HOSTILE = {
    "an experiment that exits": (["sweeps.run", "{files}/exits.py"], "exits.py, line 4: SystemExit: 3"),
    "a run ID that is a path": (["sweeps.reproduce", "../../etc/passwd"], "../../etc/passwd"),
    "a sample of a path": (["sweeps.sample", "../work"], "../work"),
    "a report of a path": (["sweeps.report", "../../etc"], "../../etc"),
    "an experiment with a control character": (["sweeps.run", "smoke\x1b[2J"], "unknown experiment"),
}


@pytest.mark.parametrize(("arguments", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_words_are_one_line_and_nothing_is_written(
    launcher: Launcher, store: Store, tmp_path: Path, arguments: list[str], message: str
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "exits.py").write_text(HEAD + "raise SystemExit(3)\n")
    before = listing(tmp_path)
    command = [argument.format(files=files) for argument in arguments]
    result = launcher.run(*command, "--store", store.folder, cwd=tmp_path)
    assert result.code == 2, result
    assert message in result.one_line
    assert result.one_line.isprintable()
    after = listing(tmp_path)
    assert {path for path in after if after[path] != before.get(path)} <= {
        path for path in after if path.name.startswith("mlflow.db-")
    }


def test_random_journals_are_told_and_kept(launcher: Launcher, store: Store, text_file: Path, tmp_path: Path) -> None:
    """The whole command: a journal that isn't ours ends it with one line, and stays as it was."""
    from small_sweeps import GRID, write_experiment

    file = write_experiment(tmp_path, GRID, text_file)
    journal = store.folder / "work" / "question" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    content = json.dumps({"op": "end", "run": str(random.random()), "workdir": str(tmp_path)}) + "\n"
    journal.write_text(content)
    result = launcher.run("sweeps.run", file, "--store", store.folder, "--workers", 2)
    assert result.code == 2, result
    assert "journal.jsonl" in result.one_line
    assert journal.read_text() == content
    assert file.exists()
