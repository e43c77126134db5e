"""What a plan knows of the trainers: the size of our own models, and any trainer that keeps a run's promises."""

import itertools
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sweeps import Choice, Range, Sweep
from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import Experiment, load_experiment
from sweeps.spec.config_type import dumped, from_params, to_params
from sweeps.spec.flags import overridden
from sweeps.spec.space import Space
from sweeps.trainers.contract import ContractGuard, train
from sweeps.trainers.tinylm import TinyLM, num_epochs
from tinylm_core import RunConfig
from tinylm_core.cost import num_parameters
from tinylm_core.machine import Machine
from tinylm_core.model import TinyGPT
from tinylm_core.records import EvalRecord, Metrics, StepRecord

PLAIN = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)

# --- Ours


@given(
    heads=st.integers(1, 4), width=st.integers(1, 8), layers=st.integers(1, 3), d_ff=st.none() | st.integers(1, 40),
    context=st.integers(1, 20), vocab=st.integers(2, 50), bias=st.booleans(), tied=st.booleans(), pre=st.booleans(),
)  # fmt: skip
def test_the_formula_counts_the_parameters_of_the_model(
    heads: int, width: int, layers: int, d_ff: int | None, context: int, vocab: int, bias: bool, tied: bool, pre: bool
) -> None:
    config = RunConfig(
        d_model=heads * width, num_heads=heads, num_layers=layers, d_ff=d_ff, max_seq_len=context, bias=bias,
        tie_embeddings=tied, norm_first=pre,
    )  # fmt: skip
    with torch.device("meta"):
        model = TinyGPT(config, vocab)
    assert num_parameters(config, vocab) == sum(parameter.numel() for parameter in model.parameters())


def test_epochs_and_disk_follow_the_budget(tiny: Any) -> None:
    config, trainer = tiny(), TinyLM(PLAIN)
    corpus = trainer.corpus(config)
    windows = (len(corpus.train) - 1) // 8
    assert num_epochs(config, corpus) == 64 * 12 / (windows * 8)
    weights = 4 * num_parameters(config, corpus.vocab_size)
    assert weights < trainer.disk_bytes(config) < weights + 1000 * 12


def test_no_pace_is_measured_for_a_machine_that_is_not_this_one(tiny: Any) -> None:
    """Runs train on a cluster's GPU, and the plan is made where there is none like it."""
    trainer = TinyLM(Machine("cuda:99", "H100", fast_bf16=True, fast_fp16=True))
    assert trainer.pace(tiny()) is None
    assert TinyLM(PLAIN).pace(tiny(compile=False))


# --- A config of one's own


@dataclass(frozen=True)
class Plain:
    rate: float = 0.1
    sizes: tuple[int, ...] = (2, 3)
    warm: bool = True
    name: str | None = None
    num_steps: int = 6
    seed: int = 0

    @property
    def tokens_per_step(self) -> int:
        return 4

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate={self.rate} is above 1")


class Model(BaseModel, frozen=True, extra="forbid"):
    rate: float = 0.1
    num_steps: int = 6
    tokens_per_step: int = 4
    seed: int = 0


class Named(Model):
    name: str = "a"


def fall(config: Plain, *, on_steps: Any, on_eval: Any, **_: Any) -> Metrics:
    """Loss 1/step; an evaluation before the first step and after the last."""
    on_eval(EvalRecord(0, 0, 1.0, 0.0, 1.0, 0.0))
    for step in range(1, config.num_steps + 1):
        on_steps([StepRecord(step, 4 * step, 1 / step, config.rate)])
    last = config.num_steps
    on_eval(EvalRecord(last, 4 * last, config.rate, 0.0, 0.01, 0.0))
    return Metrics("COMPLETE", num_parameters=1, vocab_size=2)


def own_sweep(base: Any = None, space: Space | None = None, **fields: Any) -> Sweep:
    return Sweep(
        base=base or Plain(), space={"rate": Choice(0.1, 0.2)} if space is None else space,
        **{"run": fall, "version": 1} | fields,
    )  # fmt: skip


def own(sweep: Sweep) -> Experiment:
    return Experiment("own", "own.py", "", sweep, path=Path("own.py"))


@given(
    rate=st.floats(0, 1), sizes=st.lists(st.integers(), max_size=3).map(tuple), warm=st.booleans(),
    name=st.none() | st.text().filter(lambda text: text != "None"), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_config_survives_the_trackers_text_and_json(
    rate: float, sizes: tuple[int, ...], warm: bool, name: str | None, seed: int
) -> None:
    config = Plain(rate, sizes, warm, name, seed=seed)
    assert from_params(Plain, to_params(config)) == config
    assert json.loads(json.dumps(dumped(config))) == dumped(config)


def test_of_our_own_config_text_and_values_are_what_it_says_itself() -> None:
    config = RunConfig(warmup_ratio=0.05, d_ff=None, vocab_size=77, bias=False)
    text = {name: value if isinstance(value, str) else repr(value) for name, value in config.model_dump().items()}
    assert to_params(config) == text
    assert dumped(config) == config.model_dump()
    assert from_params(RunConfig, to_params(config)) == config


EVERY_OTHER = itertools.cycle([True, False])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"version": None}, "version: a sweep with its own run needs one, to be changed with whatever changes results"),
        ({"run": None}, "base: a Plain needs run=…, the trainer that takes it"),
        ({"run": "fall"}, "run='fall' must be a function with the signature of tinylm_core.run"),
        ({"run": None, "base": RunConfig()}, "version=1 is of a trainer of one's own: run=…"),
        ({"space": {"rat": Choice(1)}}, "unknown field in the space 'rat'; did you mean rate?"),
        ({"space": {"seed": Choice(1)}}, "space: seed is not swept; seeds=N trains each trial with N of them"),
        ({"space": {"rate": Choice("much")}}, "space: rate='much': input should be a valid number, unable to parse"),
        ({"space": {"name": Range(0.0, 1.0, points=2)}}, "space: name is no number, so it takes Choice(…), not Range"),
        ({"base": Plain(num_steps=0)}, "base: Plain needs num_steps, a whole number of at least 1"),
        ({"base": 7}, "int must be a dataclass or a pydantic model"),
        ({"base": Plain}, "base: Plain is a class, and a sweep needs a config: Plain()"),
        ({"base": Plain(warm="yes")}, "Plain.warm='yes' is no value of the field's type that JSON can hold"),
        (
            {"base": Plain(sizes=torch.ones(2))},
            "Plain.sizes=tensor([1., 1.]) is no value of the field's type that JSON",
        ),
        ({"space": [1]}, "space=[1] must be {field: Choice(…) or Range(…)}"),
        ({"run": lambda _config, _steps: None}, "run: <lambda> can't be called as run(config, workdir=…, on_steps=…"),
        (
            {"points": {"rate": 0.1}, "search": "random", "num_trials": 2},
            "points={'rate': 0.1} must be a list of settings, each {field: value}",
        ),
        (
            {"allowed": lambda _: next(EVERY_OTHER)},
            "allowed: gave True and then False, or the other way, for one setting: rate=0.1",
        ),
    ],
)
def test_what_can_be_no_sweep_is_told_in_a_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the line is compared below
        own_sweep(**fields)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_setting_that_the_config_refuses_is_named() -> None:
    sweep = own_sweep(space={"rate": Choice(0.1, 0.2), "num_steps": Choice(6)})
    plan = make_plan(own(sweep), PLAIN)
    with pytest.raises(ValueError, match=r"^rate=2.0 is above 1 \(setting rate=2\)$"):
        plan.trial(0, {"rate": 2.0})


def test_the_version_and_every_field_are_in_the_identity_and_the_definition() -> None:
    def identity(sweep: Sweep) -> str:
        return make_plan(own(sweep), PLAIN).known_trials()[0].runs[0].identity

    same = own_sweep()
    assert identity(same) == identity(own_sweep()) == identity(own_sweep(space={"rate": Choice(0.1)}))
    assert same.definition == own_sweep().definition
    for other in (own_sweep(version=2), own_sweep(Plain(sizes=(9,))), own_sweep(Plain(seed=5))):
        assert identity(other) != identity(same)
        assert other.definition != same.definition


def test_settings_of_different_budgets_are_said_not_to_be_matched() -> None:
    plan = make_plan(own(own_sweep(space={"num_steps": Choice(6, 12)})), PLAIN)
    assert not plan.matched
    assert plan.notes == ["not matched: settings train on different numbers of tokens, 24 to 48"]
    assert make_plan(own(own_sweep()), PLAIN).matched


def test_a_pydantic_config_does_as_well_and_the_command_line_changes_it() -> None:
    experiment = own(own_sweep(Model()))
    changed = overridden(experiment, ["num_steps=3"], ["rate=0.5,0.7"], None, None, None)
    configs = [trial.runs[0].config for trial in make_plan(changed, PLAIN).known_trials()]
    assert configs == [Model(rate=0.5, num_steps=3), Model(rate=0.7, num_steps=3)]
    named = overridden(own(own_sweep(Named())), [], ["name=1,nan,low:high"], None, None, None)
    assert named.sweep.space["name"] == Choice("1", "nan", "low:high")
    with pytest.raises(ValueError, match="unknown field 'd_model'"):
        overridden(experiment, ["d_model=3"], [], None, None, None)


def test_a_sweep_that_stands_in_no_file_can_not_be_sent_to_a_worker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must stand in a file"):
        make_plan(Experiment("own", None, "", own_sweep()), PLAIN)
    file = tmp_path / "unknown.py"
    file.write_text("from sweeps import Sweep\nSWEEP = Sweep(run=train)\n")
    with pytest.raises(ValueError, match=r"unknown\.py, line 2: NameError"):
        load_experiment(str(file))


# --- What a run promises


@dataclass
class Heard:
    steps: list[StepRecord]
    evals: list[EvalRecord]
    metrics: Metrics


def heard(run: Any, *, stop: bool = False) -> Heard:
    steps: list[StepRecord] = []
    evals: list[EvalRecord] = []
    told = {"on_steps": steps.extend, "on_eval": evals.append, "should_stop": lambda: stop}
    return Heard(steps, evals, train(own_sweep(run=run), json.dumps(dumped(Plain())), **told))


def test_the_metrics_are_what_was_told_with_a_pace_of_its_own() -> None:
    got = heard(fall)
    assert got.metrics.steps == got.steps
    assert got.metrics.evals == got.evals
    assert [record.step for record in got.steps] == [1, 2, 3, 4, 5, 6]
    assert all(record.tokens_per_second > 0 for record in got.steps)
    assert got.metrics.objective == 0.1


def test_a_loss_that_is_no_number_ends_the_run_and_nothing_of_it_or_later_is_kept() -> None:
    asked = []

    def burst(config: Plain, *, on_steps: Any, on_eval: Any, should_stop: Any, **_: Any) -> Metrics:
        on_eval(EvalRecord(0, 0, 1.0, 0.0, 1.0, 0.0))
        for step in range(1, 100):
            on_steps([StepRecord(step, 4 * step, math.nan if step >= 4 else 1.0, config.rate)])
            asked.append(should_stop())
            if asked[-1]:
                break
        on_eval(EvalRecord(step, 4 * step, math.nan, 0.0, math.nan, 0.0))
        return Metrics("COMPLETE", num_parameters=1, vocab_size=2, weights_sha256="ab")

    got = heard(burst)
    assert asked == [False, False, False, True]
    assert (got.metrics.state, got.metrics.diverged_at, got.metrics.weights_sha256) == ("DIVERGED", 4, None)
    assert [record.step for record in got.metrics.steps] == [record.step for record in got.steps] == [1, 2, 3]
    assert [record.step for record in got.metrics.evals] == [0]
    assert got.metrics.objective == math.log(2)


def test_an_evaluation_that_is_no_number_diverges_too() -> None:
    told = guard()
    told.evaluated(EvalRecord(0, 0, 1.0, 0.0, 1.0, 0.0))
    told.evaluated(EvalRecord(2, 8, math.inf, 0.0, 1.0, 0.0))
    assert (told.diverged_at, [record.step for record in told.evals]) == (2, [0])


def guard() -> ContractGuard:
    """Of a run of 6 steps, 4 tokens each."""
    return ContractGuard(lambda _: None, lambda _: None, lambda: False, num_steps=6, tokens_per_step=4)


STEP, EVALUATION = StepRecord(1, 4, 1.0, 0.1), EvalRecord(0, 0, 1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("tell", "line"),
    [
        (lambda told: told.steps_taken([STEP, STEP]), "on_steps was told step 1 after step 1"),
        (lambda told: told.steps_taken([StepRecord(2, 4, 1.0, 0.1)]), "on_steps was told step 2 after step 0"),
        (lambda told: told.steps_taken([1.0]), "on_steps takes a list of StepRecord, not of float"),
        (lambda told: told.steps_taken(STEP), "on_steps takes a list of StepRecord, not a StepRecord"),
        (
            lambda told: told.steps_taken([StepRecord(0, 0, 1.0, 0.1)]),
            "on_steps was told step 0 after step 0; steps count from 1",
        ),
        (
            lambda told: told.steps_taken([StepRecord(1, 3, 1.0, 0.1)]),
            "on_steps was told 3 tokens up to step 1, and the config says tokens_per_step=4, which makes 4",
        ),
        (
            lambda told: told.evaluated(EvalRecord(2, 2000, 1.0, 0.0, 1.0, 0.0)),
            "on_eval was told 2,000 tokens up to step 2, and the config says tokens_per_step=4, which makes 8",
        ),
        (
            lambda told: told.steps_taken([StepRecord(step, 4 * step, 1.0, 0.1) for step in range(1, 9)]),
            "on_steps was told step 7, and the config says num_steps=6",
        ),
        (lambda told: told.evaluated(1.0), "on_eval takes an EvalRecord, not float"),
        (lambda told: (told.evaluated(EVALUATION), told.evaluated(EVALUATION)), "on_eval was told step 0 after step 0"),
    ],
)
def test_a_broken_promise_is_named(tell: Any, line: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        tell(guard())
    assert str(error.value) == line


def test_numbers_of_a_library_become_pythons_own() -> None:
    told = guard()
    loss = torch.nn.Parameter(torch.tensor(1.5)) * 1
    told.steps_taken([StepRecord(np.int64(1), torch.tensor(4), loss.detach(), np.float32(0.25), loss.detach())])
    told.evaluated(EvalRecord(1, 4, torch.tensor(1.0), np.float64(0.5), 1, 0))
    assert json.loads(json.dumps(asdict(told.steps[0]))) | {"timestamp_ms": 0, "tokens_per_second": 0} == {
        "step": 1, "tokens": 4, "loss": 1.5, "learning_rate": 0.25, "grad_norm": 1.5, "tokens_per_second": 0,
        "skipped": False, "timestamp_ms": 0,
    }  # fmt: skip
    assert {type(value) for value in asdict(told.evals[0]).values()} == {int, float}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (StepRecord(1, 4, 1.0, None), "StepRecord.learning_rate=None is not a number"),  # type: ignore[arg-type]
        (StepRecord(1, "four", 1.0, 0.1), "StepRecord.tokens='four' is not a whole number"),  # type: ignore[arg-type]
        (StepRecord(1, 4, np.ones(2), 0.1), "StepRecord.loss=array([1., 1.]) is not a number"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_is_named(record: StepRecord, line: str) -> None:
    with pytest.raises(TypeError) as error:
        guard().steps_taken([record])
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("returned", "line"),
    [
        ({"state": "DONE"}, "run returned state='DONE', which is not one of COMPLETE, DIVERGED, INTERRUPTED"),
        ({"state": "complete"}, "run returned state='complete', which is not one of COMPLETE, DIVERGED, INTERRUPTED"),
        ({"vocab_size": 1}, "run returned vocab_size=1: a prediction chooses among 2 at least"),
        ({"num_parameters": None}, "Metrics.num_parameters=None is not a whole number"),
    ],
)
def test_metrics_that_can_not_be_kept_are_named(returned: dict[str, Any], line: str) -> None:
    metrics = Metrics(**{"state": "COMPLETE", "num_parameters": 1, "vocab_size": 2} | returned)
    with pytest.raises((TypeError, ValueError)) as error:
        heard(lambda *_, **__: metrics)
    assert str(error.value) == line


def test_a_run_returns_metrics_and_one_that_is_complete_has_its_last_evaluation() -> None:
    with pytest.raises(TypeError, match="run returned float, not Metrics"):
        heard(lambda *_, **__: 1.5)

    def stops_early(config: Plain, *, on_steps: Any, on_eval: Any, told_evals: int, **_: Any) -> Metrics:
        for step in range(1, 4):
            on_steps([StepRecord(step, 4 * step, 1.0, config.rate)])
            if step <= told_evals:
                on_eval(EvalRecord(step, 4 * step, 1.0, 0.0, 1.0, 0.0))
        return Metrics("COMPLETE", num_parameters=1, vocab_size=2)

    for told_evals, said in [(0, "none"), (3, "the last at step 3")]:
        with pytest.raises(ValueError, match=f"after step 6, config.num_steps: it has told {said}$"):
            heard(partial(stops_early, told_evals=told_evals))
