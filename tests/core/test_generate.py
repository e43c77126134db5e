"""Sampling: seeded, and cut to what was asked for."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinylm_core.config import RunConfig
from tinylm_core.generate import generate, generate_batch, sample
from tinylm_core.model import TinyGPT

V = 9
LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.5, 0.0])


def build() -> TinyGPT:
    torch.manual_seed(0)
    config = RunConfig(max_seq_len=6, d_model=12, num_layers=2, num_heads=2, init_std=0.5, dropout=0.5)
    return TinyGPT(config, V)


MODEL = build()


def greedy(prompt: list[int], num: int) -> list[int]:
    """The likeliest token, one forward pass at a time over the last six."""
    ids = list(prompt)
    for _ in range(num):
        ids.append(int(MODEL.eval()(torch.tensor([ids[-6:]]))[0, -1].argmax()))
    return ids


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others() -> None:
    first, second, third = (generate(MODEL, [1], max_new_tokens=40, seed=seed) for seed in (0, 0, 1))
    assert first == second != third
    assert len(first) == 41
    assert first[0] == 1
    assert all(0 <= token < V for token in first)


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_a_batch_has_a_sequence_for_each_seed_as_if_alone(prompt: list[int]) -> None:
    alone = [generate(MODEL, prompt, max_new_tokens=20, temperature=0.7, seed=seed) for seed in (4, 0, 9)]
    assert generate_batch(MODEL, prompt, [4, 0, 9], max_new_tokens=20, temperature=0.7) == alone
    assert alone[0] != alone[1]


def test_the_callers_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generate(MODEL, [1], max_new_tokens=10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert generate(MODEL, [1], max_new_tokens=10) == first


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}, {"temperature": 1e-300}]
)
@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_all_ways_to_take_the_likeliest_agree_also_beyond_the_context(
    prompt: list[int], options: dict[str, float]
) -> None:
    assert generate(MODEL, prompt, max_new_tokens=20, **options) == greedy(prompt, 20)  # type: ignore[arg-type]


def test_beyond_the_context_only_the_last_tokens_count() -> None:
    long = generate(MODEL, [8, 8, 8, 1, 2, 3, 4, 5, 6], max_new_tokens=15)
    short = generate(MODEL, [1, 2, 3, 4, 5, 6], max_new_tokens=15)
    assert long[9:] == short[6:]


def test_nothing_new_is_the_prompt() -> None:
    assert generate(MODEL, [1, 2], max_new_tokens=0) == [1, 2]


@pytest.mark.parametrize("training", [False, True])
def test_dropout_is_off_and_the_model_goes_on_as_it_was(training: bool) -> None:
    MODEL.train(training)
    assert generate(MODEL, [3], max_new_tokens=10, temperature=0) == generate(
        MODEL, [3], max_new_tokens=10, temperature=0
    )
    assert MODEL.training is training


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"top_k": 0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1},
        {"top_p": math.nan},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(options: dict[str, float]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        generate(MODEL, [1], max_new_tokens=1, **options)  # type: ignore[arg-type]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt"):
        generate(MODEL, [], max_new_tokens=1)


def drawn(num: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Counter[int]:
    random = torch.Generator().manual_seed(0)
    return Counter(sample(LOGITS, temperature, top_k, top_p, random) for _ in range(num))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability(temperature: float) -> None:
    counts = drawn(4000, temperature)
    for token, probability in enumerate((LOGITS / temperature).softmax(-1).tolist()):
        assert abs(counts[token] / 4000 - probability) < 5 * math.sqrt(probability * (1 - probability) / 4000)


def test_an_endless_temperature_is_even() -> None:
    assert min(drawn(2000, math.inf).values()) > 300


@pytest.mark.parametrize(
    ("top_k", "tokens"), [(1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (5, set(range(5))), (99, set(range(5)))]
)
def test_top_k_keeps_the_k_likeliest(top_k: int, tokens: set[int]) -> None:
    assert drawn(2000, top_k=top_k).keys() == tokens


@given(top_p=st.floats(0.001, 1.0))
def test_top_p_keeps_the_fewest_likeliest_that_have_the_probability(top_p: float) -> None:
    probabilities = LOGITS.double().softmax(-1)
    order = probabilities.argsort(descending=True).tolist()
    kept, total = [], 0.0
    for token in order:
        kept.append(token)
        total += probabilities[token].item()
        if total >= top_p:
            break
    assert drawn(60, top_p=top_p).keys() <= set(kept)


def test_top_p_at_a_sum_of_probabilities_keeps_just_those() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125]))
    random = torch.Generator().manual_seed(0)
    for top_p, kept in [(0.4, {0}), (0.6, {0, 1}), (0.8, {0, 1, 2}), (1.0, {0, 1, 2, 3})]:
        assert {sample(logits, 1.0, None, top_p, random) for _ in range(400)} == kept
    for quarters in (1, 2, 3, 4):  # whose sums are exact
        drawn = {sample(torch.zeros(4), 1.0, None, quarters / 4, random) for _ in range(400)}
        assert drawn == set(range(quarters))


def test_top_p_is_taken_of_what_top_k_left() -> None:
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    random = torch.Generator().manual_seed(0)
    # Of the two likeliest the first has 4/7, more than a half of what is left.
    assert {sample(logits, 1.0, 2, 0.5, random) for _ in range(200)} == {0}


def test_equal_logits_are_taken_in_their_order_by_every_greedy_way() -> None:
    random = torch.Generator().manual_seed(0)
    flat = torch.zeros(V)
    assert sample(flat, 0.0, None, None, random) == sample(flat, 1.0, 1, None, random) == 0
