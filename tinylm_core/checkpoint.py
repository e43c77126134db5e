"""Files of a run, without pickle: the state to go on from, and the final weights.

A state file's name holds the digest of its bytes, so that a truncated or flipped one is noticed and the one before it
serves. Knows nothing of the training loop.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from tinylm_core.config import RunConfig
from tinylm_core.durable import write_durably
from tinylm_core.model import TinyGPT
from tinylm_core.tokenizer import Tokenizer, tokenizer_from_json

KEPT_STATES = 2
_STATE_NAME = re.compile(r"state-(\d{10})-([0-9a-f]{64})\.safetensors")


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Durable before it returns its file; see `keep_state`."""
    content = save_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"state-{step:010d}-{digest}.safetensors"
    keep_state(path, content)
    return path


def keep_state(path: Path, content: bytes) -> None:
    """Durable before it returns: temporary file, fsync, rename. Keeps the last KEPT_STATES of the folder.

    Others of this step or a later one are of a course that was given up (damaged, or under other conditions) and go,
    as does what a killed process was writing.
    """
    write_durably(path, content)
    earlier = [state for state in state_files(path.parent) if state.name < path.name.rpartition("-")[0]]
    kept = {path, *earlier[1 - KEPT_STATES :]}
    for old in {*state_files(path.parent), *path.parent.glob(".state-*.tmp")} - kept:
        old.unlink(missing_ok=True)


def load_states(folder: Path) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """The states whose bytes are those that were written, with their metadata, newest first."""
    for path in reversed(state_files(folder)):
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
                continue
            tensors = load_bytes(content)
        except (OSError, SafetensorError):
            continue
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        yield tensors, header.get("__metadata__", {})


def state_files(folder: Path) -> list[Path]:
    """The files of states in a folder, the newest last."""
    return sorted(path for path in folder.glob("state-*.safetensors") if is_state(path) and path.is_file())


def is_state(path: Path) -> bool:
    """Whether a file of that name holds a state."""
    return _STATE_NAME.fullmatch(path.name) is not None


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters on the CPU by name, sorted; a shared one once."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in sorted(model.named_parameters())}


def weights_sha256(model: nn.Module) -> str:
    """Hex SHA-256 over the tensors' bytes in name order."""
    digest = hashlib.sha256()
    for tensor in weights(model).values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save_model(folder: Path, model: nn.Module, config: RunConfig, tokenizer: Tokenizer | None) -> None:
    """`model.safetensors`, `config.json` and, for text, `tokenizer.json`: all that `load_model` needs."""
    for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
        left.unlink()
    write_durably(folder / "config.json", config.model_dump_json(indent=2).encode())
    if tokenizer is not None:
        write_durably(folder / "tokenizer.json", tokenizer.to_json().encode())
    write_durably(folder / "model.safetensors", save_bytes(weights(model)))


def load_model(folder: Path) -> tuple[TinyGPT, RunConfig, Tokenizer | None]:
    """What `save_model` saved, on the CPU, ready to evaluate. ValueError where a file is missing or damaged."""
    try:
        config = RunConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_bytes((folder / "model.safetensors").read_bytes())
        model = TinyGPT(config, tensors["token_embedding.weight"].shape[0])
        parameters = dict(model.named_parameters())
        if parameters.keys() != tensors.keys():
            raise ValueError("its tensors are not those of its config")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.data = tensors[name].reshape(parameter.shape)
        tokenizer_file = folder / "tokenizer.json"
        tokenizer = tokenizer_from_json(tokenizer_file.read_text(encoding="utf-8")) if tokenizer_file.exists() else None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} is not a checkpoint: {' '.join(str(error).split())}") from None
    return model.eval(), config, tokenizer
