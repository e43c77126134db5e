"""`Choice` and `Range` hold what they say, and text becomes one of them or a clear error."""

import json
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sweeps.spec.flags import parse_dimension
from sweeps.spec.naming import short
from sweeps.spec.settings import is_varied, with_condition, without_fields
from sweeps.spec.space import Choice, Range, Space, dimension_from_json
from tinylm_core import RunConfig

numbers = st.floats(-1e9, 1e9, allow_subnormal=False)
positive = st.floats(1e-9, 1e9)
words = st.text("abcdefghijklmnopqrstuvwxyz-_/.", min_size=1).map(lambda word: f"w{word}")
values = st.integers(-(10**9), 10**9) | numbers | st.booleans() | st.none() | words

UNSAID = st.none()


@st.composite
def ranges(draw: st.DrawFn, *, points: st.SearchStrategy[int | None] = UNSAID) -> Range:
    log = draw(st.booleans())
    ends = (st.integers(1, 10**6) | positive) if log else (st.integers(-(10**6), 10**6) | numbers)
    low, high = sorted((draw(ends), draw(ends)))
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1e-9))
    return Range(low, high, draw(points), log)


# --- Choice


def test_a_choice_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        Choice()


def test_a_value_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Choice(1, 2, 1)


def test_one_and_one_point_zero_and_true_are_three_values() -> None:
    choice = Choice(1, 1.0, True)
    assert [choice.position(value) for value in (1, 1.0, True)] == [0, 1, 2]


def test_the_grid_of_a_choice_is_its_values() -> None:
    assert Choice(3e-4, 1e-3, None, "x").grid() == (3e-4, 1e-3, None, "x")


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=20))
def test_each_value_of_a_choice_has_an_equal_share(listed: list[int]) -> None:
    choice, n = Choice(*listed), 6 * len(listed)
    assert Counter(choice.at((i + 0.5) / n) for i in range(n)) == dict.fromkeys(listed, 6)


# --- Range


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1), "below"),
        ((2, 1), "below"),
        ((0, math.inf), "finite"),
        ((math.nan, 1), "finite"),
        ((0, 10**400), "finite"),
        ((-1.7e308, 1.7e308), "finite"),
        ((0, 1, None, True), "above 0"),
        ((-1, 1, None, True), "above 0"),
        ((0, 1, 1), "at least 2 points"),
        ((0, 1, 0), "at least 2 points"),
        ((0.0, 1.0, 10**12), "at most"),
    ],
)
def test_a_range_that_is_none_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range(*arguments)  # type: ignore[arg-type]


def test_a_grid_of_a_range_needs_its_points() -> None:
    with pytest.raises(ValueError, match="points"):
        Range(0.0, 1.0).grid()


@given(ranges(points=st.integers(2, 30)))
def test_a_grid_holds_both_ends_rises_and_has_its_points(dimension: Range) -> None:
    grid = dimension.grid()
    assert (grid[0], grid[-1]) == (dimension.low, dimension.high)
    assert all(a < b for a, b in pairwise(grid))
    if dimension.is_integer:
        assert all(type(value) is int for value in grid)
        assert len(grid) <= dimension.points
    else:
        assert len(grid) == dimension.points


@given(ranges(points=st.integers(2, 30)))
def test_a_grid_is_spaced_evenly_or_evenly_in_the_logarithm(dimension: Range) -> None:
    space = np.geomspace if dimension.log else np.linspace
    expected = space(dimension.low, dimension.high, dimension.points)
    if dimension.is_integer:
        assert all(min(abs(expected - value)) <= 0.5 + 1e-6 for value in dimension.grid())
    else:
        width = dimension.high - dimension.low
        np.testing.assert_allclose(dimension.grid(), expected, rtol=1e-9, atol=1e-9 * width)


def test_a_grid_point_is_the_decimal_that_a_person_means() -> None:
    assert Range(0.1, 0.3, 3).grid() == (0.1, 0.2, 0.3)
    assert Range(1e-4, 1e-2, 3, log=True).grid() == (1e-4, 1e-3, 1e-2)
    assert Range(1, 8, 4, log=True).grid() == (1, 2, 4, 8)


@given(ranges(), st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
@example(Range(0.12345678901251, 0.2), [0.0, 1e-13])
@example(Range(0.1, 0.12345678901249999), [math.nextafter(1, 0)])
def test_every_value_is_within_the_range_and_rises_with_u(dimension: Range, shares: list[float]) -> None:
    drawn = [dimension.at(u) for u in sorted(shares)]
    assert all(dimension.low <= value <= dimension.high for value in drawn)
    assert drawn == sorted(drawn)
    assert all(isinstance(value, int) for value in drawn) == (dimension.is_integer or not drawn)


@given(st.integers(-50, 50), st.integers(1, 20))
def test_each_whole_number_has_an_equal_share(low: int, width: int) -> None:
    n = 4 * (width + 1)
    counts = Counter(Range(low, low + width).at((i + 0.5) / n) for i in range(n))
    assert counts == dict.fromkeys(range(low, low + width + 1), 4)


# --- Conditions


def test_a_condition_is_in_the_json_only_where_there_is_one_and_comes_back() -> None:
    for dimension in (Choice(1, 2), Range(1.0, 2.0, 3, log=True)):
        assert "when" not in dimension.to_json()
        conditional = with_condition(dimension, {"schedule": "wsd", "bias": [True, False]})
        content = json.loads(json.dumps(conditional.to_json()))
        assert content["when"] == {"schedule": ["wsd"], "bias": [True, False]}
        assert dimension_from_json(content) == conditional != dimension == with_condition(conditional, {})


def test_a_condition_tells_types_apart() -> None:
    dimension = Choice(1, 2, when={"num_layers": 1})
    assert [is_varied(dimension, {"num_layers": value}) for value in (1, 1.0, True, 2)] == [True, False, False, False]
    assert is_varied(Choice(1), {})


@pytest.mark.parametrize(("when", "message"), [("wsd", "when='wsd' must be a field with"), ({"bias": ()}, "no value")])
def test_what_is_no_condition_is_refused(when: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choice(1, when=when)
    with pytest.raises(ValueError, match=message):
        Range(1, 2, when=when)


def test_a_field_that_is_set_decides_the_conditions_on_it() -> None:
    space: Space = {
        "schedule": Choice("cosine", "wsd"),
        "decay_ratio": Range(0.1, 0.5, when={"schedule": "wsd"}),
        "beta1": Choice(0.8, 0.9, when={"schedule": "wsd", "decay_ratio": 0.2}),
    }
    wsd, cosine = (RunConfig(schedule=schedule) for schedule in ("wsd", "cosine"))
    assert without_fields(space, ["schedule"], wsd) == {
        "decay_ratio": Range(0.1, 0.5),
        "beta1": Choice(0.8, 0.9, when={"decay_ratio": 0.2}),
    }
    assert without_fields(space, ["schedule"], cosine) == {}
    assert without_fields(space, ["decay_ratio"], wsd) == {  # the base's is 0.2
        "schedule": space["schedule"],
        "beta1": Choice(0.8, 0.9, when={"schedule": "wsd"}),
    }
    assert without_fields(space, [], wsd) == space


# --- As text


@given(st.lists(values, min_size=1, max_size=5).filter(lambda v: len({(type(x), x) for x in v}) == len(v)))
def test_a_choice_comes_back_from_its_text(listed: list[object]) -> None:
    text = ",".join(str(value) for value in listed)
    assert parse_dimension(text) == Choice(*listed)  # type: ignore[arg-type]
    assert [type(value) for value in parse_dimension(text).values] == [type(value) for value in listed]  # type: ignore[union-attr]


@given(ranges(points=st.none() | st.integers(2, 30)))
def test_a_range_comes_back_from_its_text(dimension: Range) -> None:
    text = f"{dimension.low}:{dimension.high}"
    text += f":{dimension.points}" if dimension.points else ""
    text += ":log" if dimension.log else ""
    assert parse_dimension(text) == dimension


@given(st.text() | st.text("0123456789.:,-+elogna "))
@example("1" * 400 + ":" + "2" * 400)
@example("1" * 5000 + ":2")
@example("-1e308:1e308:3")
@example("1e-320:1:3:log")
@example("0:1:99999999999999")
@example("0:1:٣")
@example("")
def test_any_text_is_a_dimension_or_a_value_error(text: str) -> None:
    try:
        dimension = parse_dimension(text)
    except ValueError:
        return
    assert isinstance(dimension, Choice | Range)
    json.dumps(dimension.to_json())
    for u in (0.0, 0.5, math.nextafter(1, 0)):
        value = dimension.at(u)
        if isinstance(dimension, Range):
            assert dimension.low <= value <= dimension.high  # type: ignore[operator]
            if dimension.points:
                dimension.grid()


@pytest.mark.parametrize("text", ["1:2:3:4", "1:2:log:log:log", "a:b", "1:true", "1:2:-3", "1:2:3.5", "1:2:lin", "1:"])
def test_what_is_no_range_is_told_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"low:high\[:points\]\[:log\]"):
        parse_dimension(text)


# --- As a label


@pytest.mark.parametrize(
    ("value", "label"),
    [(3e-4, "3e-4"), (0.1, "0.1"), (64, "64"), (None, "none"), (True, "True"), (0.0, "0"), (1e-5, "1e-5"),
     (0.05, "0.05"), (0.000123, "1.23e-4"), (32_768, "32768"), (2_000_000, "2e6"), ("bf16", "bf16"),
     (0.9995, "0.9995"), (0.9999, "0.9999"), (0.0100001, "0.0100001"), (1_048_576, "1048576"), (65_536.0, "65536"),
     (1.2345e-5, "1.2345e-5"), (0.9953456789, "0.995"), (1234.56789, "1230"), (1500.0, "1500"), (0.1 + 0.2, "0.3"),
     (1.5e7, "1.5e7"), (-0.25, "-0.25")],
)  # fmt: skip
def test_a_label_is_short(value: object, label: str) -> None:
    assert short(value) == label
