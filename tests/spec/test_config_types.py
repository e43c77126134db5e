"""A config goes out and comes back as the same typed value, or is refused before anything trains."""

import dataclasses
import enum
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, create_model
from synthetic import lr_warmup_space, make_plan, make_sweep

from sweeps import Choice, Range, Sweep
from sweeps.analysis.results import Results
from sweeps.spec.config_type import check_base, dumped, loaded, parsed
from sweeps.spec.fields import COLUMNS
from sweeps.spec.naming import LONGEST, short
from sweeps.store import frames, schema
from tinylm_core import RunConfig

ROOT = Path(__file__).parents[2]


class Colour(enum.Enum):
    RED, BLUE = "red", "blue"


@dataclass(frozen=True)
class Inner:
    names: frozenset[str] = frozenset({"a", "b"})
    depth: int = 1


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("x" * 7000) | st.just("日本 😀")
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, WHOLE), (float, REAL), (str, TEXT), (bool, st.booleans()),
    (float | str, REAL | TEXT), (int | str, WHOLE | TEXT), (bool | int, st.booleans() | WHOLE),
    (Optional[float], st.none() | REAL), (int | float | None, st.none() | WHOLE | REAL),  # noqa: UP045  # as users write
    (Literal["relu", "gelu"], st.sampled_from(["relu", "gelu"])), (Literal[1, 2, 4], st.sampled_from([1, 2, 4])),
    (Literal["auto"] | bool, st.just("auto") | st.booleans()),
    (frozenset[str], st.frozensets(TEXT, max_size=4)), (set[int], st.sets(WHOLE, max_size=4)),
    (frozenset[frozenset[str]], st.frozensets(st.frozensets(TEXT, max_size=2), max_size=2)),
    (list[float], st.lists(REAL, max_size=3)), (tuple[int, str], st.tuples(WHOLE, TEXT)),
    (dict[str, frozenset[int]], st.dictionaries(TEXT, st.frozensets(WHOLE, max_size=3), max_size=2)),
    (Inner, st.builds(Inner, names=st.frozensets(TEXT, max_size=3), depth=WHOLE)),
    (Colour, st.sampled_from(Colour)), (Path, st.just(Path("a/b"))),
]  # fmt: skip
NEEDED = [("seed", int, 0), ("num_steps", int, 2), ("tokens_per_step", int, 8)]


@st.composite
def configs(draw: st.DrawFn) -> Any:
    """A config of a class made for it, a dataclass or a pydantic model, of one to four fields."""
    typed = draw(st.lists(st.sampled_from(range(len(TYPED))), min_size=1, max_size=4))
    annotations = {f"f{number}": TYPED[which][0] for number, which in enumerate(typed)}
    values = {f"f{number}": draw(TYPED[which][1]) for number, which in enumerate(typed)}
    if draw(st.booleans()):
        needed: Any = {name: (kind, default) for name, kind, default in NEEDED}
        model = create_model("Model", __config__=ConfigDict(frozen=True), **needed, **{n: (a, ...) for n, a in annotations.items()})  # fmt: skip  # noqa: E501
        return model(**values)
    defaults = [(name, kind, field(default=default)) for name, kind, default in NEEDED]
    made = make_dataclass("Made", [*annotations.items(), *defaults], frozen=True)
    return made(**values)


def typed(value: Any) -> Any:
    """A value with the type of everything in it."""
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(typed, value)))
    if isinstance(value, list | tuple):
        return type(value), list(map(typed, value))
    if isinstance(value, dict):
        return type(value), {key: typed(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value):
        return type(value), {one.name: typed(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return type(value), {name: typed(getattr(value, name)) for name in type(value).model_fields}
    return type(value), value


@given(configs())
def test_a_config_that_is_accepted_comes_back_as_it_was_from_what_it_is_written_as(config: Any) -> None:
    check_base(config)
    written = json.loads(json.dumps(dumped(config)))
    assert written == dumped(config)
    assert typed(loaded(type(config), written)) == typed(config)


OTHER_PROCESS = """
from dataclasses import dataclass
from sweeps import Choice, Sweep
from sweeps.spec.catalog import Experiment
from sweeps.spec.config_type import dumped
from sweeps.trainers.own import OwnTrainer
@dataclass(frozen=True)
class Config:
    s: frozenset[str] = frozenset(["alpha", "beta", "gamma", "delta"])
    of: tuple[frozenset[str], ...] = (frozenset(["one", "two", "three"]),)
    x: float = 0.1
    seed: int = 0
    num_steps: int = 2
    tokens_per_step: int = 8
def run(config, **_): ...
sweep = Sweep(base=Config(), run=run, version=1, space={"x": Choice(0.1, 0.2)})
trainer = OwnTrainer.__new__(OwnTrainer)
trainer._version = 1
print(sweep.definition, trainer.identified(Config()).identity)
"""


def test_sets_make_the_same_definition_and_identity_in_every_process() -> None:
    """Python orders a set of texts anew in each."""
    said = {
        subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS], cwd=ROOT, check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(said) == 1


# --- What somebody types


@dataclass(frozen=True)
class Typed:
    k: Literal[1, 2, 4] = 2
    act: Literal["relu", "gelu"] = "relu"
    beta: float | str = "auto"
    n: int | str = 3
    flag: bool | str = "maybe"
    clip: float | None = None
    seed: int = 0
    num_steps: int = 2
    tokens_per_step: int = 8


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("k", "4", 4), ("act", "gelu", "gelu"), ("beta", "0.5", 0.5), ("beta", "auto", "auto"), ("beta", "1", 1.0),
     ("n", "7", 7), ("n", "7.5", "7.5"), ("flag", "true", True), ("flag", "yes", "yes"), ("clip", "none", None),
     ("clip", "2", 2.0), ("num_steps", "1e3", 1000)],
)  # fmt: skip
def test_what_is_typed_becomes_what_the_field_may_be(name: str, text: str, value: object) -> None:
    read = getattr(loaded(Typed, {name: parsed(Typed, name, text)}), name)
    assert (type(read), read) == (type(value), value)


# --- What is refused, and what is not


def run(config: Any, **_: Any) -> Any:
    raise NotImplementedError(config)


def sweep_of(annotation: Any, default: Any, space: dict[str, Any] | None = None, name: str = "f", **more: Any) -> Sweep:
    defaults = [(one, kind, field(default=value)) for one, kind, value in NEEDED]
    made = make_dataclass("Config", [(name, annotation, field(default=default)), *defaults], frozen=True)
    return Sweep(base=made(), run=run, version=1, space=space or {}, **more)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sweep_of(int, 1, {"f": Choice(2**70, 3)}), "space: f=1180591620717411303424 takes more than 64 bits"),
        (lambda: sweep_of(int, 2**63), "Config.f=9223372036854775808 takes more than 64 bits"),
        (lambda: sweep_of(float, 0.1, {"f": Choice(0.1, math.nan)}), "lists nan, which is equal to nothing"),
        (lambda: sweep_of(bool | int, 2, {"f": Choice(2, 1, True)}), "space: f: 1 and True are equal, and a table"),
        (lambda: sweep_of(int | float, 2, {"f": Choice(2, 1, 1.0)}), "space: f: 1 and 1.0 are equal"),
        (lambda: sweep_of(str, "x", name="state"), "base: Config.state is named as a column of a report's tables"),
        (lambda: sweep_of(float, 0.1, name="final_gap"), "base: Config.final_gap is named as a column"),
        (lambda: sweep_of(str, "\ud800"), "half of a surrogate pair is no text"),
        (lambda: sweep_of(float, 0.1, seeds=2.0), "seeds=2.0 must be a whole number"),
        (lambda: sweep_of(float, 0.1, seeds=True), "seeds=True must be a whole number"),
        (lambda: sweep_of(float, 0.1, {"f": Range(0, 1)}, search="random", num_trials="4"), "num_trials='4' must be"),
        (lambda: Range("a", "b"), "both ends must be numbers"),
        (lambda: Range(1, 2, points=2.5), "Range(points=2.5): must be a whole number"),
    ],
)  # fmt: skip
def test_what_can_not_come_back_is_refused_in_one_line_that_names_it(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)


def test_numbers_of_a_library_are_numbers() -> None:
    choice = Choice(*np.arange(1, 3), np.float32(0.5), torch.tensor(4), np.bool_(True))
    assert [(type(value), value) for value in choice.grid()] == [
        (int, 1), (int, 2), (float, 0.5), (int, 4), (bool, True),
    ]  # fmt: skip
    both = Range(np.int64(1), np.int64(8), points=np.int32(4))
    assert (both.is_integer, both.grid()) == (True, (1, 3, 6, 8))
    sweep = Sweep(base=RunConfig(), space={"num_layers": Choice(*np.arange(1, 3))}, seeds=np.int64(2))
    assert sweep.definition == Sweep(base=RunConfig(), space={"num_layers": Choice(1, 2)}, seeds=2).definition
    points = [{"num_layers": np.int64(2)}]
    assert replace_points(sweep, points).points == ({"num_layers": 2},)


def replace_points(sweep: Sweep, points: Any) -> Sweep:
    return dataclasses.replace(sweep, search="points", points=points)


def test_a_range_is_of_what_the_annotation_says() -> None:
    clip = Sweep(base=RunConfig(max_grad_norm=None), space={"max_grad_norm": Range(1, 2, points=5)})
    assert clip.space["max_grad_norm"].grid() == (1.0, 1.25, 1.5, 1.75, 2.0)
    zero = sweep_of(float, 0, {"f": Range(0, 1)}, search="points", points=[{"f": 0.5}])
    assert zero.points == ({"f": 0.5},)
    whole = sweep_of(int, 1, {"f": Range(1, 3, points=3)})
    assert whole.space["f"].grid() == (1, 2, 3)
    either = sweep_of(int | float, 1, {"f": Range(1, 3, points=3)})
    assert [type(value) for value in either.space["f"].grid()] == [int] * 3


def test_a_long_text_is_cut_in_a_label_and_told_from_others() -> None:
    one, other = short("a" * 7000 + "b"), short("a" * 7000 + "c")
    assert one != other
    assert len(one) == len(other) == LONGEST + 9
    assert short("a" * LONGEST) == "a" * LONGEST


def test_the_columns_of_reports_are_all_known() -> None:
    plan = make_plan(lr_warmup_space())
    results = Results(plan, *make_sweep(plan))
    fields = {*RunConfig.model_fields, "num_steps", "tokens_per_step", "seed"}
    history = frames.history_frame([], pd.DataFrame(columns=["run_id", "trial", "seed"]))
    columns = {*frames.trials_frame([], plan).columns, *results.board.columns, *results.runs.columns, *history.columns}
    columns -= {"_planted"}  # the truth of a synthetic sweep
    assert columns - fields <= COLUMNS
    assert {schema.column(name) for name in (*schema.SUMMARY_METRICS, *schema.HISTORY_METRICS)} - fields <= COLUMNS
    assert not COLUMNS & set(RunConfig.model_fields)
