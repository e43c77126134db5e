"""The model computes what PyTorch's own layers compute, sees no future, and starts as it is said to."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tinylm_core import model as model_module
from tinylm_core.config import RunConfig
from tinylm_core.model import Past, TinyGPT

V = 11
TOKENS = torch.randint(V, (3, 8), generator=torch.Generator().manual_seed(0))

variants = pytest.mark.parametrize(
    ("norm_first", "activation", "bias"),
    [(False, "relu", True), (True, "gelu", True), (False, "gelu", False), (True, "relu", False)],
)


def build(seed: int = 0, **fields: object) -> TinyGPT:
    shape = {"max_seq_len": 8, "d_model": 12, "num_layers": 3, "num_heads": 3, "d_ff": 20, "init_std": 0.5}
    torch.manual_seed(seed)
    return TinyGPT(RunConfig.model_validate(shape | fields), V).double().eval()


def reference(model: TinyGPT, config: dict[str, object]) -> Callable[[Tensor], Tensor]:
    """A stack of PyTorch's own layers with the model's weights."""
    D, H, F = 12, 3, 20
    layer = nn.TransformerEncoderLayer(
        D, H, F, dropout=0.0, batch_first=True, dtype=torch.float64,
        activation=str(config["activation"]), norm_first=bool(config["norm_first"]), bias=bool(config["bias"]),
    )  # fmt: skip
    stack = nn.TransformerEncoder(
        layer, 3, nn.LayerNorm(D, bias=bool(config["bias"]), dtype=torch.float64), enable_nested_tensor=False
    )
    ours = model.state_dict()
    theirs = {f"norm.{name}": ours[f"norm.{name}"] for name in ("weight", "bias") if f"norm.{name}" in ours}
    names = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.", "linear1.": "feed_forward.up.",
        "linear2.": "feed_forward.down.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    for i in range(3):
        for their, our in names.items():
            for kind in ("weight", "bias") if config["bias"] else ("weight",):
                theirs[f"layers.{i}.{their}{kind}"] = ours[f"blocks.{i}.{our}{kind}"]
    stack.load_state_dict(theirs)

    def forward(tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        x_BTD = ours["token_embedding.weight"][tokens_BT] + ours["position_embedding.weight"][:T]
        mask_TT = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
        return stack(x_BTD, mask=mask_TT, is_causal=True) @ ours["head.weight"].T

    return forward


def scrambled(model: TinyGPT) -> TinyGPT:
    """Norms and biases that are not at their ones and zeros, so that leaving one out shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@variants
def test_logits_are_those_of_pytorchs_transformer_layers(norm_first: bool, activation: str, bias: bool) -> None:
    fields = {"norm_first": norm_first, "activation": activation, "bias": bias}
    model = scrambled(build(**fields))
    for T in (1, 5, 8):
        torch.testing.assert_close(
            model(TOKENS[:, :T]), reference(model, fields)(TOKENS[:, :T]), rtol=1e-12, atol=1e-12
        )


@variants
def test_long_and_short_context_compute_the_same(
    norm_first: bool, activation: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scrambled(build(norm_first=norm_first, activation=activation, bias=bias))
    short = model(TOKENS)
    monkeypatch.setattr(model_module, "SHORT_CONTEXT", 4)
    torch.testing.assert_close(model(TOKENS), short, rtol=1e-12, atol=1e-12)


@variants
@pytest.mark.parametrize("short_context", [0, 256])
def test_positions_one_at_a_time_compute_what_all_at_once_do(
    norm_first: bool, activation: str, bias: bool, short_context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "SHORT_CONTEXT", short_context)
    model = scrambled(build(norm_first=norm_first, activation=activation, bias=bias))
    whole = model(TOKENS)
    pasts = [Past() for _ in model.blocks]
    parts = [model(TOKENS[:, :3], pasts), *(model(TOKENS[:, t : t + 1], pasts) for t in range(3, 8))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("short_context", [0, 256])
def test_no_position_sees_the_future(short_context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "SHORT_CONTEXT", short_context)
    model = build()
    before = model(TOKENS)
    for t in range(1, 8):
        changed = TOKENS.clone()
        changed[:, t:] = (changed[:, t:] + 1) % V
        torch.testing.assert_close(model(changed)[:, :t], before[:, :t], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(model(changed)[:, t], before[:, t])


def test_no_sequence_sees_another() -> None:
    model = build()
    for b in range(3):
        torch.testing.assert_close(model(TOKENS[b : b + 1]), model(TOKENS)[b : b + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_gradients_are_those_of_finite_differences(tie_embeddings: bool) -> None:
    model = build(tie_embeddings=tie_embeddings, num_layers=1)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten())

    loss().backward()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter += 1e-5 * direction
            above = loss().item()
            parameter -= 2e-5 * direction
            below = loss().item()
            parameter += 1e-5 * direction
        slope = (parameter.grad * direction).sum().item()
        assert (above - below) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_tied_projection_is_the_embedding() -> None:
    model = build(tie_embeddings=True)
    assert model.head.weight is model.token_embedding.weight
    free = build()
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in model.parameters()) == V * 12


@pytest.mark.parametrize("bias", [False, True])
def test_without_biases_there_is_none(bias: bool) -> None:
    assert any(name.endswith("bias") for name, _ in build(bias=bias).named_parameters()) is bias


def test_number_of_parameters_is_that_of_the_formula() -> None:
    D, F, L, T = 12, 20, 3, 8
    block = 3 * D * D + 3 * D + D * D + D + 2 * D * F + F + D + 4 * D
    assert sum(p.numel() for p in build().parameters()) == 2 * V * D + T * D + L * block + 2 * D


def test_initial_weights_are_normal_norms_one_and_biases_zero() -> None:
    model = build(d_model=192, num_heads=4, d_ff=None, init_std=0.02)
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            standard_error = 0.02 / math.sqrt(parameter.numel())
            assert abs(parameter.mean().item()) < 5 * standard_error
            assert abs(parameter.std().item() - 0.02) < 5 * standard_error / math.sqrt(2)
        else:
            assert (parameter == (0 if name.endswith("bias") else 1)).all()


def test_initial_weights_are_a_function_of_the_seed() -> None:
    weights = [torch.cat([p.flatten() for p in build(seed).parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_dropout_acts_in_training_only() -> None:
    model = build(dropout=0.5)
    outputs = [model(TOKENS), model(TOKENS)]
    assert torch.equal(*outputs)
    model.train()
    for micro_batch in range(2):
        model.masks.reseed(0, micro_batch)
        outputs.append(model(TOKENS))
    assert not any(torch.equal(*pair) for pair in pairwise(outputs[1:]))


def test_dropout_is_where_the_transformer_has_it() -> None:
    """As in `nn.TransformerEncoderLayer`: attention weights, both residual branches, inside the feed-forward part;
    and once on the embeddings (Vaswani et al. 2017, section 5.4)."""
    model = build(dropout=0.5).train()
    shapes: list[tuple[int, ...]] = []
    keep = model.masks.keep
    model.masks.keep = lambda x, p, layer: (shapes.append(tuple(x.shape)), keep(x, p, layer))[1]  # type: ignore[method-assign]
    model(TOKENS)
    B, T, D, F, H = 3, 8, 12, 20, 3
    assert shapes == [(B, T, D), *3 * [(B * H, T, T), (B, T, D), (B, T, F), (B, T, D)]]


class Recorded(TorchDispatchMode):
    """The names of PyTorch's operations, as they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tied", [False, True])
def test_on_a_gpu_the_embeddings_gradients_come_from_no_kernel_that_has_a_race(tied: bool) -> None:
    model = build(tie_embeddings=tied).to("meta")
    with Recorded() as recorded:
        model(TOKENS.to("meta")).sum().backward()  # type: ignore[no-untyped-call]
    assert "embedding_dense_backward" not in recorded.names
    assert {name for name in recorded.names if "index_put" in name}
    assert all(parameter.grad is not None for parameter in model.parameters())
