"""Dropout whose masks are a pure function of (seed, micro-batch), so that a resumed run needs no generator's state.

On CPU the masks come from 16-bit random integers of NumPy's SFC64: PyTorch's own sampling costs more than the matrix
products around it. Elsewhere they are PyTorch's.
"""

import numpy as np
import torch
from torch import Tensor, nn

_DROPOUT = 2  # keeps this random stream apart from others of the same seed


class MaskSource:
    """Where a model's dropout layers draw their masks from; `reseed` before every micro-batch.

    `native` masks are PyTorch's own, for GPUs and compiled graphs.
    """

    def __init__(self) -> None:
        self.native = False
        self._rng = np.random.Generator(np.random.SFC64(0))

    def reseed(self, seed: int, micro_batch: int) -> None:
        """Start the masks of one micro-batch."""
        entropy = (seed, _DROPOUT, micro_batch)
        if self.native:
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        else:
            self._rng = np.random.Generator(np.random.SFC64(entropy))

    def keep(self, x: Tensor, p: float) -> Tensor:
        """A mask shaped and typed like `x`: 0 with probability p (to 2**-16), else 1 / (1 - p)."""
        threshold = round(p * 65_536) - 32_768
        bits = torch.frombuffer(bytearray(self._rng.bytes(2 * x.numel())), dtype=torch.int16).view(x.shape)
        return (bits >= threshold).to(x.dtype).mul_(65_536 / (32_768 - threshold))


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and scales the others so that the mean stays."""

    def __init__(self, p: float, source: MaskSource) -> None:
        super().__init__()
        self.p = p
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.source.native:
            return nn.functional.dropout(x, self.p)
        return x * self.source.keep(x, self.p)
