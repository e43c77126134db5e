"""Dropout whose masks are a pure function of (seed, micro-batch, layer): a resumed run needs no generator's state.

On CPU the masks come from 16-bit random integers of AES in counter mode (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"), which processors have in hardware: PyTorch's own sampling costs more than the matrix products
around it. Elsewhere they are PyTorch's.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor, nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_DROPOUT = 2  # keeps this random stream apart from others of the same seed


class MaskSource:
    """Where a model's dropout layers draw their masks from; `reseed` before every micro-batch.

    `native` is the kind of device that draws PyTorch's own masks, for GPUs; None for those of here.
    """

    def __init__(self) -> None:
        self.native: str | None = None
        # (seed, micro-batch): a tensor, which a compiled graph takes as an input and isn't compiled for anew.
        self._place = torch.zeros(2, dtype=torch.int64)
        self._num_layers = 0

    def reseed(self, seed: int, micro_batch: int) -> None:
        """Start the masks of one micro-batch."""
        if self.native:
            entropy = (seed, _DROPOUT, micro_batch)
            # Only the generator that draws: `torch.manual_seed` seeds every GPU, of which the others are the caller's.
            own = {"cuda": torch.cuda.manual_seed, "mps": torch.mps.manual_seed}
            own_seed = own.get(self.native, torch.default_generator.manual_seed)
            own_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        else:
            self._place.copy_(torch.tensor((seed, micro_batch)))

    def next_layer(self) -> int:
        """A number for a layer that draws from here."""
        self._num_layers += 1
        return self._num_layers

    def keep(self, x: Tensor, p: float, layer: int) -> Tensor:
        """A layer's mask, shaped and typed as `x`: 0 with probability p (to 2**-16, and below 1), else 1 / (1 - p)."""
        draw = _draw_compiled if torch.compiler.is_compiling() else _draw
        return draw(self._place, layer, x.shape, x.dtype, p)


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales the others so that the mean stays."""

    def __init__(self, p: float, source: MaskSource) -> None:
        super().__init__()
        self.p = p
        self.source = source
        self.layer = source.next_layer()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.source.native:
            return nn.functional.dropout(x, self.p)
        return x * self.source.keep(x, self.p, self.layer)


def _draw(place: Tensor, layer: int, shape: Sequence[int], dtype: torch.dtype, p: float) -> Tensor:
    seed, micro_batch = place.tolist()
    threshold = min(round(p * 65_536), 65_535)
    keep = torch.from_numpy(_random_integers(seed, micro_batch, layer, math.prod(shape)) >= threshold)
    # The bits of the scale by an integer product: PyTorch turns bool into bf16 ten times slower.
    scale = torch.tensor(65_536 / (65_536 - threshold), dtype=dtype)
    as_integer = _INTEGERS[dtype.itemsize]
    return keep.to(as_integer).mul_(scale.view(as_integer)).view(dtype).view(shape)


# To the compiler one operation that it can't look into: the graph it would make of PyTorch's own sampling takes three
# times as long as the whole step.
_draw_compiled = torch.library.custom_op(
    "tinylm::dropout_mask",
    _draw,
    mutates_args=(),
    schema="(Tensor place, int layer, SymInt[] shape, ScalarType dtype, float p) -> Tensor",
)


@_draw_compiled.register_fake
def _(_place: Tensor, _layer: int, shape: Sequence[int], dtype: torch.dtype, _p: float) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _random_integers(seed: int, micro_batch: int, layer: int, count: int) -> np.ndarray:
    """Zeros encrypted under the seed's key, counted from (micro-batch, layer, 0): `count` of 16 bits, uniform."""
    counter = micro_batch.to_bytes(8, "big") + layer.to_bytes(4, "big") + bytes(4)
    zeros = _zeros(2 * count)
    drawn = np.empty(len(zeros) + AES128.block_size // 8, np.uint8)  # a block more, as the library asks
    Cipher(_key(seed), CTR(counter)).encryptor().update_into(zeros, drawn.data)
    return drawn[: len(zeros)].view("<u2")


@lru_cache(maxsize=2)
def _key(seed: int) -> AES128:
    return AES128(np.random.SeedSequence((seed, _DROPOUT)).generate_state(4, np.uint32).astype("<u4").tobytes())


@lru_cache(maxsize=4)  # a model has three shapes
def _zeros(num_bytes: int) -> bytes:
    return bytes(num_bytes)
