"""AdamW is the paper's and PyTorch's, and decays what it is said to decay."""

from typing import Any

import numpy as np
import pytest
import torch

from tinylm_core.config import RunConfig
from tinylm_core.model import TinyGPT
from tinylm_core.optimizer import AdamW, build_optimizer, decay_groups


def config_of(**fields: object) -> RunConfig:
    shape = {"max_seq_len": 4, "d_model": 8, "num_layers": 2, "num_heads": 2, "learning_rate": 0.01}
    return RunConfig.model_validate(shape | {"weight_decay": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6} | fields)


def build(config: RunConfig) -> TinyGPT:
    torch.manual_seed(0)
    return TinyGPT(config, 7).double()


def steps_of(optimizer: torch.optim.Optimizer | AdamW, parameters: list[torch.nn.Parameter], num_steps: int) -> None:
    """The same gradients whoever asks: those of the sum of squares, and noise from a seed."""
    generator = torch.Generator().manual_seed(1)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (step + 1)
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = 2 * parameter.detach() + noise
        optimizer.step()


def numpy_adamw(config: RunConfig, model: TinyGPT, decayed: set[str], num_steps: int) -> dict[str, np.ndarray]:
    """Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the learning rate as PyTorch has it."""
    generator = torch.Generator().manual_seed(1)
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    for step in range(1, num_steps + 1):
        rate = 0.01 / step
        for name, w in weights.items():
            gradient = 2 * w + torch.randn(w.shape, generator=generator, dtype=torch.float64).numpy()
            first[name] = config.beta1 * first[name] + (1 - config.beta1) * gradient
            second[name] = config.beta2 * second[name] + (1 - config.beta2) * gradient**2
            mean = first[name] / (1 - config.beta1**step)
            scale = np.sqrt(second[name] / (1 - config.beta2**step)) + config.eps
            decay = config.weight_decay if name in decayed else 0.0
            weights[name] = w - rate * decay * w - rate * mean / scale
    return weights


def decayed_names(model: TinyGPT, *, embeddings: bool) -> set[str]:
    """By the kind of module a parameter is of, where the code goes by shape and name."""
    kinds: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear, torch.nn.Embedding) if embeddings else (
        torch.nn.Linear,
    )  # fmt: skip
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return {f"{name}.weight" for name, _ in modules}


@pytest.mark.parametrize("decay_embeddings", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_matrices_decay_and_norms_and_biases_do_not(decay_embeddings: bool, bias: bool) -> None:
    config = config_of(decay_embeddings=decay_embeddings, bias=bias)
    model = build(config)
    groups = decay_groups(model, config)
    names = [name for name, _ in model.named_parameters()]
    assert set(groups["decay"]) == decayed_names(model, embeddings=decay_embeddings)
    assert sorted(groups["decay"] + groups["no_decay"]) == sorted(names)
    assert all(group == [name for name in names if name in group] for group in groups.values())  # the model's order


@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_a_tied_projection_decays_as_the_embedding_it_is(decay_embeddings: bool) -> None:
    config = config_of(decay_embeddings=decay_embeddings, tie_embeddings=True)
    groups = decay_groups(build(config), config)
    assert ("token_embedding.weight" in groups["decay"]) is decay_embeddings
    assert "head.weight" not in groups["decay"] + groups["no_decay"]


def test_optimizer_holds_every_parameter_once_with_its_groups_decay() -> None:
    config = config_of(tie_embeddings=True)
    model = build(config)
    optimizer = build_optimizer(model, config)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in model.parameters()})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert all(group["lr"] == config.learning_rate for group in optimizer.param_groups)


@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_steps_are_those_of_the_paper_in_numpy(decay_embeddings: bool) -> None:
    config = config_of(decay_embeddings=decay_embeddings)
    model = build(config)
    expected = numpy_adamw(config, model, decayed_names(model, embeddings=decay_embeddings), 6)
    steps_of(build_optimizer(model, config), list(model.parameters()), 6)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=1e-12, atol=1e-14)


def test_steps_are_those_of_pytorchs_plain_adamw() -> None:
    config = config_of()
    ours, theirs = build(config), build(config)
    steps_of(build_optimizer(ours, config), list(ours.parameters()), 6)
    decayed = decayed_names(theirs, embeddings=True)
    groups: list[dict[str, Any]] = [
        {"params": [p], "weight_decay": config.weight_decay if name in decayed else 0.0}
        for name, p in theirs.named_parameters()
    ]
    plain = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.9), eps=1e-6, fused=False, foreach=False)
    steps_of(plain, list(theirs.parameters()), 6)
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_and_state_are_those_of_pytorchs_fused_class(dtype: torch.dtype) -> None:
    config = config_of()
    ours, theirs = build(config).to(dtype), build(config).to(dtype)
    optimizer, groups = build_optimizer(ours, config), decay_groups(theirs, config)
    parameters = dict(theirs.named_parameters())
    reference = torch.optim.AdamW(
        [
            {"params": [parameters[name] for name in groups["decay"]], "weight_decay": config.weight_decay},
            {"params": [parameters[name] for name in groups["no_decay"]], "weight_decay": 0.0},
        ],
        lr=1.0, betas=(0.8, 0.9), eps=1e-6, fused=True,
    )  # fmt: skip
    for number in range(6):
        for one, model in ((optimizer, ours), (reference, theirs)):
            generator = torch.Generator().manual_seed(number)
            for group in one.param_groups:
                group["lr"] = 0.01 / (number + 1)
            for name, parameter in model.named_parameters():
                unused = number < 2 and name.endswith("head.weight")  # a parameter without a gradient waits
                parameter.grad = None if unused else torch.randn(parameter.shape, generator=generator, dtype=dtype)
            one.step()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our, their)
        assert optimizer.state[our].keys() == reference.state[their].keys()
        for key, value in optimizer.state[our].items():
            assert torch.equal(value, reference.state[their][key])
            assert value.dtype == reference.state[their][key].dtype


def test_order_of_parameters_is_that_of_the_model() -> None:
    """Collected in sets it would differ from process to process, and a sum over it in its last bit."""
    config = config_of()
    model = build(config)
    held = [p for group in build_optimizer(model, config).param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in held] == [name for group in decay_groups(model, config).values() for name in group]
