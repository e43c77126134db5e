"""What one optimizer step computes: gradients of micro-batches, and the update by them. Knows no data and no schedule.

Nothing here asks a GPU for a value: it works through what is queued while the host goes on to what comes next.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from tinylm_core.config import RunConfig
from tinylm_core.evaluate import Autocast, token_losses, widest_float
from tinylm_core.state import TrainState

# A gradient that still overflows at this loss scale is not finite by itself: 16 halvings of GradScaler's first scale.
MIN_LOSS_SCALE = 1.0


def autocast(config: RunConfig, device: str) -> Autocast:
    """Mixed precision for a forward pass; nothing for fp32 and fp64."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if config.precision not in dtypes:
        return nullcontext
    return partial(torch.autocast, device.partition(":")[0], dtype=dtypes[config.precision])


def add_gradients(
    model: nn.Module,
    scaler: torch.amp.GradScaler,
    mixed: Autocast,
    tokens_per_step: int,
    input_ids_BT: Tensor,
    labels_BT: Tensor,
) -> Tensor:
    """Add one micro-batch's share of the step's gradient; returns its share of the loss (law 3)."""
    with mixed():
        logits_BTV = model(input_ids_BT)
    loss: Tensor = token_losses(logits_BTV, labels_BT).sum() / tokens_per_step
    torch.autograd.backward(scaler.scale(loss))
    return loss.detach()


def update(state: TrainState, max_grad_norm: float | None) -> Tensor:
    """Clip the gradients and take the optimizer's step, by the rate that it was given.

    Returns [2]: the gradients' norm before clipping, and 1 where fp16 has skipped the step, else 0.
    """
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    state.scaler.unscale_(state.optimizer)  # type: ignore[arg-type]  # it needs no more of one than ours has
    norm = nn.utils.get_total_norm(gradients)
    if max_grad_norm is not None:
        clip_gradients(list(state.model.parameters()), max_grad_norm, norm)
    scale = _loss_scale(state.scaler, norm)
    state.scaler.step(state.optimizer)  # type: ignore[arg-type]
    state.scaler.update()
    skipped = (_loss_scale(state.scaler, norm) < scale) & (scale >= MIN_LOSS_SCALE)
    wide = widest_float(norm.device.type)
    return torch.stack((norm.to(wide), skipped.to(wide)))


def _loss_scale(scaler: torch.amp.GradScaler, like: Tensor) -> Tensor:
    """The factor of fp16 scaling, on the device; 1 where there is none."""
    return scaler.scale(torch.ones((), device=like.device))


def clip_gradients(parameters: list[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients of that total norm down to `max_norm`, if it is larger.

    PyTorch's own multiplies by 1 where it isn't, so that a GPU isn't waited for; on CPU that is spared.
    """
    if norm.device.type != "cpu" or not norm.item() < max_norm - 1e-3:  # a NaN, and PyTorch's own 1e-6, are its matter
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
