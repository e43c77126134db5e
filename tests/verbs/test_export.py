"""An exported sweep is an Optuna study with the sweep's own values. Read with Optuna's own client."""

import math
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import optuna
import pytest
from launcher import Launcher, Result
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from stores import START, write_experiment, write_sweep

from sweeps import Choice
from sweeps.search.export import MARK, StudyTrial, write_study
from sweeps.store import Store, open_store

NAMES = (f"exported{number}" for number in count())
SPACE = (
    '{"learning_rate": Range(1e-3, 1e-2, points=3, log=True), "max_grad_norm": Choice(None, 1.0), '
    '"num_layers": Range(1, 2, points=2)}'
)
SOME = {
    (0, 0): ("COMPLETE", 2.0),
    (0, 1): ("COMPLETE", 2.5),
    (1, 0): ("COMPLETE", 2.0),
    (1, 1): ("DIVERGED", math.log(20)),
    (2, 0): ("COMPLETE", 1.5),
    (2, 1): ("FAILED", None),
    (3, 0): ("COMPLETE", 1.0),
    (3, 1): ("INTERRUPTED", None),
    (4, 0): ("COMPLETE", 1.0),  # of the other seed there is nothing yet
}


def export(launcher: Launcher, store: Store, name: str, folder: Path, url: str = "sqlite:///study.db") -> Result:
    where = store.folder if store.is_local else store.tracking_uri
    return launcher.run("sweeps.export", name, "--optuna", url, "--store", where, cwd=folder)


def loaded(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")


@pytest.fixture
def local(empty_store: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(empty_store, tmp_path / "local"))


def test_a_study_has_the_trials_with_the_sweeps_own_values(
    launcher: Launcher, any_store: Store, tmp_path: Path, text_file: Path
) -> None:
    name = next(NAMES)
    ids = write_sweep(any_store, write_experiment(tmp_path, text_file, name, SPACE), SOME)
    result = export(launcher, any_store, name, tmp_path)
    assert (result.code, result.err) == (0, "")
    assert f"12 trials of {name} are in sqlite:///study.db" in result.out
    study = loaded(tmp_path, name)
    assert study.direction.name == "MINIMIZE"
    assert study.metric_names == ["validation loss"]
    assert study.user_attrs["question"] == "Does it?"
    assert [trial.number for trial in study.trials] == list(range(12))
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE", "COMPLETE", "FAIL", "RUNNING", "RUNNING", *["WAITING"] * 7,
    ]  # fmt: skip
    assert [trial.value for trial in study.trials[:4]] == [2.25, (2.0 + math.log(20)) / 2, None, None]
    assert study.best_trial.number == 0
    plan = any_store.plan(name)
    assert [trial.params for trial in study.trials] == [trial.setting for trial in plan.trials]
    assert study.trials[0].params == {"learning_rate": 1e-3, "max_grad_norm": None, "num_layers": 1}
    assert study.trials[0].distributions == {
        "learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
        "max_grad_norm": CategoricalDistribution((None, 1.0)),
        "num_layers": IntDistribution(1, 2),
    }
    first = study.trials[0]
    assert first.user_attrs == {
        "label": "lr=1e-3 max_grad_norm=none num_layers=1",
        "run_id seed=0": ids[0, 0], "state seed=0": "COMPLETE", "objective seed=0": 2.0,
        "run_id seed=1": ids[0, 1], "state seed=1": "COMPLETE", "objective seed=1": 2.5,
    }  # fmt: skip
    # 32 tokens a step; both seeds fall by 1 over the 6 steps.
    assert first.intermediate_values == pytest.approx({0: 3.25, 64: 3.25 - 2 / 6, 128: 3.25 - 4 / 6, 192: 2.25})
    assert list(study.trials[2].intermediate_values) == [0, 64]  # as far as the failed one came
    assert first.datetime_start == datetime.fromtimestamp(START / 1000)
    assert first.datetime_complete == datetime.fromtimestamp(START / 1000 + 61)


def test_an_export_again_replaces_the_study_and_leaves_others(
    launcher: Launcher, local: Store, tmp_path: Path, text_file: Path
) -> None:
    file = write_experiment(tmp_path, text_file, space='{"learning_rate": Choice(1e-3, 3e-3)}', seeds=1)
    write_sweep(local, file, {(0, 0): ("COMPLETE", 2.0)})
    other = optuna.create_study(study_name="other", storage=f"sqlite:///{tmp_path}/study.db")
    other.add_trial(optuna.create_trial(value=1.0))
    assert export(launcher, local, "question", tmp_path).code == 0
    assert [trial.state for trial in loaded(tmp_path, "question").trials] == [TrialState.COMPLETE, TrialState.WAITING]
    write_sweep(local, file, {(1, 0): ("COMPLETE", 1.0)}, start_ms=START + 10**6)
    assert export(launcher, local, "question", tmp_path).code == 0
    assert [trial.value for trial in loaded(tmp_path, "question").trials] == [2.0, 1.0]
    assert sorted(study.study_name for study in optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")) == [
        "other", "question",
    ]  # fmt: skip
    assert loaded(tmp_path, "other").best_value == 1.0


def test_a_study_or_a_database_of_somebody_else_is_left_alone(
    launcher: Launcher, local: Store, tmp_path: Path, text_file: Path
) -> None:
    file = write_experiment(tmp_path, text_file, space='{"learning_rate": Choice(1e-3)}', seeds=1)
    write_sweep(local, file, {(0, 0): ("COMPLETE", 2.0)})
    theirs = optuna.create_study(study_name="question", storage=f"sqlite:///{tmp_path}/study.db")
    theirs.add_trial(optuna.create_trial(value=1.0))
    result = export(launcher, local, "question", tmp_path)
    assert (result.code, result.one_line) == (
        2, "--optuna: the study 'question' there is not an exported one; choose another database",
    )  # fmt: skip
    assert loaded(tmp_path, "question").best_value == 1.0
    result = export(launcher, local, "question", tmp_path, f"sqlite:///{local.folder}/mlflow.db")
    assert result.code == 2
    assert "the database holds other tables" in result.one_line
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchall()


def test_the_start_of_a_stored_name_is_enough_for_every_verb_that_takes_one(
    launcher: Launcher, local: Store, tmp_path: Path, text_file: Path
) -> None:
    for name in ("first_one", "first_two", "second"):
        write_sweep(local, write_experiment(tmp_path, text_file, name), {(0, 0): ("COMPLETE", 2.0)})
    for verb, *more in (("report",), ("export", "--optuna", "sqlite:///study.db"), ("rm",)):
        result = launcher.run(f"sweeps.{verb}", "first", *more, "--store", local.folder, cwd=tmp_path)
        assert (result.code, result.one_line) == (2, "sweep 'first': 2 names start so: first_two, first_one"), verb
        typo = launcher.run(f"sweeps.{verb}", "secnod", *more, "--store", local.folder, cwd=tmp_path)
        assert typo.code == 2
        assert typo.one_line == f"no sweep 'secnod' in {local.folder}; did you mean second?"
    assert not (tmp_path / "study.db").exists()
    assert export(launcher, local, "sec", tmp_path).code == 0
    assert len(loaded(tmp_path, "second").trials) == 4


@pytest.mark.parametrize("url", ["study.db", "sqlite:///no/such/folder/study.db", "oracle+nothing://h/x"])
def test_an_address_that_is_none_is_told_in_one_line(
    launcher: Launcher, local: Store, tmp_path: Path, text_file: Path, url: str
) -> None:
    file = write_experiment(tmp_path, text_file, space='{"learning_rate": Choice(1e-3)}', seeds=1)
    write_sweep(local, file, {(0, 0): ("COMPLETE", 2.0)})
    result = export(launcher, local, "question", tmp_path, url)
    assert result.code == 2
    assert result.one_line.startswith("--optuna: must be a database's address, such as sqlite:///study.db: ")
    assert not (tmp_path / "study.db").exists()


def test_a_field_that_is_not_varied_is_no_parameter_of_its_trial(tmp_path: Path) -> None:
    space = {"schedule": Choice("cosine", "wsd"), "decay_ratio": Choice(0.1, 0.3, when={"schedule": "wsd"})}
    settings = [{"schedule": "cosine", "decay_ratio": 0.2}, {"schedule": "wsd", "decay_ratio": 0.3}]
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    trials = [StudyTrial(setting, "COMPLETE", 2.0, {}, {}, moment, moment) for setting in settings]
    write_study(f"sqlite:///{tmp_path}/study.db", "conditional", space, trials, {MARK: "d"})
    found = loaded(tmp_path, "conditional").trials
    assert [trial.params for trial in found] == [{"schedule": "cosine"}, settings[1]]


def test_an_earlier_definition_is_exported_by_the_start_of_its_name(
    launcher: Launcher, local: Store, tmp_path: Path, text_file: Path
) -> None:
    for space, when in (('{"learning_rate": Choice(1e-3)}', START), ('{"dropout": Choice(0.0, 0.1)}', START + 10_000)):
        write_sweep(
            local, write_experiment(tmp_path, text_file, "twice", space), {(0, 0): ("COMPLETE", 2.0)}, start_ms=when
        )
    newest, earlier = (known.definition for known in local.definitions("twice"))

    def exported(*arguments: str) -> Result:
        command = ("sweeps.export", "twice", "--optuna", "sqlite:///study.db", "--store", local.folder, *arguments)
        return launcher.run(*command, cwd=tmp_path)

    latest = exported()
    assert (latest.code, f"other definitions of twice: {earlier} (--definition ID)" in latest.out) == (0, True), latest
    assert len(loaded(tmp_path, "twice").trials) == 2
    assert "in place of" not in exported().out
    other = exported("--definition", earlier[:6])
    assert (other.code, f"in place of the study twice of definition {newest}" in other.out) == (0, True), other
    study = loaded(tmp_path, "twice")
    assert (len(study.trials), study.user_attrs[MARK]) == (1, earlier)
    refused = exported("--definition", "zzz")
    assert refused.code == 2
    assert refused.one_line == f"definition 'zzz' of 'twice': 0 match; known: {newest}, {earlier}"
