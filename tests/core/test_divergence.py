"""A number that is not finite: a step that fp16 scaling skips, or divergence, which is a result (law 11)."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from runs import Listener, allow_fp16, bits
from torch import Tensor

from tinylm_core import train as train_module
from tinylm_core.config import RunConfig, resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.device_steps import DeviceSteps
from tinylm_core.machine import Machine, this_machine
from tinylm_core.schedule import learning_rate
from tinylm_core.train import TrainingLoop, run

REPOSITORY = Path(__file__).parents[2]
Tiny = Callable[..., RunConfig]


# --- fp16 and its skipped steps


def test_fp16_is_refused_where_it_can_not_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)
    monkeypatch.setattr(train_module, "this_machine", lambda _: slow)
    with pytest.raises(ValueError, match=r"^precision='fp16': cpu \(AVX2\) has no fp16 arithmetic; use bf16$"):
        run(tiny(precision="fp16"), threads=1)


def test_a_step_that_loss_scaling_skips_is_logged_and_leaves_the_weights(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scale is so high that gradients really overflow fp16, until halving it has brought them back."""
    allow_fp16(monkeypatch, first_scale=2.0**40)
    config = tiny(precision="fp16", dropout=0.0, train_tokens=64 * 48, num_evals=48)
    metrics = run(config, device="cpu", threads=1)
    assert metrics.state == "COMPLETE"
    skipped = [record.skipped for record in metrics.steps]
    num_skipped = skipped.index(False)
    assert 2 < num_skipped < 30
    assert not any(skipped[num_skipped:])
    assert [record.step for record in metrics.steps] == list(range(1, 49))  # it counts
    assert [r.learning_rate for r in metrics.steps] == [learning_rate(config, step) for step in range(1, 49)]
    assert all(math.isfinite(record.loss) for record in metrics.steps)
    assert [math.isfinite(record.grad_norm) for record in metrics.steps] == [not skip for skip in skipped]
    assert len({record.val_loss for record in metrics.evals[: num_skipped + 1]}) == 1
    assert metrics.evals[num_skipped + 1].val_loss != metrics.evals[0].val_loss


def test_fp16_steps_are_those_of_float32_but_for_rounding(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_fp16(monkeypatch)
    runs = {
        precision: run(tiny(precision=precision), device="cpu", threads=1) for precision in ("fp32", "bf16", "fp16")
    }
    for precision in ("bf16", "fp16"):
        assert [r.loss for r in runs[precision].steps] == pytest.approx([r.loss for r in runs["fp32"].steps], rel=5e-3)
        assert [r.grad_norm for r in runs[precision].steps] == pytest.approx(
            [r.grad_norm for r in runs["fp32"].steps], rel=5e-2
        )
        assert bits(runs[precision]) != bits(runs["fp32"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_asks_its_device_for_no_value(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """A GPU would be waited for. Tensors of the meta device have no values, so that asking for one is an error."""
    allow_fp16(monkeypatch)
    monkeypatch.setattr(train_module, "conditions", lambda *_: {})
    monkeypatch.setattr(train_module, "autocast", lambda *_: nullcontext)  # which PyTorch has not for meta
    config = resolve(tiny(precision=precision), this_machine("cpu"))
    loop = TrainingLoop(config, load_corpus(config), "meta", None, 1e9)
    assert loop.state.scaler.is_enabled() == (precision == "fp16")
    loop.state.optimizer._fused = loop.state.optimizer._step_supports_amp_scaling = True  # as on a GPU
    for _ in range(2):
        _, *told = loop.optimizer_step()
        for value in told:
            assert value.device.type == "meta"
            with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
                value.item()


# --- Law 11: divergence

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rows", "kept", "diverged_at"),
    [
        ([(1.0, 1.0, False)] * 3, 3, None),
        ([(1.0, 1.0, False), (NAN, 1.0, False), (1.0, 1.0, False)], 1, 7),
        ([(INF, 1.0, False)], 0, 6),
        ([(1.0, INF, False)], 0, 6),
        ([(1.0, NAN, False), (1.0, 1.0, False)], 0, 6),
        ([(1.0, 1.0, False), (1.0, INF, True), (1.0, NAN, True), (1.0, 1.0, False)], 4, None),  # skipped by fp16
        ([(1.0, INF, True), (NAN, INF, True)], 1, 7),  # a loss that isn't finite is no matter of scaling
    ],
)
def test_the_first_number_that_is_not_finite_diverges_unless_it_was_skipped(
    rows: list[tuple[float, float, bool]], kept: int, diverged_at: int | None
) -> None:
    pending = DeviceSteps(step=5, tokens_per_step=64)
    for loss, grad_norm, skipped in rows:
        pending.add(1e-3, torch.tensor(loss), torch.tensor(grad_norm), torch.tensor(skipped))
    records, told = pending.flush()
    assert told == diverged_at
    assert [record.step for record in records] == list(range(6, 6 + kept))
    assert [record.skipped for record in records] == [row[2] for row in rows[:kept]]


@pytest.mark.parametrize("flush_steps", [1, 4, 20])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_divergence_is_a_result_with_the_records_before_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_steps: int, precision: str
) -> None:
    allow_fp16(monkeypatch)
    monkeypatch.setattr("tinylm_core.pending.FLUSH_STEPS", flush_steps)
    config = tiny(precision=precision, learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=None)
    config = config.replace({"train_tokens": 64 * 24, "num_evals": 1})
    listener = Listener()
    metrics = listener.run(config, workdir=tmp_path)
    assert metrics.state == "DIVERGED"
    assert metrics.diverged_at == len(metrics.steps) + 1 > 1
    assert all(math.isfinite(record.loss) for record in metrics.steps)
    assert all(math.isfinite(record.grad_norm) or record.skipped for record in metrics.steps)
    assert listener.steps == metrics.steps
    assert metrics.objective == math.log(metrics.vocab_size)
    assert metrics.weights_sha256 is None
    assert not (tmp_path / "checkpoint").exists()
    assert bits(run(config, threads=1, workdir=tmp_path)) == bits(metrics)  # and again the same
    monkeypatch.setattr("tinylm_core.pending.FLUSH_STEPS", 3)
    assert bits(run(config, threads=1)) == bits(metrics)


def test_gradients_that_overflow_at_any_scale_diverge(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving the loss scale again and again must come to an end."""
    allow_fp16(monkeypatch)
    backward = TrainingLoop._backward

    def overflowing(self: TrainingLoop, index: int) -> Tensor:
        loss = backward(self, index)
        next(self.state.model.parameters()).grad[0, 0] = math.inf  # type: ignore[index]
        return loss

    monkeypatch.setattr(TrainingLoop, "_backward", overflowing)
    metrics = run(tiny(precision="fp16", train_tokens=64 * 48), device="cpu", threads=1)
    assert metrics.state == "DIVERGED"
    assert 10 < len(metrics.steps) < 20  # 16 halvings of the first scale
    assert all(record.skipped for record in metrics.steps)


def test_a_model_whose_evaluation_is_not_finite_diverges_at_once(tiny: Tiny) -> None:
    metrics = run(tiny(precision="fp32", init_std=1e30), threads=1)
    assert (metrics.state, metrics.steps, metrics.evals, metrics.diverged_at) == ("DIVERGED", [], [], 0)
    assert metrics.objective == math.log(metrics.vocab_size)


def test_objective_is_at_most_the_logarithm_of_the_vocabulary(tiny: Tiny) -> None:
    metrics = run(tiny(learning_rate=10.0, warmup_ratio=0.0, schedule="constant"), threads=1)
    assert metrics.state == "COMPLETE"
    assert metrics.final.val_loss > math.log(metrics.vocab_size)
    assert metrics.objective == math.log(metrics.vocab_size)
