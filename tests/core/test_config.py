"""Law 7 (identity), law 4 (budgets) and law 12 (one line for a mistake)."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweeps.spec.config_type import from_params, to_params
from tinylm_core.config import BPE_VOCAB_SIZE, NUMERICS_VERSION, RunConfig, check_budget, identity, resolve
from tinylm_core.machine import Machine

SLOW = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)
FAST = dataclasses.replace(SLOW, fast_bf16=True, fast_fp16=True)
FINGERPRINT = "f" * 64

# Another value of every field.
OTHER: dict[str, object] = {
    "data": "somewhere/else.txt", "tokenizer": "char", "vocab_size": 999, "max_seq_len": 64, "stride": 1,
    "val_ratio": 0.2, "max_tokens": 1000, "d_model": 64, "num_layers": 3, "num_heads": 2, "d_ff": 100, "dropout": 0.0,
    "bias": False, "norm_first": False, "activation": "relu", "tie_embeddings": True, "init_std": 0.01,
    "learning_rate": 1e-3, "warmup_ratio": 0.2, "schedule": "wsd", "min_lr_ratio": 0.0, "decay_ratio": 0.3,
    "weight_decay": 0.0, "decay_embeddings": False, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "max_grad_norm": None,
    "batch_size": 4, "gradient_accumulation_steps": 2, "train_tokens": 2_097_152, "num_evals": 4, "eval_tokens": None,
    "precision": "fp64", "compile": True, "seed": 1,
}  # fmt: skip


def strategy(low: float, high: float, **exclude: bool) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, **exclude)


ratio = strategy(0, 1, exclude_max=True)
positive = strategy(0, 1e300, exclude_min=True)
count = st.integers(1, 2**40)
heads = st.integers(1, 64)
run_configs = st.builds(
    lambda num_heads, width, **fields: RunConfig(num_heads=num_heads, d_model=num_heads * width, **fields),
    num_heads=heads, width=heads, data=st.text(min_size=1), tokenizer=st.sampled_from(["bpe", "char", "byte", "ids"]),
    vocab_size=st.none() | st.integers(2, 2**24), max_seq_len=st.integers(1, 65_536), stride=st.none() | count,
    val_ratio=strategy(0, 1, exclude_min=True, exclude_max=True), max_tokens=st.none() | st.integers(2, 2**40),
    num_layers=count, d_ff=st.none() | count, dropout=ratio, bias=st.booleans(), norm_first=st.booleans(),
    activation=st.sampled_from(["gelu", "relu"]), tie_embeddings=st.booleans(), init_std=positive,
    learning_rate=positive, warmup_ratio=ratio, schedule=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    min_lr_ratio=strategy(0, 1), decay_ratio=strategy(0, 1, exclude_min=True), weight_decay=strategy(0, 1e300),
    decay_embeddings=st.booleans(), beta1=ratio, beta2=ratio, eps=positive, max_grad_norm=st.none() | positive,
    batch_size=count, gradient_accumulation_steps=count, train_tokens=count, num_evals=count,
    eval_tokens=st.none() | count, precision=st.sampled_from(["auto", "fp32", "bf16", "fp16", "fp64"]),
    compile=st.sampled_from(["auto", True, False]), seed=st.integers(0, 2**31 - 1),
)  # fmt: skip


# --- Identity


def identity_of(config: RunConfig, fingerprint: str = FINGERPRINT, **version: int) -> str:
    return identity(resolve(config, SLOW), fingerprint, **version)


def test_identity_ignores_where_the_data_lies() -> None:
    assert identity_of(RunConfig()) == identity_of(RunConfig(data="a/copy.txt"))


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields.keys() - {"data"}))
def test_identity_depends_on_every_other_field(name: str) -> None:
    assert identity_of(RunConfig()) != identity_of(RunConfig().replace({name: OTHER[name]}))


def test_every_field_has_a_case_here() -> None:
    assert OTHER.keys() == RunConfig.model_fields.keys()
    assert all(getattr(RunConfig(), name) != value for name, value in OTHER.items())


def test_identity_depends_on_the_data_and_on_the_numerics() -> None:
    usual = identity_of(RunConfig())
    assert usual == identity_of(RunConfig(), numerics_version=NUMERICS_VERSION)
    assert usual != identity_of(RunConfig(), "e" * 64)
    assert usual != identity_of(RunConfig(), numerics_version=NUMERICS_VERSION + 1)


@given(config=run_configs)
def test_identity_is_the_same_after_a_stay_in_a_tracker(config: RunConfig) -> None:
    config = resolve(config, SLOW)
    assert identity(config, FINGERPRINT) == identity(from_params(RunConfig, to_params(config)), FINGERPRINT)


def test_identity_of_a_stored_config_without_a_newer_field_is_that_of_its_default() -> None:
    config = resolve(RunConfig(decay_ratio=RunConfig().decay_ratio, seed=3), SLOW)
    params = to_params(config)
    del params["decay_ratio"]
    assert identity(from_params(RunConfig, params), FINGERPRINT) == identity(config, FINGERPRINT)


@pytest.mark.parametrize("name", ["precision", "compile"])
def test_identity_of_an_unresolved_config_is_refused(name: str) -> None:
    config = resolve(RunConfig(), SLOW).replace({name: "auto"})
    with pytest.raises(ValueError, match="resolved"):
        identity(config, FINGERPRINT)


# --- Resolving


@pytest.mark.parametrize(("machine", "precision"), [(SLOW, "fp32"), (FAST, "bf16")])
def test_auto_precision_is_bf16_only_where_it_is_fast(machine: Machine, precision: str) -> None:
    assert resolve(RunConfig(), machine).precision == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp64"])
def test_a_chosen_precision_stays(precision: str) -> None:
    assert resolve(RunConfig().replace({"precision": precision}), FAST).precision == precision


def test_what_stands_for_a_number_resolves_to_it() -> None:
    resolved = resolve(RunConfig(max_seq_len=64, d_model=32), SLOW)
    assert (resolved.stride, resolved.d_ff, resolved.vocab_size, resolved.compile) == (64, 128, BPE_VOCAB_SIZE, False)
    assert resolve(RunConfig(tokenizer="char"), SLOW).vocab_size is None


def test_a_value_written_out_is_the_same_science_as_the_none_that_means_it() -> None:
    written = RunConfig(stride=128, d_ff=1024, vocab_size=BPE_VOCAB_SIZE, precision="fp32", compile=False)
    assert identity_of(written) == identity_of(RunConfig())


@given(config=run_configs, machine=st.sampled_from([SLOW, FAST]))
def test_resolving_twice_changes_nothing(config: RunConfig, machine: Machine) -> None:
    resolved = resolve(config, machine)
    assert resolve(resolved, machine) == resolved
    assert "auto" not in (resolved.precision, resolved.compile)


# --- As text


@given(config=run_configs)
def test_params_read_back_as_the_config_they_were(config: RunConfig) -> None:
    params = to_params(config)
    assert params.keys() == RunConfig.model_fields.keys()
    assert all(isinstance(value, str) for value in params.values())
    assert from_params(RunConfig, params) == config


def test_a_param_that_was_not_written_yet_has_its_default() -> None:
    params = to_params(RunConfig(learning_rate=0.5))
    del params["decay_ratio"]
    assert from_params(RunConfig, params) == RunConfig(learning_rate=0.5)


def test_a_path_may_be_called_none() -> None:
    assert from_params(RunConfig, to_params(RunConfig(data="None"))).data == "None"


# --- Mistakes


def refusal(make: Callable[..., Any], *arguments: object) -> str:
    """The one line of a refusal."""
    with pytest.raises(ValueError, match=r".") as caught:
        make(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", ""), ("tokenizer", "words"), ("vocab_size", 1), ("vocab_size", 2**24 + 1), ("max_seq_len", 0),
        ("stride", 0), ("val_ratio", 0), ("val_ratio", 1), ("max_tokens", 1), ("d_model", 0), ("num_layers", 0),
        ("d_ff", 0), ("dropout", 1), ("dropout", -0.1), ("dropout", "much"), ("activation", "tanh"), ("init_std", 0),
        ("learning_rate", 0), ("learning_rate", -1e-3), ("learning_rate", math.inf), ("learning_rate", math.nan),
        ("warmup_ratio", 1), ("warmup_ratio", -0.1), ("schedule", "step"), ("min_lr_ratio", 1.1), ("decay_ratio", 0),
        ("weight_decay", -0.1), ("beta1", 1), ("beta2", 1), ("eps", 0), ("max_grad_norm", 0), ("batch_size", 0),
        ("batch_size", 1.5), ("gradient_accumulation_steps", 0), ("train_tokens", 0), ("num_evals", 0),
        ("eval_tokens", 0), ("precision", "int8"), ("compile", "always"), ("seed", -1), ("seed", 2**31),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name_and_value(name: str, value: object) -> None:
    assert refusal(RunConfig().replace, {name: value}).startswith(f"{name}={value!r}: ")


def test_a_misspelt_field_gets_the_nearest_one() -> None:
    assert refusal(RunConfig().replace, {"learning_rat": 1}) == (
        "unknown field 'learning_rat'; did you mean learning_rate?"
    )
    assert "known: data, tokenizer" in refusal(RunConfig().replace, {"zzz": 1})
    with pytest.raises(ValidationError):
        RunConfig.model_validate({"learning_rat": 1})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    line = refusal(RunConfig().replace, {"d_model": 10, "num_heads": 4})
    assert line == "d_model=10 is not divisible by num_heads=4"


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        RunConfig().seed = 1  # type: ignore[misc]


def test_a_copy_leaves_the_original() -> None:
    config = RunConfig()
    assert config.replace({"seed": 7}).seed == 7
    assert config == RunConfig()


def test_every_field_says_what_it_is_for() -> None:
    assert all(field.description for field in RunConfig.model_fields.values())


# --- Budgets


def budget(**fields: object) -> RunConfig:
    return RunConfig.model_validate({"max_seq_len": 1, "batch_size": 1, "num_evals": 1} | fields)


def named_budget(refused: str) -> int:
    return int(refused.rpartition("train_tokens=")[2])


def test_steps_are_the_budget_over_the_tokens_of_a_step() -> None:
    config = RunConfig(max_seq_len=16, batch_size=3, gradient_accumulation_steps=2, train_tokens=96 * 40, num_evals=4)
    assert config.tokens_per_step == 96
    assert config.num_steps == 40


def test_steps_of_a_budget_that_does_not_fit_are_refused() -> None:
    config = RunConfig(max_seq_len=16, batch_size=3, train_tokens=480 * 10 + 1, num_evals=10)
    assert named_budget(refusal(lambda: config.num_steps)) == 4800


small = st.integers(1, 12)
shapes = st.fixed_dictionaries(
    {"max_seq_len": small, "batch_size": small, "gradient_accumulation_steps": small, "num_evals": small}
)


@given(settings=st.lists(shapes, min_size=1, max_size=4), train_tokens=st.integers(1, 10**7))
def test_a_refused_budget_is_told_the_nearest_that_works(settings: list[Mapping[str, int]], train_tokens: int) -> None:
    unit = math.lcm(*(shape["max_seq_len"] * shape["batch_size"] * shape["gradient_accumulation_steps"]
                      for shape in settings)) * math.lcm(*(shape["num_evals"] for shape in settings))  # fmt: skip
    configs = [budget(**shape, train_tokens=train_tokens) for shape in settings]
    if train_tokens % unit == 0:
        check_budget(configs)
        return
    nearest = named_budget(refusal(check_budget, configs))
    check_budget([config.replace({"train_tokens": nearest}) for config in configs])
    assert abs(nearest - train_tokens) == min(abs(max(1, n) * unit - train_tokens) for n in
                                              (train_tokens // unit, train_tokens // unit + 1))  # fmt: skip


def test_the_named_budget_suits_settings_with_other_numbers_of_evaluations() -> None:
    for order in permutations([budget(num_evals=4, train_tokens=5), budget(num_evals=3, train_tokens=5)]):
        assert named_budget(refusal(check_budget, order)) == 12


@given(settings=st.lists(shapes, min_size=1, max_size=4), multiple=st.integers(1, 10))
def test_settings_of_one_budget_evaluate_after_equal_numbers_of_tokens(
    settings: list[Mapping[str, int]], multiple: int
) -> None:
    num_evals = settings[0]["num_evals"]
    settings = [{**shape, "num_evals": num_evals} for shape in settings]
    tokens_per_step = math.lcm(*(budget(**shape).tokens_per_step for shape in settings))
    configs = [budget(**shape, train_tokens=tokens_per_step * num_evals * multiple) for shape in settings]
    check_budget(configs)
    points = {
        tuple(config.num_steps // num_evals * k * config.tokens_per_step for k in range(num_evals + 1))
        for config in configs
    }
    assert len(points) == 1


def test_a_budget_beyond_floating_point_is_told_the_nearest_too() -> None:
    huge = 10**400 + 1
    assert named_budget(refusal(check_budget, [budget(train_tokens=huge, batch_size=1000)])) == 10**400


def test_no_configs_are_no_mistake() -> None:
    check_budget([])
