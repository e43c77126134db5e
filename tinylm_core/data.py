"""Windows of tokens: what a model trains on and what it is evaluated on. Knows no model.

Micro-batch i is a pure function of (seed, i): there is no loader whose state could drift.
Shapes: N tokens, W windows, B batch, T time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinylm_core.config import RunConfig
from tinylm_core.corpus import Corpus

IGNORED = -100
"""The label of a padded position, masked by position since token ID 0 is a real token."""

_DATA_ORDER = 1  # keeps this random stream apart from others of the same seed


@dataclass(frozen=True)
class Batch:
    """Token IDs and the token after each; `labels` is IGNORED where there is none."""

    input_ids: Tensor  # [B, T] int64
    labels: Tensor  # [B, T] int64

    def to(self, device: str) -> "Batch":
        """The batch on a device; a GPU fetches it from pinned memory, and the host goes on meanwhile."""
        if device.startswith("cuda"):
            ids, labels = self.input_ids.pin_memory(), self.labels.pin_memory()
            return Batch(ids.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        return Batch(self.input_ids.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Windows:
    """Windows of `max_seq_len` inputs and as many labels, at the given starts in a token array."""

    tokens: NDArray[np.unsignedinteger]  # [N], may be memory-mapped
    starts: NDArray[np.int64]  # [W]
    max_seq_len: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The windows at `indices`, padded and masked where the text ends inside one."""
        positions_BT = self.starts[indices][:, None] + np.arange(self.max_seq_len + 1)
        ids_BT = self.tokens[np.minimum(positions_BT, len(self.tokens) - 1)].astype(np.int64)
        labels_BT = np.where(positions_BT[:, 1:] < len(self.tokens), ids_BT[:, 1:], IGNORED)
        return Batch(torch.from_numpy(ids_BT[:, :-1].copy()), torch.from_numpy(labels_BT))


def train_windows(corpus: Corpus, config: RunConfig) -> Windows:
    """Every full window of the training part, `stride` tokens apart; a short one at the end is dropped."""
    tokens = corpus.train[: config.max_tokens]
    if len(tokens) <= config.max_seq_len:
        raise ValueError(
            f"data={config.data!r}: the training part has {len(tokens)} tokens, and a window takes "
            f"max_seq_len + 1 = {config.max_seq_len + 1}"
        )
    starts = np.arange(0, len(tokens) - config.max_seq_len, config.stride or config.max_seq_len)
    return Windows(tokens, starts, config.max_seq_len)


def val_windows(corpus: Corpus, config: RunConfig) -> Windows:
    """Validation windows side by side, whatever the stride, so that each token is predicted once.

    With `eval_tokens`, the fewest whole windows that hold so many, evenly spaced over the validation part.
    """
    if len(corpus.val) < 2:
        raise ValueError(f"data={config.data!r}: the validation part has {len(corpus.val)} tokens, and 2 are needed")
    starts = np.arange(0, len(corpus.val) - 1, config.max_seq_len)
    if config.eval_tokens is not None:
        starts = starts[evenly_spaced(len(starts), -(-config.eval_tokens // config.max_seq_len))]
    return Windows(corpus.val, starts, config.max_seq_len)


def train_eval_windows(corpus: Corpus, config: RunConfig, num_windows: int) -> Windows:
    """Training windows for evaluation: as many as validation's, evenly spaced, the same for all seeds."""
    windows = train_windows(corpus, config)
    return Windows(windows.tokens, windows.starts[evenly_spaced(len(windows), num_windows)], config.max_seq_len)


def evenly_spaced(num_items: int, num_wanted: int) -> NDArray[np.int64]:
    """The middles of `num_wanted` equal parts of range(num_items); all of it where it is shorter."""
    num_wanted = min(num_items, num_wanted)
    return (2 * np.arange(num_wanted) + 1) * num_items // (2 * num_wanted)


def micro_batch(windows: Windows, seed: int, index: int, batch_size: int) -> Batch:
    """Micro-batch `index` (0, 1, …) of the endless sequence of shuffled epochs that `seed` gives."""
    return windows.batch(micro_batch_indices(len(windows), seed, index, batch_size))


def micro_batch_indices(num_windows: int, seed: int, index: int, batch_size: int) -> NDArray[np.int64]:
    """Which windows micro-batch `index` holds. An epoch that ends inside it goes on into the next."""
    first = index * batch_size
    drawn: list[int] = []
    while len(drawn) < batch_size:
        epoch, position = divmod(first + len(drawn), num_windows)
        order = _epoch_order(num_windows, seed, epoch)
        drawn.extend(order[position : position + batch_size - len(drawn)])
    return np.array(drawn)


@lru_cache(maxsize=2)
def _epoch_order(num_windows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _DATA_ORDER, epoch)).permutation(num_windows)


class WindowDataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The same windows for whoever wants a DataLoader: `input_ids`, `attention_mask` and `labels`, each int64 [T].

    `labels[t]` is the token after `input_ids[t]` (already shifted), IGNORED where the text has ended.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch = self.windows.batch(np.array([index]))
        num_tokens = len(self.windows.tokens) - int(self.windows.starts[index])
        return {
            "input_ids": batch.input_ids[0],
            "attention_mask": (torch.arange(self.windows.max_seq_len) < num_tokens).long(),
            "labels": batch.labels[0],
        }

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))
