"""Dropout's masks: the right share, the right scale, and the same for the same (seed, micro-batch)."""

import itertools
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinylm_core.dropout import Dropout, MaskSource

ONES = torch.ones(400, 500, dtype=torch.float64)


def masks(
    seed: int, micro_batch: int, *, native: str | None = None, num: int = 2, p: float = 0.3
) -> list[torch.Tensor]:
    source = MaskSource()
    source.native = native
    layers = [Dropout(p, source) for _ in range(num)]
    source.reseed(seed, micro_batch)
    return [layer(ONES[:40]) for layer in layers]


@pytest.mark.parametrize("native", [None, "cpu"])
def test_masks_are_a_function_of_seed_and_micro_batch(native: str | None) -> None:
    usual = masks(1, 2, native=native)
    assert all(map(torch.equal, usual, masks(1, 2, native=native)))
    assert not torch.equal(usual[0], usual[1])
    for seed, micro_batch in [(1, 3), (2, 2), (2, 1)]:
        assert not torch.equal(usual[0], masks(seed, micro_batch, native=native)[0])


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_s_masks_seed_the_generator_of_that_gpu_alone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    seeded: dict[str, list[int]] = {name: [] for name in ("cuda", "mps", "every")}
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded["cuda"].append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeded["mps"].append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded["every"].append)
    before = torch.get_rng_state()
    source = MaskSource()
    source.native = kind
    source.reseed(1, 2)
    source.reseed(1, 3)
    assert {name: len(set(seeds)) for name, seeds in seeded.items()} == {"cuda": 0, "mps": 0, "every": 0} | {kind: 2}
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_do_not_depend_on_the_order_in_which_layers_ask() -> None:
    source = MaskSource()
    layers = [Dropout(0.3, source) for _ in range(3)]
    source.reseed(5, 7)
    forwards = [layer(ONES) for layer in layers]
    backwards = [layer(ONES) for layer in reversed(layers)]
    assert all(map(torch.equal, forwards, reversed(backwards)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL's command is not here")
def test_masks_are_aes_in_counter_mode() -> None:
    """The first 16-bit integers of (seed 1, micro-batch 2, layer 3), by OpenSSL's own command where it is there."""
    source = MaskSource()
    source.reseed(1, 2)
    key = np.random.SeedSequence((1, 2)).generate_state(4, np.uint32).astype("<u4").tobytes()
    counter = bytes.fromhex("00000000000000020000000300000000")
    command = ["openssl", "enc", "-aes-128-ctr", "-K", key.hex(), "-iv", counter.hex()]
    said = subprocess.run(command, input=bytes(2 * ONES.numel()), capture_output=True, check=True).stdout
    kept = np.frombuffer(said, "<u2") >= round(0.3 * 65_536)
    assert np.array_equal(source.keep(ONES, 0.3, 3).numpy() != 0, kept.reshape(ONES.shape))


def test_neighbouring_masks_are_independent() -> None:
    """Those of two layers, and of two micro-batches, agree as often as two drawn apart do."""
    source = MaskSource()
    drawn = []
    for micro_batch in range(3):
        source.reseed(0, micro_batch)
        drawn += [(source.keep(ONES, 0.5, layer) != 0).flatten() for layer in range(3)]
    for one, other in itertools.combinations(drawn, 2):
        assert abs((one == other).double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(ONES.numel())


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_share_and_scale_keep_the_mean(p: float, dtype: torch.dtype) -> None:
    mask = MaskSource().keep(ONES.to(dtype), p, 1)
    assert mask.dtype == dtype
    assert mask.shape == ONES.shape
    kept = (mask != 0).double().mean().item()
    assert abs(kept - (1 - p)) < 5 * math.sqrt(p * (1 - p) / ONES.numel()) + 2**-16
    scale = mask[mask != 0].double().unique()
    assert scale.numel() == 1
    assert scale.item() == pytest.approx(1 / (1 - p), rel=4e-3 if dtype == torch.bfloat16 else 2**-16 / (1 - p))


@given(p=st.floats(0, 1, exclude_max=True))
def test_any_probability_below_one_gives_finite_masks(p: float) -> None:
    assert MaskSource().keep(ONES[:2], p, 1).isfinite().all()


@pytest.mark.parametrize("native", [None, "cpu"])
def test_nothing_is_dropped_outside_training_or_at_probability_zero(native: str | None) -> None:
    source = MaskSource()
    source.native = native
    assert Dropout(0.9, source).eval()(ONES) is ONES
    assert Dropout(0.0, source)(ONES) is ONES


def test_gradient_flows_through_what_was_kept() -> None:
    x = ONES.clone().requires_grad_()
    out = Dropout(0.5, MaskSource())(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
