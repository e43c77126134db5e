"""Experiment files: found by name or path, one line for what is wrong with one, and each that comes along is true."""

import re
from pathlib import Path

import pytest

from sweeps import Choice, Range
from sweeps.plan.plan import make_plan
from sweeps.spec import catalog
from sweeps.spec.catalog import Experiment, list_experiments, load_experiment, sweep_name
from sweeps.spec.flags import overridden
from sweeps.spec.sweep import Sweep
from tinylm_core import run
from tinylm_core.machine import this_machine

EXPERIMENTS = sorted(list_experiments())
HEAD = '"""Does it?"""\nfrom sweeps import Choice, Sweep\nfrom tinylm_core import RunConfig\n'


def changed(experiment: Experiment, *settings: str, dimensions: tuple[str, ...] = ()) -> Sweep:
    return overridden(experiment, settings, dimensions, None, None, None).sweep


def experiment_file(folder: Path, text: str, name: str = "question.py") -> Path:
    path = folder / name
    path.write_text(HEAD + text)
    return path


# --- What comes along


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_short_and_asks_a_question(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.file == f"experiments/{name}.py"
    assert experiment.question.endswith("?")
    assert f"python -m sweeps.run {name}" in experiment.docstring
    source = (catalog.experiments_folder() / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 45


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_makes_the_runs_that_its_docstring_says(name: str, text_file: Path) -> None:
    experiment = overridden(load_experiment(name), [f"data={text_file}"], [], None, None, None)
    plan = make_plan(experiment, this_machine("cpu"))
    said = re.search(r"# (\d+) runs", experiment.docstring)
    assert said, "the docstring gives the number of runs after its command"
    left_out = len(load_experiment(name).sweep.space) and sum("left out" in note for note in plan.notes)
    assert int(said[1]) == plan.num_trials * plan.sweep.seeds + left_out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"tinystories", "shakespeare_char"}))
def test_the_plan_of_an_experiment_is_valid(name: str) -> None:
    plan = make_plan(load_experiment(name), this_machine("cpu"))
    for trial in plan.known_trials():
        assert trial.runs[0].config.num_steps > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_when_shrunk(name: str, text_file: Path) -> None:
    size = ["d_model=16", "num_layers=1", "num_heads=2", "max_seq_len=16", "max_tokens=None"]
    budget = ["num_evals=1", "eval_tokens=64", "train_tokens=1"]
    settings = [f"data={text_file}", *size, *budget]
    with pytest.raises(ValueError, match="the nearest is train_tokens=") as refused:
        make_plan(overridden(load_experiment(name), settings, [], None, None, None), this_machine("cpu"))
    settings[-1] = str(refused.value).rpartition("the nearest is ")[2]
    plan = make_plan(overridden(load_experiment(name), settings, [], None, None, None), this_machine("cpu"))
    setting = {field: dimension.at(0.0) for field, dimension in plan.sweep.space.items()}
    metrics = run(plan.trial(0, setting).runs[0].config, device="cpu", threads=1)
    assert metrics.state == "COMPLETE"
    assert 0 < metrics.final.val_loss < 10


# --- Finding


def test_an_unknown_experiment_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown experiment 'lr_warmpu'; did you mean lr_warmup"):
        load_experiment("lr_warmpu")
    with pytest.raises(ValueError, match="known: accumulation, exercise"):
        load_experiment("zzzzz")


def test_the_start_of_a_name_is_enough_where_it_is_of_one_alone() -> None:
    assert load_experiment("lr_w").name == "lr_warmup"
    with pytest.raises(ValueError, match=r"experiment 's': 2 names start so: shakespeare_char, smoke$"):
        load_experiment("s")
    known = ["lr", "lr_warmup", "tpe"]
    assert [sweep_name(given, known) for given in ("lr", "lr_w", "t", "x", "my/lr.py", "")] == [
        "lr", "lr_warmup", "tpe", "x", "lr", "",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="sweep 'l': 2 names start so: lr, lr_warmup"):
        sweep_name("l", known)


def test_a_path_that_is_no_file_is_told() -> None:
    with pytest.raises(ValueError, match=r"no experiment file at nowhere/mine\.py"):
        load_experiment("nowhere/mine.py")


def test_a_file_elsewhere_is_known_by_its_path(tmp_path: Path) -> None:
    path = experiment_file(tmp_path, "SWEEP = Sweep(base=RunConfig(), space={})")
    experiment = load_experiment(str(path))
    assert (experiment.name, experiment.file, experiment.question) == ("question", str(path), "Does it?")


@pytest.mark.parametrize("name", ["my question.py", "größe.py", ".hidden.py"])
def test_a_file_whose_name_no_store_takes_is_refused(tmp_path: Path, name: str) -> None:
    path = experiment_file(tmp_path, "SWEEP = Sweep(base=RunConfig(), space={})", name)
    with pytest.raises(ValueError, match=r"sweep name .*allowed are"):
        load_experiment(str(path))


def test_one_broken_file_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_file(tmp_path, "SWEEP = Sweep(base=RunConfig(), space={})", "good.py")
    (tmp_path / "broken.py").write_text("SWEEP = Sweep(")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    monkeypatch.setattr(catalog, "experiments_folder", lambda: tmp_path)
    assert list(list_experiments()) == ["binary", "broken", "good"]
    assert load_experiment("good").question == "Does it?"
    with pytest.raises(ValueError, match=r"broken.py, line 1: SyntaxError"):
        load_experiment("broken")


# --- What is wrong with one, in one line that names its line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SWEEP = 1", r"^question.py must define SWEEP = Sweep\(…\)$"),
        ("x = 1", r"^question.py must define SWEEP"),
        ("x = 1\ny = x +\n", r"^question.py, line 5: SyntaxError: invalid syntax"),
        ("\nraise RuntimeError('two\\nlines')", r"^question.py, line 5: RuntimeError: two lines$"),
        ("def f():\n    return 1 / 0\n\nf()", r"^question.py, line 5: ZeroDivisionError: division by zero$"),
        ("SWEEP = Sweep(base=RunConfig(d_model=15), space={})", r"^question.py, line 4: d_model=15 is not divisible"),
        (
            "SWEEP = Sweep(base=RunConfig(d_modell=16), space={})",
            r"line 4: unknown field 'd_modell'; did you mean d_mo",
        ),
        ("\nSWEEP = Sweep(base=RunConfig(), space={'lr': Choice(1)})", r"line 5: unknown field in the space 'lr'"),
        (
            "SWEEP = Sweep(base=RunConfig(), space={'dropout': Choice([0.0, 0.1])})",
            r"^question.py, line 4: Choice\(\[0.0, 0.1\]\): values are listed one by one",
        ),
        (
            "SWEEP = Sweep(base=RunConfig(), spaces={})",
            r"^question.py, line 4: unknown argument of Sweep 'spaces'; did you mean space\?$",
        ),
        ("SWEEP = Sweep(base=RunConfig(), space=1 + '')", r"^question.py, line 4: TypeError: unsupported operand"),
        ("import missing_module", r"^question.py, line 4: ModuleNotFoundError: No module named 'missing_module'$"),
        ("import json\njson.loads('{')", r"^question.py, line 5: Expecting property name"),
        ("raise SystemExit(3)", r"^question.py, line 4: SystemExit: 3$"),
    ],
)
def test_a_file_that_raises_is_told_in_one_line_with_its_own_line_number(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_experiment(str(experiment_file(tmp_path, text)))
    assert "\n" not in str(error.value)


# --- What a command line changes


def test_a_set_field_is_pinned_and_a_swept_one_is_added() -> None:
    sweep = changed(load_experiment("lr_warmup"), "warmup_ratio=0.1", "d_model=64", dimensions=("weight_decay=0,0.1",))
    assert list(sweep.space) == ["learning_rate", "weight_decay"]
    assert (sweep.base.warmup_ratio, sweep.base.d_model) == (0.1, 64)
    sweep = changed(load_experiment("lr_warmup"), dimensions=("learning_rate=1e-4:1e-2:3:log",))
    assert sweep.space["learning_rate"] == Range(1e-4, 1e-2, 3, log=True)


def test_none_means_none_where_the_field_allows_it() -> None:
    sweep = changed(load_experiment("smoke"), "eval_tokens=None", dimensions=("max_grad_norm=None,1.0",))
    assert sweep.base.eval_tokens is None
    assert sweep.space["max_grad_norm"] == Choice(None, 1.0)


def test_a_whole_number_may_be_typed_with_an_exponent() -> None:
    sweep = changed(load_experiment("smoke"), "train_tokens=4.096e3", "eval_tokens=1E3", "learning_rate=1e-3")
    assert (sweep.base.train_tokens, sweep.base.eval_tokens, sweep.base.learning_rate) == (4096, 1000, 1e-3)
    assert type(sweep.base.train_tokens) is int


def test_an_unknown_name_that_is_a_file_here_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--list\)$"):
        load_experiment("mine")
    (tmp_path / "mine.py").touch()
    with pytest.raises(ValueError, match=r"; mine.py is a file here: python -m sweeps.run mine.py$"):
        load_experiment("mine")
    (tmp_path / "shakespeare.py").touch()  # and what is here is meant before an experiment whose name only begins so
    with pytest.raises(ValueError, match=r"; shakespeare.py is a file here: python -m sweeps.run shakespeare.py$"):
        load_experiment("shakespeare")


@pytest.mark.parametrize(
    ("settings", "dimensions", "message"),
    [
        (["learning_rat=1"], [], "unknown field 'learning_rat'; did you mean learning_rate"),
        (["learning_rate=quick"], [], "learning_rate='quick': .*valid number"),
        (["learning_rate=-1"], [], "learning_rate='-1': .*greater than 0"),
        (["d_model=1.5"], [], "d_model='1.5': .*valid integer"),
        (["train_tokens=1.5e-1"], [], "train_tokens='1.5e-1': .*valid integer"),
        (["train_tokens=1e400"], [], "train_tokens='1e400': .*valid integer"),
        (["schedule=linaer"], [], "schedule='linaer': .*'cosine', 'linear', 'constant' or 'wsd'"),
        (["learning_rate"], [], "'learning_rate' is not FIELD=VALUE"),
        ([], ["learning_rate"], "'learning_rate' is not FIELD=VALUE"),
        ([], ["learning_rate=1:2:x"], "--sweep learning_rate: '1:2:x' is neither"),
        ([], ["learning_rate=2:1:3"], "--sweep learning_rate: Range.*below"),
        ([], ["learning_rate=1e-3,1e-3"], "--sweep learning_rate: .*twice"),
        ([], ["seed=0,1"], "seed is not swept"),
        ([], ["batch_size=1:8:2"], "batch_size decides the tokens per step"),
        ([], ["learning_rate=1e-3:1e-2"], "needs points"),
        (["dropout=0"], ["dropout=0,0.1"], "dropout: both set and swept"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_field_and_what_is_allowed(
    settings: list[str], dimensions: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        overridden(load_experiment("smoke"), settings, dimensions, None, None, None)
    assert "\n" not in str(error.value)


def test_the_number_of_trials_of_a_grid_is_its_cells() -> None:
    with pytest.raises(ValueError, match="num_trials=3: a grid has as many trials as cells"):
        overridden(load_experiment("smoke"), [], [], None, 3, None)
