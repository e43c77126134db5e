"""Dropout whose masks are a pure function of (seed, micro-batch), so that a resumed run needs no generator's state.

On CPU the masks come from 16-bit random integers of NumPy's SFC64: PyTorch's own sampling costs more than the matrix
products around it. Elsewhere they are PyTorch's.
"""

import numpy as np
import torch
from torch import Tensor, nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_DROPOUT = 2  # keeps this random stream apart from others of the same seed


class MaskSource:
    """Where a model's dropout layers draw their masks from; `reseed` before every micro-batch.

    `native` masks are PyTorch's own, for GPUs and compiled graphs.
    """

    def __init__(self) -> None:
        self.native = False
        self._bits = np.random.SFC64(0)

    def reseed(self, seed: int, micro_batch: int) -> None:
        """Start the masks of one micro-batch."""
        entropy = (seed, _DROPOUT, micro_batch)
        if self.native:
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        else:
            self._bits = np.random.SFC64(entropy)

    def keep(self, x: Tensor, p: float) -> Tensor:
        """A mask shaped and typed like `x`: 0 with probability p (to 2**-16, and below 1), else 1 / (1 - p)."""
        threshold = min(round(p * 65_536), 65_535)
        words = self._bits.random_raw(-(-x.numel() // 4))
        keep = torch.from_numpy(words.view(np.uint16)[: x.numel()] >= threshold).view(x.shape)
        # The bits of the scale by an integer product: PyTorch turns bool into bf16 ten times slower.
        scale = torch.tensor(65_536 / (65_536 - threshold), dtype=x.dtype)
        as_integer = _INTEGERS[x.element_size()]
        return keep.to(as_integer).mul_(scale.view(as_integer)).view(x.dtype)


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
