"""The laws of `run`: accumulation, equal tokens, the rate used is the rate logged; against a plain loop of PyTorch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import loop_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from tinylm_core import optimizer as optimizer_module
from tinylm_core.checkpoint import load_model, weights_sha256
from tinylm_core.config import RunConfig, resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.data import micro_batch, train_windows
from tinylm_core.machine import this_machine
from tinylm_core.model import TinyGPT
from tinylm_core.schedule import learning_rate, warmup_steps
from tinylm_core.train import run

REPOSITORY = Path(__file__).parents[2]
Tiny = Callable[..., RunConfig]


# --- Against a plain PyTorch loop


@pytest.mark.parametrize(
    "fields",
    [
        {"norm_first": False, "activation": "relu", "max_grad_norm": 0.5, "schedule": "linear"},
        {"max_grad_norm": None, "warmup_ratio": 0.0, "batch_size": 8, "gradient_accumulation_steps": 1},
        {"tie_embeddings": True, "decay_embeddings": False, "bias": False, "schedule": "wsd", "stride": 3},
    ],
)
def test_run_is_what_a_plain_loop_over_pytorchs_parts_computes(tiny: Tiny, fields: dict[str, Any]) -> None:
    config = resolve(tiny(dropout=0.0, weight_decay=0.3, init_std=0.2).replace(fields), this_machine("cpu"))
    metrics = run(config, threads=1)
    corpus = load_corpus(config)
    windows = train_windows(corpus, config)
    torch.manual_seed(config.seed)
    model = TinyGPT(config, corpus.vocab_size).double()
    embeddings = {id(model.token_embedding.weight), id(model.position_embedding.weight)}
    groups: list[dict[str, Any]] = []
    for parameter in model.parameters():
        decays = parameter.dim() == 2 and (config.decay_embeddings or id(parameter) not in embeddings)
        groups.append({"params": [parameter], "weight_decay": 0.3 if decays else 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, foreach=False)
    for step, record in enumerate(metrics.steps, start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        batch_size = config.batch_size * config.gradient_accumulation_steps
        batch = micro_batch(windows, config.seed, step - 1, batch_size)  # the whole step at once
        loss = F.cross_entropy(model(batch.input_ids).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf)
        optimizer.step()
        assert record.loss == pytest.approx(loss.item(), rel=1e-10)
        assert record.grad_norm == pytest.approx(grad_norm.item(), rel=1e-8)
    val, T = torch.from_numpy(corpus.val.astype(np.int64)), config.max_seq_len
    total = 0.0
    for start in range(0, len(val) - 1, T):
        inputs, labels = val[start : start + T], val[start + 1 : start + T + 1]
        with torch.no_grad():
            total += F.cross_entropy(model(inputs[None, : len(labels)])[0], labels, reduction="sum").item()
    whole = run(config.replace({"eval_tokens": None}), threads=1)
    assert whole.final.val_loss == pytest.approx(total / (len(val) - 1), rel=1e-9)


def test_a_run_on_text_learns_it(tiny: Tiny) -> None:
    metrics = run(tiny(precision="fp32", train_tokens=64 * 300, learning_rate=1e-2, dropout=0.0), threads=1)
    assert metrics.final.val_loss < 0.5 * metrics.evals[0].val_loss
    assert metrics.best.val_loss <= metrics.objective == metrics.final.val_loss
    assert abs(metrics.final.gap) < 0.3


def test_random_tokens_stay_at_the_logarithm_of_the_vocabulary(tiny: Tiny) -> None:
    fields = {"data": "random", "tokenizer": "ids", "vocab_size": 32, "precision": "fp32", "dropout": 0.0}
    metrics = run(tiny(**fields, train_tokens=64 * 300, eval_tokens=8192), threads=1)
    for record in metrics.evals:
        assert abs(record.val_loss - math.log(32)) < 0.02
        assert abs(record.train_loss - math.log(32)) < 0.02
    assert abs(metrics.evals[0].val_loss - math.log(32)) < 0.005


# --- Law 3: accumulation


def gradients(config: RunConfig, step: int) -> tuple[float, dict[str, Tensor]]:
    with loop_of(config) as trainer:
        k = config.gradient_accumulation_steps
        loss = sum(trainer._backward(step * k + i) for i in range(k))
        grads = {name: p.grad for name, p in trainer.state.model.named_parameters() if p.grad is not None}
        return float(loss), grads


@pytest.mark.parametrize(("k", "b"), [(2, 1), (2, 4), (4, 3), (8, 2)])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_accumulated_gradient_equals_large_batch(tiny: Tiny, k: int, b: int, tie_embeddings: bool) -> None:
    fields = {"dropout": 0.0, "train_tokens": 8 * k * b * 6, "init_std": 0.3, "tie_embeddings": tie_embeddings}
    small = gradients(tiny(**fields, batch_size=b, gradient_accumulation_steps=k), 2)
    large = gradients(tiny(**fields, batch_size=k * b, gradient_accumulation_steps=1), 2)
    assert small[0] == pytest.approx(large[0], rel=1e-12)
    assert small[1].keys() == large[1].keys()
    assert len(small[1]) > 20
    for name, gradient in large[1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(small[1][name], gradient, rtol=1e-12, atol=1e-12 * gradient.abs().max().item())


def test_loss_of_a_step_is_the_sum_over_its_tokens_divided_by_their_number(tiny: Tiny) -> None:
    config = resolve(tiny(dropout=0.0, init_std=0.3), this_machine("cpu"))
    with loop_of(config) as trainer:
        losses = []
        for i in range(2):
            batch = micro_batch(trainer.train_windows, config.seed, i, config.batch_size)
            logits = trainer.state.model(batch.input_ids).detach().numpy()
            log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            losses.append(-np.take_along_axis(log_probabilities, batch.labels.numpy()[..., None], -1))
        _, loss, grad_norm, skipped = trainer.optimizer_step()
        assert loss.item() == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
        assert math.isfinite(grad_norm.item())
        assert not skipped


def test_whole_runs_agree_whatever_the_accumulation(tiny: Tiny) -> None:
    runs = [
        run(tiny(dropout=0.0, batch_size=b, gradient_accumulation_steps=k), threads=1)
        for k, b in [(1, 8), (2, 4), (4, 2), (8, 1)]
    ]
    for other in runs[1:]:
        assert [r.loss for r in other.steps] == pytest.approx([r.loss for r in runs[0].steps], rel=1e-9)
        assert other.final.val_loss == pytest.approx(runs[0].final.val_loss, rel=1e-9)


# --- Law 4: fair comparison


def test_any_accumulation_sees_the_same_tokens_in_the_same_order_and_is_evaluated_after_as_many(tiny: Tiny) -> None:
    seen, evaluated, eval_windows = {}, {}, {}
    for k in (1, 2, 4):
        config = tiny(gradient_accumulation_steps=k, train_tokens=4 * 32 * 6)
        ids: list[Tensor] = []
        with loop_of(config) as trainer:
            hook = trainer.state.model.register_forward_pre_hook(lambda _, inputs, ids=ids: ids.append(inputs[0]))
            for _ in range(trainer.config.num_steps):
                trainer.optimizer_step()
            hook.remove()
            eval_windows[k] = (trainer.val_windows.starts.tolist(), trainer.train_eval_windows.starts.tolist())
        seen[k] = torch.cat(ids)
        evaluated[k] = [record.tokens for record in run(config, threads=1).evals]
    assert all(torch.equal(seen[1], seen[k]) for k in (2, 4))
    assert seen[1].numel() == 4 * 32 * 6
    assert evaluated[1] == evaluated[2] == evaluated[4] == [0, 256, 512, 768]
    assert eval_windows[1] == eval_windows[2] == eval_windows[4]


def test_every_step_is_told_once_with_its_tokens(tiny: Tiny) -> None:
    metrics = run(tiny(), threads=1)
    assert [record.step for record in metrics.steps] == list(range(1, 13))
    assert [record.tokens for record in metrics.steps] == [64 * step for step in range(1, 13)]
    assert [(record.step, record.tokens) for record in metrics.evals] == [(0, 0), (4, 256), (8, 512), (12, 768)]
    assert all(record.tokens_per_second > 0 for record in metrics.steps)
    stamps = [record.timestamp_ms for record in metrics.steps]
    assert stamps == sorted(stamps)


def test_steps_are_told_in_batches_and_before_an_evaluation(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinylm_core.pending.FLUSH_SECONDS", 1e9)
    order: list[str] = []
    run(
        tiny(train_tokens=64 * 75, num_evals=3), threads=1,
        on_steps=lambda records: order.append(f"{records[0].step}-{records[-1].step}"),
        on_eval=lambda record: order.append(f"eval {record.step}"),
    )  # fmt: skip
    assert order == ["eval 0", "1-20", "21-25", "eval 25", "26-45", "46-50", "eval 50", "51-70", "71-75", "eval 75"]


def test_a_budget_that_is_no_multiple_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^train_tokens=769 is no multiple of 192 .* train_tokens=768$"):
        run(tiny(train_tokens=769), threads=1, workdir=tmp_path / "work")
    assert not (tmp_path / "work").exists()


# --- Law 5: the rate used is the rate logged


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.3, 0.999])
def test_rate_logged_is_rate_used_is_rate_of_the_schedule(
    tiny: Tiny, schedule: str, warmup_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(schedule=schedule, warmup_ratio=warmup_ratio)
    updates: list[float] = []

    def spied(*arguments: Any, lr: float, **others: Any) -> None:
        updates.append(lr)
        adamw(*arguments, lr=lr, **others)

    monkeypatch.setattr(optimizer_module, "adamw", spied)
    metrics = run(config, threads=1)
    used = [set(updates[start : start + 2]) for start in range(0, len(updates), 2)]  # two parameter groups a step
    assert used == [{record.learning_rate} for record in metrics.steps]
    assert used == [{learning_rate(config, step)} for step in range(1, 13)]
    assert warmup_steps(config) == {0.0: 0, 0.3: 4, 0.999: 12}[warmup_ratio]


# --- What a run leaves


def test_final_weights_are_those_of_the_digest_and_of_the_last_evaluation(tiny: Tiny, tmp_path: Path) -> None:
    metrics = run(tiny(), threads=1, workdir=tmp_path)
    model, config, tokenizer = load_model(tmp_path / "checkpoint")
    assert config == resolve(tiny(), this_machine("cpu"))
    assert tokenizer is not None
    assert sum(p.numel() for p in model.parameters()) == metrics.num_parameters
    assert weights_sha256(model) == metrics.weights_sha256
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_corpus_of_token_ids_trains_without_a_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(data="random", tokenizer="ids", vocab_size=16)
    assert run(config, threads=1, workdir=tmp_path).vocab_size == 16
    assert load_model(tmp_path / "checkpoint")[2] is None


@pytest.mark.slow
def test_every_compiled_run_of_a_process_is_compiled(tiny: Tiny) -> None:
    """PyTorch by itself runs the same code eagerly once it has compiled it for a few models."""
    config = tiny(train_tokens=64 * 3, precision="fp32", compile=True)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (16, 20, 24):
            assert run(config.replace({"d_model": width}), threads=1).state == "COMPLETE"


@pytest.mark.slow
def test_a_compiled_model_computes_the_same(tiny: Tiny) -> None:
    """Dropout's masks too, which differ from step to step without another compilation."""
    fields = {"dropout": 0.2, "train_tokens": 64 * 3, "precision": "fp32"}
    plain, compiled = (run(tiny(**fields, compile=choice), device="cpu", threads=1) for choice in (False, True))
    assert [r.loss for r in compiled.steps] == pytest.approx([r.loss for r in plain.steps], rel=1e-5)
    assert compiled.final.val_loss == pytest.approx(plain.final.val_loss, rel=1e-5)
