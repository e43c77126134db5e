"""Law 5: the learning rate of every step."""

import math
import warnings
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from tinylm_core.config import RunConfig
from tinylm_core.schedule import learning_rate, warmup_steps

SCHEDULES = ["cosine", "linear", "constant", "wsd"]


def config_of(num_steps: int, **fields: object) -> RunConfig:
    budget = {"max_seq_len": 1, "batch_size": 1, "train_tokens": num_steps, "num_evals": 1}
    return RunConfig.model_validate(budget | fields)


def rates(config: RunConfig) -> list[float]:
    return [learning_rate(config, step) for step in range(1, config.num_steps + 1)]


configs = st.builds(
    config_of,
    num_steps=st.integers(1, 60),
    schedule=st.sampled_from(SCHEDULES),
    learning_rate=st.floats(1e-6, 10),
    warmup_ratio=st.floats(0, 1, exclude_max=True),
    min_lr_ratio=st.floats(0, 1),
    decay_ratio=st.floats(0, 1, exclude_min=True),
)


@pytest.mark.parametrize(
    ("ratio", "num_steps", "steps"),
    [
        (0.1, 30, 3),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001 in binary
        (0.29, 100, 29),
        (0.1, 31, 4),
        (0.0, 100, 0),
        (1e-9, 100, 1),
        (0.99, 100, 99),
        (0.991, 100, 100),
        (0.5, 1, 1),
    ],
)
def test_warmup_steps_are_rounded_up_in_decimal(ratio: float, num_steps: int, steps: int) -> None:
    assert warmup_steps(config_of(num_steps, warmup_ratio=ratio)) == steps


@pytest.mark.parametrize("num_steps", [30, 96, 100, 1000])
def test_warmup_steps_of_every_thousandth_are_exact(num_steps: int) -> None:
    for thousandths in range(1000):
        config = config_of(num_steps, warmup_ratio=thousandths / 1000)
        assert warmup_steps(config) == math.ceil(Fraction(thousandths * num_steps, 1000))


@given(config=configs)
def test_rate_is_never_negative_and_never_above_the_peak(config: RunConfig) -> None:
    assert all(0 <= rate <= config.learning_rate * (1 + 1e-15) for rate in rates(config))


@given(config=configs)
def test_warmup_is_a_straight_line_to_the_peak(config: RunConfig) -> None:
    warmup = warmup_steps(config)
    expected = [config.learning_rate * step / warmup for step in range(1, warmup + 1)]
    assert rates(config)[:warmup] == expected
    assert not warmup or expected[-1] == pytest.approx(config.learning_rate, rel=1e-15)


@given(config=configs)
def test_rate_falls_after_the_warmup_without_a_jump(config: RunConfig) -> None:
    warmup, num_steps, peak = warmup_steps(config), config.num_steps, config.learning_rate
    after = [peak, *rates(config)[warmup:]]
    falls = [before - rate for before, rate in pairwise(after)]
    decaying = num_steps - warmup
    if config.schedule == "wsd":
        decaying = min(decaying, math.ceil(Decimal(repr(config.decay_ratio)) * num_steps))
    # No step of half a cosine falls further than its steepest, pi / 2 of the straight line's.
    steepest = peak * (1 - config.min_lr_ratio) / max(decaying, 1) * math.pi / 2
    assert all(-1e-15 * peak <= fall <= steepest + 1e-12 * peak for fall in falls)


@given(config=configs.filter(lambda config: warmup_steps(config) < config.num_steps))
def test_every_schedule_but_constant_ends_at_the_smallest_rate(config: RunConfig) -> None:
    end = 1.0 if config.schedule == "constant" else config.min_lr_ratio
    assert rates(config)[-1] == pytest.approx(end * config.learning_rate, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_warmup_starts_just_below_the_peak(schedule: str) -> None:
    config = config_of(100, warmup_ratio=0.0, schedule=schedule, learning_rate=1.0)
    assert 0.98 < rates(config)[0] <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_of_nearly_everything_is_a_warmup_of_every_step(schedule: str) -> None:
    config = config_of(10, warmup_ratio=0.999, schedule=schedule, learning_rate=1.0)
    assert rates(config) == [step / 10 for step in range(1, 11)]


@given(config=configs)
def test_rates_are_those_of_pytorchs_schedulers(config: RunConfig) -> None:
    assert rates(config) == pytest.approx(rates_of_pytorch(config), rel=1e-9, abs=1e-12 * config.learning_rate)


def rates_of_pytorch(config: RunConfig) -> list[float]:
    """The same curve composed of torch.optim.lr_scheduler. Their step e = 0, 1, … is our step e + 1."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=config.learning_rate)
    num_steps, warmup, end = config.num_steps, warmup_steps(config), config.min_lr_ratio
    decaying = num_steps - warmup
    flat = 0
    if config.schedule == "wsd":
        flat = max(0, decaying - math.ceil(Decimal(repr(config.decay_ratio)) * num_steps))
    parts: list[tuple[LRScheduler, int]] = []  # with the step of ours at which each is at its own step 0
    if warmup > 1:
        parts.append((LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1), 1))
    if flat or config.schedule == "constant":
        parts.append((ConstantLR(optimizer, 1.0, total_iters=0), warmup))
    if config.schedule == "cosine" and decaying:
        parts.append((CosineAnnealingLR(optimizer, decaying, eta_min=end * config.learning_rate), warmup))
    if config.schedule in ("linear", "wsd") and decaying:
        parts.append((LinearLR(optimizer, 1.0, end, total_iters=decaying - flat), warmup + flat))
    first = min((start for _, start in parts), default=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its own deprecated interface
        scheduler = SequentialLR(
            optimizer, [part for part, _ in parts], milestones=[start - first for _, start in parts[1:]]
        ) if parts else ConstantLR(optimizer, 1.0)  # fmt: skip
        rates = []
        for _ in range(first, num_steps + 1):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates[1 - first :]


@pytest.mark.parametrize("step", [-1, 0, 11])
def test_step_outside_the_run_has_no_rate(step: int) -> None:
    with pytest.raises(ValueError, match="step="):
        learning_rate(config_of(10), step)
