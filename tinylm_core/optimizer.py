"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with decay groups. Knows no schedule: its caller sets the rate."""

import torch
from torch import nn

from tinylm_core.config import RunConfig


def decay_groups(model: nn.Module, config: RunConfig) -> dict[str, list[str]]:
    """Parameter names under `decay` and `no_decay`, in the model's order.

    Matrices decay; norms and biases do not; embeddings do by `decay_embeddings` (a tied output projection is one).
    """
    groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and (config.decay_embeddings or "embedding" not in name)
        groups["decay" if decays else "no_decay"].append(name)
    return groups


def build_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """One parameter group for each decay group; the learning rate is set anew at every step."""
    parameters = dict(model.named_parameters())
    groups = decay_groups(model, config)
    return torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in groups["decay"]], "weight_decay": config.weight_decay},
            {"params": [parameters[name] for name in groups["no_decay"]], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
    )
