"""Files of a run: whole or not there, the newest good one found, and never a pickle (law 13)."""

import ast
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tinylm_core.checkpoint import load_model, load_states, save_model, save_state, weights, weights_sha256
from tinylm_core.config import RunConfig
from tinylm_core.durable import write_durably
from tinylm_core.model import TinyGPT
from tinylm_core.tokenizer import Tokenizer, train_tokenizer

REPOSITORY = Path(__file__).parents[2]
TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([math.pi], dtype=torch.float64),
    "empty": torch.ones(0),
}
METADATA = {"step": "3", "text": 'ünï\\n"quoted"'}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps(folder: Path) -> list[int]:
    return [int(name.split("-")[1]) for name in names(folder)]


# --- States


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_state(tmp_path / "new" / "folder", 3, TENSORS, METADATA)
    loaded = next(load_states(tmp_path / "new" / "folder"), None)
    assert loaded is not None
    tensors, metadata = loaded
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert all(tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_a_view_is_saved_as_what_it_shows(tmp_path: Path) -> None:
    save_state(tmp_path, 1, {"turned": TENSORS["a"].T}, {})
    loaded = next(load_states(tmp_path), None)
    assert loaded is not None
    assert torch.equal(loaded[0]["turned"], TENSORS["a"].T)


def test_the_last_two_states_are_kept_and_nothing_else(tmp_path: Path) -> None:
    for step in (1, 9, 10, 100):
        save_state(tmp_path, step, TENSORS, {"step": str(step)})
        loaded = next(load_states(tmp_path), None)
        assert loaded is not None
        assert loaded[1]["step"] == str(step)
    assert steps(tmp_path) == [10, 100]


def test_a_state_saved_again_replaces_the_one_of_its_step(tmp_path: Path) -> None:
    for text in ("a", "b", "c", "d"):
        save_state(tmp_path, 5, TENSORS, {"text": text})
        loaded = next(load_states(tmp_path), None)
        assert loaded is not None
        assert loaded[1]["text"] == text
    assert steps(tmp_path) == [5]


def test_states_of_a_course_that_was_given_up_do_not_push_out_the_new_one(tmp_path: Path) -> None:
    for step in (30, 40):
        save_state(tmp_path, step, TENSORS, {"course": "old"})
    for step in (10, 20):
        save_state(tmp_path, step, TENSORS, {"course": "new"})
        loaded = next(load_states(tmp_path), None)
        assert loaded is not None
        assert loaded[1]["course"] == "new"
    assert steps(tmp_path) == [10, 20]


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".state-0000000007-abc.4321.tmp").write_bytes(b"half")
    save_state(tmp_path, 8, TENSORS, METADATA)
    assert steps(tmp_path) == [8]


def test_there_is_no_state_in_a_folder_without_one(tmp_path: Path) -> None:
    assert next(load_states(tmp_path / "missing"), None) is None
    for name in ("state-5.safetensors", f"state-{5:010d}-{'g' * 64}.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert next(load_states(tmp_path), None) is None


def test_a_state_under_another_name_is_not_trusted(tmp_path: Path) -> None:
    save_state(tmp_path, 3, TENSORS, METADATA)
    path = next(tmp_path.iterdir())
    path.rename(tmp_path / f"state-{4:010d}-{'0' * 64}.safetensors")
    assert next(load_states(tmp_path), None) is None


# --- Writing


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[fails_at], full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        order.append("fsync folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "fsync file")  # noqa: PTH112
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_durably(tmp_path / "file", b"content")
    assert order[0] == "fsync file"
    assert order[1:] == ["replace", order[2]]
    assert (tmp_path / "file").read_bytes() == b"content"


# --- Models


def build(**fields: object) -> tuple[TinyGPT, RunConfig]:
    config = RunConfig.model_validate({"max_seq_len": 8, "d_model": 12, "num_layers": 2, "num_heads": 2} | fields)
    torch.manual_seed(0)
    return TinyGPT(config, 7).eval(), config


TEXTS = {
    kind: train_tokenizer(kind, ["the cat sat\n" * 50], 260 if kind == "bpe" else None)
    for kind in ("char", "byte", "bpe")
}


@pytest.mark.parametrize("tokenizer", [None, *TEXTS.values()], ids=["none", *TEXTS])
@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": True}, {"bias": False, "norm_first": False}])
def test_a_loaded_model_computes_what_the_saved_one_did(
    tmp_path: Path, tokenizer: Tokenizer | None, fields: dict[str, object]
) -> None:
    model, config = build(**fields)
    save_model(tmp_path, model, config, tokenizer)
    loaded, loaded_config, loaded_tokenizer = load_model(tmp_path)
    assert loaded_config == config
    assert not loaded.training
    tokens = torch.arange(7)[None]
    assert torch.equal(loaded(tokens), model(tokens))
    assert weights_sha256(loaded) == weights_sha256(model)
    assert (loaded.head.weight is loaded.token_embedding.weight) is config.tie_embeddings
    if tokenizer is None:
        assert loaded_tokenizer is None
    else:
        assert loaded_tokenizer is not None
        assert loaded_tokenizer.encode("the cat").tolist() == tokenizer.encode("the cat").tolist()
    expected = {"config.json", "model.safetensors"} | (set() if tokenizer is None else {"tokenizer.json"})
    assert set(names(tmp_path)) == expected


def test_a_model_in_float64_comes_back_in_float64(tmp_path: Path) -> None:
    model, config = build()
    save_model(tmp_path, model.double(), config, None)
    tokens = torch.arange(7)[None]
    assert torch.equal(load_model(tmp_path)[0](tokens), model(tokens))


def test_saved_weights_are_read_by_safetensors_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, config = build()
    save_model(tmp_path, model, config, None)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(tensors[name], parameter) for name, parameter in model.named_parameters())


def drop_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors["norm.weight"]
    save_file(tensors, path)


def replace_in_config(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[(name, damage) for name in ("config.json", "model.safetensors", "tokenizer.json") for damage in (
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"\xff\xfe garbage \x00" * 9),
            lambda path: path.write_bytes(path.read_bytes()[:-20]),
            lambda path: path.write_text("[]"),
        )],
        ("config.json", Path.unlink),
        ("model.safetensors", Path.unlink),
        ("model.safetensors", drop_a_tensor),
        ("config.json", replace_in_config(learning_rat=1)),
        ("config.json", replace_in_config(d_model=16)),
        ("config.json", replace_in_config(num_layers=1)),
        ("config.json", replace_in_config(max_seq_len=9)),
        ("config.json", replace_in_config(tie_embeddings=True)),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    model, config = build()
    save_model(tmp_path, model, config, TEXTS["bpe"])
    damage(tmp_path / name)
    with pytest.raises(ValueError, match="is not a checkpoint: ") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_model(tmp_path / "missing")


def test_digest_of_weights_is_over_their_bytes_in_name_order() -> None:
    import hashlib

    model, _ = build()
    ordered = sorted(dict(model.named_parameters()).items())
    content = b"".join(parameter.detach().numpy().tobytes() for _, parameter in ordered)
    assert weights_sha256(model) == hashlib.sha256(content).hexdigest()
    with torch.no_grad():
        model.head.weight[0, 0] += 1e-6
    assert weights_sha256(model) != hashlib.sha256(content).hexdigest()


def test_a_shared_weight_is_kept_once() -> None:
    kept: dict[str, Tensor] = weights(build(tie_embeddings=True)[0])
    assert "token_embedding.weight" in kept
    assert "head.weight" not in kept
    assert list(kept) == sorted(kept)


# --- Law 13

PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = sorted(
    path for package in ("tinylm_core", "sweeps", "experiments") for path in (REPOSITORY / package).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_our_code_never_unpickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not PICKLING & {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in PICKLING
            assert (node.module, "load") not in {("torch", alias.name) for alias in node.names}
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
            assert node.attr not in {"read_pickle", "to_pickle"}
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
