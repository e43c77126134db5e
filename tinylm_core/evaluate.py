"""Loss over fixed windows, dropout off: the one routine that measures both train and validation loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinylm_core.data import IGNORED, Windows

Autocast = Callable[[], AbstractContextManager[object]]  # what a forward pass is computed within

# Tokens in a forward pass. The shape of a batch can change the last bit: whoever changes this raises NUMERICS_VERSION.
EVAL_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Estimate:
    """Mean loss in nats per token and its standard error, with windows as the sampling unit."""

    loss: float
    standard_error: float


def token_losses(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross entropy of every position [B, T] in nats, 0 where the label is IGNORED; at least in float32."""
    logits = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(labels_BT)


@torch.inference_mode()
def window_sums(model: nn.Module, autocast: Autocast, input_ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Of each window the sum of its tokens' losses and their number: [2, B]."""
    was_training = model.training
    model.eval()
    try:
        with autocast():
            logits_BTV = model(input_ids_BT)
    finally:
        model.train(was_training)
    wide = widest_float(labels_BT.device.type)
    return torch.stack(
        (token_losses(logits_BTV, labels_BT).sum(1, dtype=wide), (labels_BT != IGNORED).sum(1, dtype=wide))
    )


def evaluate(
    measure: Callable[[Tensor, Tensor], Tensor],
    windows: Windows,
    *,
    device: str,
    should_stop: Callable[[], bool] = lambda: False,
) -> Estimate | None:
    """Token-weighted mean loss over all windows, by `window_sums`; None where it was asked to stop on the way."""
    sums: list[Tensor] = []
    batch_size = max(1, EVAL_BATCH_TOKENS // windows.max_seq_len)
    for first in range(0, len(windows), batch_size):
        if should_stop():
            return None
        batch = windows.batch(np.arange(first, min(first + batch_size, len(windows)))).to(device)
        sums.append(measure(batch.input_ids, batch.labels))
    losses, tokens = torch.cat(sums, dim=1).cpu().double().numpy()
    return estimate(losses, tokens)


def widest_float(device: str) -> torch.dtype:
    """What sums are kept in: float64, which MPS lacks."""
    return torch.float32 if device.startswith("mps") else torch.float64


def estimate(losses: np.ndarray, tokens: np.ndarray) -> Estimate:
    """The ratio estimator over clusters (Cochran 1977, section 6.5): sums of losses [W] over numbers of tokens [W].

    The standard error of a single window is not known: NaN.
    """
    num_windows = len(losses)
    loss = losses.sum() / tokens.sum()
    if num_windows < 2:
        return Estimate(float(loss), float("nan"))
    residuals = losses - loss * tokens
    variance = num_windows / (num_windows - 1) * (residuals**2).sum()
    return Estimate(float(loss), float(np.sqrt(variance) / tokens.sum()))
