"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with decay groups. Knows no schedule: its caller sets the rate."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tinylm_core.config import RunConfig

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of a parameter, by the names that PyTorch gives them


def decay_groups(model: nn.Module, config: RunConfig) -> dict[str, list[str]]:
    """Parameter names under `decay` and `no_decay`, in the model's order.

    Matrices decay; norms and biases do not; embeddings do by `decay_embeddings` (a tied output projection is one).
    """
    groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and (config.decay_embeddings or "embedding" not in name)
        groups["decay" if decays else "no_decay"].append(name)
    return groups


class AdamW:
    """`torch.optim.adamw`, its state and parameter groups as `torch.optim.AdamW` has them, to the same bits.

    That class loads PyTorch's compiler when one is made: 0.8 s of every process that trains.
    """

    # What `torch.amp.GradScaler` sets for a step, so that a fused one finds out itself whether to skip it.
    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    # The rate of the next step on the device, for one that is captured: a number would stay as it was then.
    rate: Tensor | None = None

    def __init__(self, param_groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        self.param_groups, self._betas, self._eps = param_groups, betas, eps
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._fused = param_groups[0]["params"][0].device.type in ("cpu", "cuda")
        self._step_supports_amp_scaling = self._fused

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps from here on, of all groups."""
        for group in self.param_groups:
            group["lr"] = rate
        if self.rate is not None:
            self.rate.fill_(rate)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient, by `rate`, or where that is None its group's `lr`."""
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state.get(parameter) or self._begin(parameter) for parameter in params]
            adamw(
                params,
                [parameter.grad for parameter in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=self._fused,
                grad_scale=self.grad_scale,
                found_inf=self.found_inf,
                amsgrad=False,
                maximize=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"] if self.rate is None else self.rate,
                weight_decay=group["weight_decay"],
                eps=self._eps,
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _begin(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        count = torch.zeros((), dtype=torch.float32, device=parameter.device if self._fused else "cpu")
        self.state[parameter] = dict(
            zip(MOMENTS, (count, torch.zeros_like(parameter), torch.zeros_like(parameter)), strict=True)
        )
        return self.state[parameter]


def build_optimizer(model: nn.Module, config: RunConfig) -> AdamW:
    """One parameter group for each decay group; the learning rate is set anew at every step."""
    parameters = dict(model.named_parameters())
    decays = {"decay": config.weight_decay, "no_decay": 0.0}
    return AdamW(
        [
            {"params": [parameters[name] for name in names], "weight_decay": decays[group], "lr": config.learning_rate}
            for group, names in decay_groups(model, config).items()
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
