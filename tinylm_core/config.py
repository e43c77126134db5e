"""The configuration of one training run: every number that can change a loss curve, and nothing else.

Knows no output path, no thread count, and loads no torch.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tinylm_core.machine import Machine

NUMERICS_VERSION = 2
"""Raised by whoever changes a loss curve of an unchanged config; `tests/core/test_golden.py` says when."""

BPE_VOCAB_SIZE = 1000

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
Ratio = Annotated[float, Field(ge=0, lt=1)]


class RunConfig(BaseModel):
    """One training run of a small GPT. Frozen; unknown keys are refused.

    Tokens are counted as predictions: a window of `max_seq_len` inputs counts `max_seq_len` tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    # Data
    data: str = Field(
        "python-docs",
        min_length=1,
        description="corpus: python-docs, random, hf:NAME[@revision], or the path of a text file, a folder of them, "
        "or a token file",
    )
    tokenizer: Literal["bpe", "char", "byte", "ids"] = Field(
        "bpe", description="how text becomes token IDs; ids = the corpus already is token IDs"
    )
    vocab_size: int | None = Field(
        None, ge=2, le=2**24, description="tokens in the vocabulary; None = 1000 for bpe, else the tokenizer's own"
    )
    max_seq_len: int = Field(128, ge=1, le=65_536, description="context, in tokens")
    stride: int | None = Field(
        None, ge=1, description="tokens from one training window to the next; None = max_seq_len"
    )
    val_ratio: float = Field(0.1, gt=0, lt=1, description="share of the text, taken from its end, that validates")
    max_tokens: int | None = Field(None, ge=2, description="use only the first so many tokens of the training part")

    # Model
    d_model: int = Field(256, ge=1, description="width of the residual stream")
    num_layers: int = Field(4, ge=1, description="transformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads; divides d_model")
    d_ff: int | None = Field(None, ge=1, description="width inside the feed-forward part; None = 4 * d_model")
    dropout: Ratio = Field(0.1, description="probability of zeroing an activation in training")
    bias: bool = Field(True, description="biases in linear layers and norms")
    norm_first: bool = Field(True, description="True: pre-norm blocks; False: post-norm; a final norm in both")
    activation: Literal["gelu", "relu"] = Field("gelu", description="nonlinearity of the feed-forward part")
    tie_embeddings: bool = Field(False, description="output projection shares the token embedding's weights")
    init_std: float = Field(0.02, gt=0, description="standard deviation of the normal initial weights")

    # Learning rate
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    warmup_ratio: Ratio = Field(0.1, description="share of the optimizer steps that warm up linearly")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field("cosine", description="what follows the warmup")
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="final learning rate as a share of the peak")
    decay_ratio: float = Field(0.2, gt=0, le=1, description="share of the optimizer steps in which wsd decays")

    # Optimizer
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decoupled decay, on matrices")
    decay_embeddings: bool = Field(True, description="whether embeddings decay too")
    beta1: Ratio = Field(0.9, description="decay of AdamW's first moment")
    beta2: Ratio = Field(0.95, description="decay of AdamW's second moment")
    eps: float = Field(1e-8, gt=0, description="AdamW's denominator offset")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; None = not clipped")

    # Budget
    batch_size: int = Field(8, ge=1, description="sequences in a micro-batch, what one forward pass sees")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches in one optimizer step")
    train_tokens: int = Field(1_048_576, ge=1, description="training tokens in all")
    num_evals: int = Field(8, ge=1, description="evenly spaced evaluations after the one before the first step")
    eval_tokens: int | None = Field(
        32_768, ge=1, description="validation tokens an evaluation measures; None = the whole validation text"
    )

    # Arithmetic
    precision: Precision = Field("auto", description="of forward and backward; auto = bf16 where it is fast, else fp32")
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile: seconds a run, half a minute the first time; auto = off"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="initial weights, data order and dropout")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model={self.d_model} is not divisible by num_heads={self.num_heads}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Training tokens in one optimizer step."""
        return self.batch_size * self.max_seq_len * self.gradient_accumulation_steps

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run. ValueError where the budget is no multiple (see `check_budget`)."""
        check_budget([self])
        return self.train_tokens // self.tokens_per_step

    def replace(self, changes: Mapping[str, object]) -> Self:
        """A validated copy with other values. ValueError, in one line: the field, the value, what is allowed."""
        for name in changes:
            if name not in type(self).model_fields:
                raise ValueError(unknown_name("field", name, type(self).model_fields))
        try:
            return self.model_validate(self.model_dump() | dict(changes))
        except ValidationError as error:
            raise ValueError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A pydantic error in one line: the field, the value, what is allowed."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return unknown_name("field", name, RunConfig.model_fields)
    return f"{name}={first['input']!r}: {message[0].lower()}{message[1:]}"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a misspelt name, with the nearest known one or all of them."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return f"unknown {what} {name!r}; {hint}"


def budget_unit(configs: Iterable[RunConfig]) -> tuple[int, int]:
    """Tokens per step that configs of one budget share, and their evaluations: its unit is the product (law 4)."""
    configs = list(configs)
    return math.lcm(*(config.tokens_per_step for config in configs)), math.lcm(*(c.num_evals for c in configs))


def nearest_budget(train_tokens: int, unit: int) -> int:
    """The multiple of `unit`, at least one, that is nearest."""
    return max(1, (2 * train_tokens + unit) // (2 * unit)) * unit


def check_budget(configs: Iterable[RunConfig]) -> None:
    """ValueError unless every config's evaluations fall on whole steps of all of them (law 4: equal token counts).

    The error names the nearest `train_tokens` that does.
    """
    configs = list(configs)
    tokens_per_step, _ = budget_unit(configs)
    for config in configs:
        # Over all that share the budget, so that what the error names is refused by none of them.
        _, num_evals = budget_unit(other for other in configs if other.train_tokens == config.train_tokens)
        unit = tokens_per_step * num_evals
        if config.train_tokens % unit:
            nearest = nearest_budget(config.train_tokens, unit)
            shared = ", common to all settings" if len(configs) > 1 else ""
            raise ValueError(
                f"train_tokens={config.train_tokens:,} is no multiple of {unit:,} (num_evals {num_evals} x "
                f"{tokens_per_step:,} tokens per step{shared}); the nearest is train_tokens={nearest}"
            )


def resolve(config: RunConfig, machine: Machine) -> RunConfig:
    """The config with each `auto`, and each None that stands for a number, replaced by what it means here."""
    changes: dict[str, object] = {}
    if config.precision == "auto":
        changes["precision"] = "bf16" if machine.fast_bf16 else "fp32"
    if config.compile == "auto":
        changes["compile"] = False
    if config.vocab_size is None and config.tokenizer == "bpe":
        changes["vocab_size"] = BPE_VOCAB_SIZE
    if config.stride is None:
        changes["stride"] = config.max_seq_len
    if config.d_ff is None:
        changes["d_ff"] = 4 * config.d_model
    return config.replace(changes)


def identity(config: RunConfig, data_fingerprint: str, numerics_version: int = NUMERICS_VERSION) -> str:
    """The hex SHA-256 that says two runs are the same piece of science.

    Over the resolved config without `data` (a path), the data's fingerprint, and the numerics version.
    """
    if config.precision == "auto" or config.compile == "auto":
        raise ValueError("an identity is taken of a resolved config: precision and compile must not be auto")
    content: dict[str, Any] = config.model_dump(exclude={"data"})
    content |= {"data.fingerprint": data_fingerprint, "numerics.version": numerics_version}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
