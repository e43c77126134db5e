"""How fast may a small MLP learn the two-spirals problem?

    python -m sweeps.run examples/mlp.py

A trainer of one's own: `train` has the signature of `tinylm_core.run` and its own config. A token is an example here.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sweeps import Choice, Sweep
from tinylm_core.records import EvalRecord, Metrics, StepRecord


@dataclass(frozen=True)
class Config:
    learning_rate: float = 1e-2
    width: int = 32
    batch_size: int = 64
    num_steps: int = 400
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size


def spirals(num_points: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(2, (num_points,), generator=generator)
    angle = 3 * math.pi * torch.rand(num_points, generator=generator).sqrt()
    turned = angle + math.pi * labels
    points = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1) / 5
    return points + 0.05 * torch.randn(points.shape, generator=generator), labels


def train(config: Config, *, on_steps, on_eval, should_stop, **_) -> Metrics:
    generator = torch.Generator().manual_seed(config.seed)
    held_out, seen = (spirals(2000, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    torch.manual_seed(config.seed)
    model = nn.Sequential(nn.Linear(2, config.width), nn.Tanh(), nn.Linear(config.width, config.width), nn.Tanh(),
                          nn.Linear(config.width, 2))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)

    def evaluate(step: int) -> None:
        with torch.no_grad():
            losses = [cross_entropy(model(points), labels, reduction="none") for points, labels in (held_out, seen)]
        (val, val_error), (seen_loss, seen_error) = ((x.mean().item(), x.std().item() / len(x) ** 0.5) for x in losses)
        on_eval(EvalRecord(step, step * config.tokens_per_step, val, val_error, seen_loss, seen_error))

    evaluate(0)
    state = "COMPLETE"
    for step in range(1, config.num_steps + 1):
        points, labels = spirals(config.batch_size, generator)
        loss = cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        on_steps([StepRecord(step, step * config.tokens_per_step, loss.item(), config.learning_rate, norm.item())])
        if step % max(1, config.num_steps // 8) == 0 or step == config.num_steps:
            evaluate(step)
        if should_stop():
            state = "INTERRUPTED"
            break
    return Metrics(state, num_parameters=sum(p.numel() for p in model.parameters()), vocab_size=2)


SWEEP = Sweep(
    base=Config(),
    space={"learning_rate": Choice(1e-3, 3e-3, 1e-2, 3e-2, 1e-1), "width": Choice(16, 64)},
    seeds=3,
    run=train,
    version=1,
)
