"""The one routine that measures: token-weighted, whatever the batches, with the right standard error."""

import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

from tinylm_core import evaluate as evaluate_module
from tinylm_core.config import RunConfig
from tinylm_core.data import IGNORED, Windows
from tinylm_core.evaluate import Estimate, estimate, evaluate, token_losses, window_sums
from tinylm_core.model import TinyGPT

V = 13
TOKENS = np.random.default_rng(0).integers(0, V, 50).astype(np.uint16)
WINDOWS = Windows(TOKENS, np.arange(0, 49, 8), 8)  # the last one holds a single token to predict


def build() -> TinyGPT:
    torch.manual_seed(0)
    config = RunConfig(max_seq_len=8, d_model=12, num_layers=1, num_heads=2, init_std=0.5, dropout=0.5)
    return TinyGPT(config, V).double()


def measure(model: TinyGPT, windows: Windows = WINDOWS, **options: Any) -> Estimate:
    measured = evaluate(partial(window_sums, model, nullcontext), windows, device="cpu", **options)
    assert measured is not None
    return measured


def losses_by_numpy(model: TinyGPT) -> list[np.ndarray]:
    """The losses of each window's tokens, one window at a time, by a log-softmax of our own."""
    losses = []
    for start in WINDOWS.starts:
        ids = TOKENS[start : start + 9].astype(np.int64)
        logits = model.eval()(torch.from_numpy(ids[None, :-1])).detach().numpy()[0]
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.append(-log_probabilities[np.arange(len(ids) - 1), ids[1:]])
    return losses


def test_loss_is_the_mean_over_tokens_not_the_mean_of_means() -> None:
    model = build()
    losses = losses_by_numpy(model)
    assert [len(window) for window in losses] == [8, 8, 8, 8, 8, 8, 1]
    measured = measure(model).loss
    assert measured == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
    assert measured != pytest.approx(np.mean([window.mean() for window in losses]), rel=1e-4)


def test_standard_error_is_the_ratio_estimators_over_windows() -> None:
    """Cochran 1977, equation 6.13: sqrt of sum((y - R x)**2) / (W (W - 1)) over the mean of x."""
    model = build()
    losses = losses_by_numpy(model)
    sums, tokens = np.array([window.sum() for window in losses]), np.array([len(window) for window in losses])
    ratio, W = sums.sum() / tokens.sum(), len(losses)
    expected = math.sqrt(((sums - ratio * tokens) ** 2).sum() / (W * (W - 1))) / tokens.mean()
    assert measure(model).standard_error == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(0, 20), min_size=2, max_size=30), st.integers(1, 100))
def test_standard_error_of_equal_windows_is_that_of_their_means(means: list[float], tokens: int) -> None:
    measured = estimate(np.array(means) * tokens, np.full(len(means), tokens))
    assert measured.loss == pytest.approx(np.mean(means), rel=1e-12, abs=1e-12)
    assert measured.standard_error == pytest.approx(stats.sem(means), rel=1e-9, abs=1e-12)


def test_standard_error_is_the_spread_of_repeated_measurements() -> None:
    random = np.random.default_rng(0)
    measured = []
    for _ in range(2000):
        tokens = random.integers(1, 17, 60)
        losses = tokens * random.normal(3, 0.4, 60) + random.normal(0, 0.5, 60)
        measured.append(estimate(losses, tokens))
    spread = np.std([one.loss for one in measured], ddof=1)
    assert np.mean([one.standard_error for one in measured]) == pytest.approx(spread, rel=0.06)


def test_standard_error_of_one_window_is_not_known() -> None:
    measured = estimate(np.array([6.0]), np.array([2]))
    assert measured.loss == 3
    assert math.isnan(measured.standard_error)


@pytest.mark.parametrize("batch_tokens", [1, 16, 24])
def test_loss_does_not_depend_on_the_batches(batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    whole = measure(model)
    monkeypatch.setattr(evaluate_module, "EVAL_BATCH_TOKENS", batch_tokens)
    parts = measure(model)
    assert (parts.loss, parts.standard_error) == pytest.approx((whole.loss, whole.standard_error), rel=1e-12)


def test_loss_does_not_depend_on_the_order_of_windows() -> None:
    model = build()
    turned = measure(model, Windows(TOKENS, WINDOWS.starts[::-1].copy(), 8))
    usual = measure(model)
    assert (turned.loss, turned.standard_error) == pytest.approx((usual.loss, usual.standard_error), rel=1e-12)


def test_loss_is_measured_without_dropout_and_the_model_goes_on_as_it_was() -> None:
    for training in (True, False):
        model = build().train(training)
        assert measure(model) == measure(model)
        assert model.training is training
        assert model.blocks[0].training is training


def test_model_goes_on_as_it_was_after_an_evaluation_that_failed_or_stopped() -> None:
    model = build().train()
    beyond = Windows(np.full(50, V, dtype=np.uint16), WINDOWS.starts, 8)
    with pytest.raises(IndexError):
        measure(model, beyond)
    assert model.training
    assert evaluate(partial(window_sums, model, nullcontext), WINDOWS, device="cpu", should_stop=lambda: True) is None
    assert model.training


def test_evaluation_keeps_no_graph_and_no_gradient() -> None:
    model = build()
    measure(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_should_stop_is_asked_at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "EVAL_BATCH_TOKENS", 16)
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    assert evaluate(partial(window_sums, build(), nullcontext), WINDOWS, device="cpu", should_stop=should_stop) is None
    assert len(asked) == 3


def test_token_losses_are_pytorchs_cross_entropy_and_nothing_where_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 5, V, generator=generator, dtype=torch.float64)
    labels = torch.randint(V, (2, 5), generator=generator)
    labels[0, 3:] = IGNORED
    labels[1, 0] = 0
    losses = token_losses(logits, labels)
    for b in range(2):
        for t in range(5):
            expected = 0.0 if labels[b, t] == IGNORED else F.cross_entropy(logits[b, t], labels[b, t]).item()
            assert losses[b, t].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_token_losses_of_low_precision_logits_are_taken_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.arange(4)[None]
    losses = token_losses(logits, labels)
    assert losses.dtype == torch.float32
    exact = token_losses(logits.double(), labels)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=1e-6)
