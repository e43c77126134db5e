"""A sweep from the command to the store: everything is there once, whatever interrupted it, and comes again by its ID.

Read with MLflow's own client. Commands are processes of their own; most are forked by a launcher, which is quicker.
"""

import base64
import json
import math
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil
import pyarrow.parquet as pq
import pytest
from launcher import ON_CPU, Launcher, wait_until, without_waiting
from safetensors.numpy import load_file
from small_sweeps import (
    GRID,
    NUM_RUNS,
    NUM_TRIALS,
    PAUSED_WITHIN,
    STEPS,
    TOKENS,
    TPE,
    Kept,
    assert_whole,
    run_sweep,
    wait_for_steps,
    write_experiment,
)

from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.spec.config_type import from_params, to_params
from sweeps.store import open_store, schema
from tinylm_core import RunConfig
from tinylm_core.checkpoint import load_model, weights_sha256
from tinylm_core.config import NUMERICS_VERSION
from tinylm_core.machine import this_machine

# --- What is there, as MLflow's own client reads it


@pytest.fixture(scope="session")
def grid_file(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"), GRID, text_file)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, grid_file: Path) -> tuple[Path, str]:
    """A store with a sweep that nothing interrupted, run as a user does, and what the command said. Only read it."""
    store = tmp_path_factory.mktemp("finished") / "store"
    command = [sys.executable, "-m", "sweeps.run", str(grid_file), "--store", str(store), "--workers", "2"]
    environment = os.environ | ON_CPU | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=store.parent, check=False)
    assert ended.returncode == 0, ended.stderr
    assert without_waiting(ended.stderr) == ""
    return store, ended.stdout


@pytest.fixture(scope="session")
def kept(finished: tuple[Path, str]) -> Kept:
    return Kept(finished[0])


@pytest.fixture
def copy(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """The finished store, to be changed; the paths of artifacts, which MLflow keeps absolute, lead to the original."""
    return Path(shutil.copytree(finished[0], tmp_path / "store"))


# --- What a finished sweep leaves


def test_every_step_and_evaluation_of_every_run_is_there_once(kept: Kept) -> None:
    assert_whole(kept)
    assert len(kept.runs) == NUM_RUNS


def test_there_is_a_run_for_each_trial_and_seed_and_one_summary(kept: Kept) -> None:
    assert [(run.data.tags["trial.number"], run.data.params["seed"]) for run in kept.runs] == [
        ("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"),
    ]  # fmt: skip
    assert [run.info.run_name for run in kept.runs][:2] == ["t000 lr=1e-3 seed=0", "t000 lr=1e-3 seed=1"]
    assert kept.summary.info.status == "FINISHED"
    assert not any("mlflow.parentRunId" in run.data.tags for run in kept.all_runs)


def test_every_field_is_a_param_under_the_same_keys(kept: Kept) -> None:
    for run in kept.runs:
        assert set(run.data.params) == set(RunConfig.model_fields)
        config = from_params(RunConfig, run.data.params)
        assert to_params(config) == run.data.params
        assert json.loads(kept.artifact(run, "config.json").read_text()) == config.model_dump()
    assert sorted({run.data.params["learning_rate"] for run in kept.runs}) == ["0.001", "0.003"]


def test_the_numbers_are_those_of_the_run_alone(kept: Kept) -> None:
    from tinylm_core import run as train

    made = kept.runs[-1]
    metrics = train(from_params(RunConfig, made.data.params), device="cpu", threads=1)
    assert kept.history(made, "train/loss") == [(record.step, record.loss) for record in metrics.steps]
    assert kept.history(made, "val/loss") == [(record.step, record.val_loss) for record in metrics.evals]
    assert made.data.tags["weights.sha256"] == metrics.weights_sha256
    assert made.data.metrics["objective"] == metrics.final.val_loss
    assert made.data.metrics["final/gap"] == metrics.final.val_loss - metrics.final.train_loss
    assert made.data.metrics["best/val_loss"] == min(record.val_loss for record in metrics.evals)
    for (_, perplexity), (_, loss) in zip(
        kept.history(made, "val/perplexity"), kept.history(made, "val/loss"), strict=True
    ):
        assert perplexity == math.exp(loss)


def test_the_files_of_a_run_are_there(kept: Kept) -> None:
    for run in kept.runs:
        files = kept.files(run)
        assert {"config.json", "checkpoint", "history.parquet", "samples.txt", "environment.txt"} <= files
        assert files <= {"config.json", "checkpoint", "history.parquet", "samples.txt", "environment.txt", "code.diff"}
        assert kept.files(run, "checkpoint") == {
            f"checkpoint/{name}" for name in ("model.safetensors", "tokenizer.json", "config.json")
        }
        weights = load_file(kept.artifact(run, "checkpoint/model.safetensors"))
        assert sum(tensor.size for tensor in weights.values()) == int(run.data.tags["model.num_parameters"])
        assert "torch==" in kept.artifact(run, "environment.txt").read_text()
        assert kept.artifact(run, "samples.txt").read_text()


def test_history_parquet_is_the_same_record(kept: Kept) -> None:
    for run in kept.runs:
        frame = pq.read_table(kept.artifact(run, "history.parquet")).to_pandas().set_index("step")
        assert list(frame.index) == list(range(STEPS + 1))
        for metric in (*schema.STEP_METRICS, *schema.EVAL_METRICS):
            column = frame[schema.column(metric)].dropna()
            assert list(zip(column.index, column, strict=True)) == kept.history(run, metric)


def test_the_tags_are_those_of_the_schema(kept: Kept) -> None:
    summary = kept.summary
    shared = {
        "sweep.name": "question", "sweep.definition": kept.plan["definition"], "machine.device": "cpu",
        "machine.threads": "1", "numerics.version": str(NUMERICS_VERSION),
    }  # fmt: skip
    own = {
        "sweep.role", "sweep.setting", "sweep.file", "sweep.creation_id", "run.identity", "data.fingerprint",
        "weights.sha256", "machine.cpu_capability", "torch.version", "code.dirty", "mlflow.source.git.commit",
        "trial.number", "trial.state", "mlflow.runName",
    }  # fmt: skip
    for run in kept.runs:
        assert own <= set(run.data.tags)
        assert shared.items() <= run.data.tags.items()
        assert run.data.tags["sweep.summary_run"] == summary.info.run_id
        assert "sweep.retry_of" not in run.data.tags
        assert run.data.tags["sweep.setting"] in ("lr=1e-3", "lr=3e-3")
    assert shared.items() <= summary.data.tags.items()
    experiment = kept.client.get_experiment_by_name("question")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_data_is_an_input_of_every_run(kept: Kept, text_file: Path) -> None:
    for run in kept.runs:
        (found,) = kept.client.get_run(run.info.run_id).inputs.dataset_inputs
        assert found.dataset.name == text_file.name
        assert run.data.tags["data.fingerprint"].startswith(found.dataset.digest)
        assert json.loads(found.dataset.source) == {"uri": str(text_file)}


def test_the_plan_says_which_runs_belong_to_the_definition(kept: Kept, grid_file: Path) -> None:
    planned = make_plan(load_experiment(str(grid_file)), this_machine("cpu"))
    assert kept.trials() == [trial.record().to_json() for trial in planned.known_trials()]
    assert {run.data.tags["run.identity"] for run in kept.runs} == {
        identity for trial in kept.trials() for identity in trial["runs"].values()
    }


def test_the_report_is_in_the_store_and_on_the_summary_run(kept: Kept) -> None:
    folder = kept.store / "reports" / "question"
    names = {"trials.csv", "gaps.csv", "report.md", "index.html", "figures"}
    assert names <= {path.name for path in folder.iterdir()}
    assert {f"report/{name}" for name in names} <= kept.files(kept.summary, "report")
    assert len((folder / "trials.csv").read_text().splitlines()) == NUM_RUNS + 1


def test_the_note_has_question_answer_and_what_to_do_next(finished: tuple[Path, str], kept: Kept) -> None:
    store, out = finished
    note = kept.summary.data.tags["mlflow.note.content"]
    assert note.startswith("**Does it?**")
    answer = out.partition("\n\n")[2].partition("Leaderboard")[0].split()
    assert " ".join(answer) in " ".join(note.split())
    for command in ("run", "report", "reproduce", "sample"):
        assert f"`python -m sweeps.{command} " in note
    assert f"--store {store}" in note
    assert "](http://127.0.0.1:5000/#/experiments/1/runs?" in note
    experiment = kept.client.get_experiment(kept.summary.info.experiment_id)
    assert experiment.tags["mlflow.note.content"] == note


def test_the_best_run_is_a_model_and_nothing_of_it_is_pickled(kept: Kept) -> None:
    (model,) = kept.models
    best = min(kept.runs, key=lambda run: run.data.metrics["objective"])
    assert (model.name, model.source_run_id) == ("model", best.info.run_id)
    assert [output.model_id for output in best.outputs.model_outputs] == [model.model_id]
    files = {path.name for path in Path(url2pathname(urlsplit(model.artifact_location).path)).rglob("*.*")}
    assert {"model.safetensors", "text_model.py", "checkpoint.py", "requirements.txt"} <= files
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".py", ".txt", ".yaml", ".typed"}


LOAD = """
import sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
params = {"max_new_tokens": 40, "temperature": 0.5, "seed": 3}
print(model.predict(["the "], params=params)[0], end="")
import tinylm_core
assert "code" in tinylm_core.__file__.split("/"), tinylm_core.__file__
"""


@pytest.mark.slow
@pytest.mark.parametrize("address", ["runs:/{run}/model", "models:/{model}"])
def test_the_model_writes_in_another_process_what_the_run_writes(
    launcher: Launcher, finished: tuple[Path, str], kept: Kept, address: str, tmp_path: Path
) -> None:
    (model,) = kept.models
    uri = address.format(run=model.source_run_id, model=model.model_id)
    tracking_uri = f"sqlite:///{finished[0]}/mlflow.db"
    # Without this checkout: the model brings the trainer along.
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, tracking_uri, uri], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    options = ("--max-new-tokens", 40, "--temperature", 0.5, "--seed", 3)
    sampled = launcher.run("sweeps.sample", model.source_run_id, "--prompt", "the ", *options, "--store", finished[0])
    assert loaded.stdout == sampled.out.removesuffix("\n")


def test_the_corpus_is_kept_with_the_summary(kept: Kept, text_file: Path) -> None:
    import gzip

    fingerprint = kept.runs[0].data.tags["data.fingerprint"]
    packed = kept.artifact(kept.summary, f"corpus/{fingerprint}.txt.gz")
    assert gzip.decompress(packed.read_bytes()) == text_file.read_bytes()


def test_the_command_says_how_to_go_on(finished: tuple[Path, str], kept: Kept) -> None:
    store, out = finished
    best = min(kept.runs, key=lambda run: run.data.metrics["objective"])
    assert f"python -m sweeps.reproduce {best.info.run_id} --store {store}" in out
    assert f"python -m sweeps.report question --store {store}" in out
    assert f"[{NUM_RUNS}/{NUM_RUNS}]" in out


def test_the_store_holds_nothing_else(finished: tuple[Path, str]) -> None:
    store, _ = finished
    names = {path.name for path in store.iterdir()} - {"mlflow.db-wal", "mlflow.db-shm"}
    assert names == {".gitignore", "artifacts", "mlflow.db", "reports", "work"}
    work = store / "work" / "question"
    assert {path.name for path in work.iterdir()} <= {"journal.jsonl", "lock", "runs"}


# --- The same command again (law 9)


def test_a_second_start_runs_nothing_and_changes_no_number(launcher: Launcher, copy: Path, grid_file: Path) -> None:
    before = {run.info.run_id: (run.info.end_time, run.data) for run in Kept(copy).runs}
    points = Kept(copy).science()
    result = run_sweep(launcher, grid_file, copy)
    assert result.code == 0
    assert "4 runs, 4 known" in result.out
    assert "[1/" not in result.out
    after = {run.info.run_id: (run.info.end_time, run.data) for run in Kept(copy).runs}
    assert {key: (end, data.params, data.tags) for key, (end, data) in after.items()} == {
        key: (end, data.params, data.tags) for key, (end, data) in before.items()
    }
    assert Kept(copy).science() == points
    assert_whole(Kept(copy))


@pytest.mark.slow
def test_mlflows_view_of_a_definition_has_its_runs_whichever_made_them(
    launcher: Launcher, copy: Path, grid_file: Path
) -> None:
    before = {run.info.run_id for run in Kept(copy).runs}
    assert run_sweep(launcher, grid_file, copy, "--sweep", "learning_rate=1e-3,3e-3,9e-3", "--seeds", 1).code == 0
    store, kept = open_store(copy), Kept(copy)
    wider, first = store.definitions("question")
    experiment = kept.client.get_experiment_by_name("question")
    for known, expected in ((first, before), (wider, set(store.trials("question")["run_id"]))):
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{known.definition}-runs"])["state"].removeprefix(
            "deflate;"
        )
        query = json.loads(zlib.decompress(base64.b64decode(view)))["searchFilter"]
        found = kept.client.search_runs([experiment.experiment_id], query)
        assert {run.info.run_id for run in found} == expected
    assert len(expected & before) == 2


def test_a_sweep_that_was_renamed_in_mlflow_goes_on_and_one_that_was_deleted_is_refused(
    launcher: Launcher, copy: Path, grid_file: Path
) -> None:
    kept = Kept(copy)
    experiment, runs = kept.summary.info.experiment_id, {run.info.run_id for run in kept.runs}
    kept.client.rename_experiment(experiment, "of_march")
    assert run_sweep(launcher, grid_file, copy).code == 0
    assert {run.info.run_id for run in kept.client.search_runs([experiment], "tags.`sweep.role` = 'run'")} == runs
    for name in ("question", "of_march"):
        done = launcher.run("sweeps.report", name, "--store", copy)
        assert (done.code, "Best of 2 settings" in done.out) == (0, True), done
    kept.client.delete_experiment(experiment)
    for more in ((), ("--dry-run",)):
        done = run_sweep(launcher, grid_file, copy, *more)
        assert (done.code, f"restore --experiment-id {experiment}" in done.one_line) == (2, True), done
    restore = done.one_line.partition("; ")[2].removesuffix(" restores it")
    subprocess.run(f"{Path(sys.executable).parent}/{restore.partition(' ')[2]}", shell=True, check=True,
                   env=os.environ | dict([restore.partition(" ")[0].split("=", 1)]))  # fmt: skip
    assert run_sweep(launcher, grid_file, copy).code == 0


def test_an_extended_grid_runs_only_its_new_cells(launcher: Launcher, copy: Path, grid_file: Path) -> None:
    before = {run.info.run_id for run in Kept(copy).runs}
    result = run_sweep(launcher, grid_file, copy, "--sweep", "learning_rate=1e-3,2e-3,3e-3")
    assert result.code == 0
    assert "6 runs, 4 known" in result.out
    runs = Kept(copy).runs
    assert len(runs) == 6
    new = [run for run in runs if run.info.run_id not in before]
    assert {run.data.params["learning_rate"] for run in new} == {"0.002"}
    assert {run.data.tags["trial.number"] for run in new} == {"1"}
    assert len(Kept(copy).of("summary")) == 2
    report = launcher.run("sweeps.report", "question", "--store", copy)
    assert report.code == 0
    assert "other definitions of question" in report.out
    assert len((copy / "reports" / "question" / "trials.csv").read_text().splitlines()) == 7


def as_the_version_before_left_it(store: Path, file: Path) -> None:
    """Its plan has the command as text, and its journal an operation that names folders from the root, or by ""."""
    (plan,) = store.glob("artifacts/question/*/artifacts/plan.json")
    content = json.loads(plan.read_text())
    del content["sha256"]
    assert content["command"]["target"] == str(file)
    plan.write_text(json.dumps(content | {"command": f"python -m sweeps.run {shlex.quote(str(file))}"}))
    kept = Kept(store)
    run, work = kept.runs[0], store / "work" / "question"
    (work / "corpus").mkdir()
    (work / "corpus" / "left.txt").write_text("left to send")
    waiting = [
        {"op": "publish", "run": kept.summary.data.tags["sweep.creation_id"], "folder": str(work / "corpus"),
         "artifact_path": "corpus", "temporary": True},
        {"op": "records", "run": run.data.tags["sweep.creation_id"], "steps": []},
        {"op": "end", "run": run.data.tags["sweep.creation_id"], "state": "COMPLETE", "end_time_ms": run.info.end_time,
         "metrics": {}, "tags": {}, "artifacts": "", "workdir": ""},
    ]  # fmt: skip
    (work / "journal.jsonl").write_text("".join(json.dumps(operation) + "\n" for operation in waiting))


@pytest.mark.slow
def test_a_store_of_the_version_before_reports_reproduces_and_goes_on(
    launcher: Launcher, copy: Path, grid_file: Path
) -> None:
    science = Kept(copy).science()
    as_the_version_before_left_it(copy, grid_file)
    report = launcher.run("sweeps.report", "question", "--store", copy)
    assert report.code == 0, report
    kept = Kept(copy)
    assert "corpus/left.txt" in kept.files(kept.summary, "corpus")
    assert_whole(kept)
    assert f"Next: python -m sweeps.run {grid_file} --store {copy}" in " ".join(report.out.split())
    assert launcher.run("sweeps.reproduce", kept.runs[0].info.run_id, "--store", copy).code == 0
    result = run_sweep(launcher, grid_file, copy, "--sweep", "learning_rate=1e-3,2e-3,3e-3")
    assert result.code == 0
    assert "6 runs, 4 known" in result.out
    again = run_sweep(launcher, grid_file, copy)
    assert "4 runs, 4 known" in again.out
    now = Kept(copy).science()
    assert {identity: now[identity] for identity in science} == science
    listed = launcher.run("sweeps.ls", "question", "--store", copy, env={"COLUMNS": "200"})
    assert "--sweep learning_rate=1e-3,2e-3,3e-3" in listed.out


@pytest.mark.slow
@pytest.mark.faults
def test_a_deleted_run_is_made_again(launcher: Launcher, copy: Path, grid_file: Path) -> None:
    kept = Kept(copy)
    before = kept.science()
    kept.client.delete_run(kept.runs[2].info.run_id)
    assert "4 runs, 3 known" in run_sweep(launcher, grid_file, copy).out
    assert kept.science() == before


# --- Interrupted (laws 2 and 8)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
@pytest.mark.faults
def test_a_paused_sweep_goes_on_to_the_same_bits(
    launcher: Launcher, kept: Kept, grid_file: Path, tmp_path: Path, number: int, code: int
) -> None:
    store = tmp_path / "store"
    command = launcher.start("sweeps.run", grid_file, "--store", store, "--workers", 2)
    wait_for_steps(store, command, 20)
    started = time.monotonic()
    command.signal_all(number) if number == signal.SIGINT else command.signal(number)
    paused = command.result()
    assert paused.code == code
    assert time.monotonic() - started < PAUSED_WITHIN
    assert "paused; the same command goes on: python -m sweeps.run" in paused.out
    again = Kept(store)
    states = {(run.data.tags["trial.state"], run.info.status) for run in again.all_runs}
    assert ("INTERRUPTED", "KILLED") in states
    assert states <= {("INTERRUPTED", "KILLED"), ("COMPLETE", "FINISHED")}

    assert run_sweep(launcher, grid_file, store).code == 0
    assert_whole(again)
    assert again.science() == kept.science()


def test_a_sweep_whose_time_is_up_at_once_says_how_it_goes_on(
    launcher: Launcher, grid_file: Path, tmp_path: Path
) -> None:
    again = Kept(tmp_path / "store")
    ended = run_sweep(launcher, grid_file, again.store, "--max-hours", "1e-9")
    assert (ended.code, ended.err) == (75, "")
    assert ended.out.splitlines()[-1].startswith("out of time; the same command goes on: python -m sweeps.run /")
    assert ended.out.splitlines()[-1].endswith("--max-hours 1e-9")
    assert (again.runs, again.summary.info.status) == ([], "KILLED")
    assert not (again.store / "reports" / "question").exists()


@pytest.mark.slow
@pytest.mark.faults
def test_a_sweep_run_by_the_hour_reports_what_there_is_each_time_and_comes_to_the_same_end(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    longer = 16
    file = write_experiment(tmp_path, GRID, text_file, tokens=TOKENS * longer)
    at_once, by_the_hour = Kept(tmp_path / "at once"), Kept(tmp_path / "by the hour")
    assert run_sweep(launcher, file, at_once.store).code == 0
    page = by_the_hour.store / "reports" / "question" / "index.html"
    seconds, num_ended, num_reported = 3.0, 0, 0
    while (ended := run_sweep(launcher, file, by_the_hour.store, "--max-hours", seconds / 3600)).code:
        assert (ended.code, ended.err) == (75, "")
        states = {(run.data.tags["trial.state"], run.info.status) for run in by_the_hour.runs}
        assert states <= {("INTERRUPTED", "KILLED"), ("COMPLETE", "FINISHED")}
        num_ended = sum(run.info.status == "FINISHED" for run in by_the_hour.runs)
        said = " ".join(ended.out.lower().split())
        # The best, or while no setting has both its seeds "so far the best", of 2 settings.
        assert page.exists() == bool(re.search("best of [12] settings? is lr=", said)) == (num_ended > 0)
        num_reported += "this is half-finished" in said
        seconds *= 1.3  # more than what starting takes, by less than what two runs do
    assert num_reported
    assert_whole(by_the_hour, num_steps=STEPS * longer)
    assert by_the_hour.science() == at_once.science()


@pytest.mark.slow
@pytest.mark.faults
def test_a_sweep_half_done_is_reported_and_reproduced_as_far_as_it_came(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    half = Kept(tmp_path / "store")
    file = write_experiment(tmp_path, GRID, text_file, tokens=TOKENS * 8)
    command = launcher.start("sweeps.run", file, "--store", half.store, "--workers", 1)
    wait_for_steps(half.store, command, 20)

    def is_in_the_second_run() -> bool:
        states = {run.info.status for run in half.of("run") if half.history(run, "train/loss")}
        return states == {"FINISHED", "RUNNING"}

    wait_until(is_in_the_second_run)
    command.signal(signal.SIGINT)
    assert command.result().code == 130
    report = launcher.run("sweeps.report", "question", "--store", half.store)
    assert (report.code, report.err) == (0, "")
    assert len((half.store / "reports" / "question" / "trials.csv").read_text().splitlines()) == len(half.runs) + 1
    begun = [run for run in half.runs if run.info.status == "KILLED" and half.history(run, "train/loss")]
    assert begun
    for run in begun:
        result = launcher.run("sweeps.reproduce", run.info.run_id, "--store", half.store)
        num_steps = len(half.history(run, "train/loss"))
        assert (result.code, f"bit-identical over {num_steps} steps" in result.out) == (0, True), result


@pytest.mark.slow
@pytest.mark.faults
def test_a_tpe_sweep_proposes_the_same_trials_after_a_kill(launcher: Launcher, text_file: Path, tmp_path: Path) -> None:
    file = write_experiment(tmp_path / "whole", TPE, text_file, tokens=32 * 24, trials=NUM_TRIALS)
    whole, killed = Kept(tmp_path / "whole-store"), Kept(tmp_path / "killed-store")
    assert run_sweep(launcher, file, whole.store).code == 0
    command = launcher.start("sweeps.run", file, "--store", killed.store, "--workers", 2)
    wait_for_steps(killed.store, command, 11 * 24)  # the first 10 trials of Optuna's TPE are random
    command.signal(signal.SIGKILL)
    assert command.result().code == -signal.SIGKILL
    assert run_sweep(launcher, file, killed.store).code == 0
    assert killed.trials() == whole.trials()
    assert len(killed.trials()) == NUM_TRIALS
    assert killed.science() == whole.science()
    assert_whole(killed, NUM_TRIALS, 24)

    more = run_sweep(launcher, file, killed.store, "--num-trials", NUM_TRIALS + 2, "--workers", 1)
    assert more.code == 0
    assert killed.trials()[:NUM_TRIALS] == whole.trials()
    assert_whole(killed, NUM_TRIALS + 2, 24)

    # The corpus of a search that learns is kept too, though its trials are not known at the start.
    fingerprint = killed.runs[0].data.tags["data.fingerprint"]
    assert killed.files(killed.summary, "corpus") == {f"corpus/{fingerprint}.txt.gz"}


@pytest.mark.slow
def test_a_second_driver_is_told_who_runs_the_sweep(launcher: Launcher, text_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    file = write_experiment(tmp_path, GRID, text_file, tokens=TOKENS * 1000)  # still under way when it is stopped
    command = launcher.start("sweeps.run", file, "--store", store, "--workers", 1)
    wait_for_steps(store, command, 1)
    second = run_sweep(launcher, file, store)
    assert second.code == 2
    assert re.search(f"sweep 'question' is being run by process {command.pid} on .* since 20", second.one_line)
    assert "RUNNING" in {run.info.status for run in Kept(store).runs}
    during = launcher.run("sweeps.report", "question", "--store", store)
    assert f"is being run by process {command.pid}" in during.out
    assert during.code == 2
    assert "no run of question has finished yet" in during.one_line
    command.signal(signal.SIGINT)
    assert command.result().code == 130


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_command_ends_with_exit_code_1(
    launcher: Launcher, grid_file: Path, kept: Kept, tmp_path: Path
) -> None:
    """The worker of one run raises when it opens its data: an audit hook of the test's own sees to that."""
    victim = kept.runs[2].data.tags["run.identity"][:16]
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "seen = []\n"
        "def trip(event, arguments):\n"
        "    if event == 'open' and 'worker.log' in str(arguments[0]):\n"
        "        seen.append(str(arguments[0]))\n"
        f"    if event == 'open' and str(arguments[0]).endswith('train.bin') and {victim!r} in ''.join(seen):\n"
        "        raise RuntimeError('no data today')\n"
        "sys.addaudithook(trip)\n"
    )
    store = tmp_path / "store"
    arguments = ("sweeps.run", grid_file, "--store", store, "--workers", 2)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    failed = launcher.run(*arguments, env={"PYTHONPATH": path})
    assert failed.code == 1, failed
    (run,) = [run for run in Kept(store).runs if run.data.tags["trial.state"] == "FAILED"]
    assert failed.err == (
        "FAILED t001 lr=3e-3 seed=0: RuntimeError: no data today\n"
        f"  traceback.txt, and what it printed: {run.info.artifact_uri.removeprefix('file://')}\n"
    )
    again = launcher.run(*arguments)
    assert again.code == 0, again
    assert "4 runs, 3 known" in again.out
    states = sorted(run.data.tags["trial.state"] for run in Kept(store).runs)
    assert states == ["COMPLETE"] * 4 + ["FAILED"]
    assert {key: value["weights"] for key, value in Kept(store).science().items()} == {
        key: value["weights"] for key, value in kept.science().items()
    }


# --- A run again from its ID


def test_a_run_is_reproduced_to_the_last_bit_by_a_run_of_its_own_that_enters_no_report(
    launcher: Launcher, copy: Path
) -> None:
    kept = Kept(copy)
    run = kept.runs[0]
    result = launcher.run("sweeps.reproduce", run.info.run_id[:12], "--store", copy)
    assert result.code == 0, result
    assert f"bit-identical over {STEPS} steps, 4 evaluations and the final weights" in result.out
    (again,) = kept.of("reproduction")
    assert again.data.tags["sweep.reproduction_of"] == run.info.run_id
    assert (again.info.status, again.data.params) == ("FINISHED", run.data.params)
    for metric in ("train/loss", "train/learning_rate", "train/grad_norm", "val/loss"):
        assert kept.history(again, metric) == kept.history(run, metric)
    model, _, _ = load_model(kept.artifact(again, "checkpoint"))
    assert weights_sha256(model) == again.data.tags["weights.sha256"] == run.data.tags["weights.sha256"]
    assert launcher.run("sweeps.report", "question", "--store", copy).code == 0
    assert len((copy / "reports" / "question" / "trials.csv").read_text().splitlines()) == NUM_RUNS + 1
    assert again.info.run_id not in (copy / "reports" / "question" / "index.html").read_text()
    of_one = launcher.run("sweeps.reproduce", again.info.run_id, "--store", copy)
    assert (of_one.code, "is a reproduction" in of_one.one_line) == (2, True), of_one


def test_a_changed_number_is_found_and_its_step_named(launcher: Launcher, copy: Path) -> None:
    run_id = Kept(copy).runs[1].info.run_id
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        changed = database.execute(
            "UPDATE metrics SET value = value + 1e-12 WHERE run_uuid = ? AND key = 'train/loss' AND step = 7", (run_id,)
        )
        assert changed.rowcount == 1
    for verb, of in (("reproduce", run_id), ("report", "question")):
        noticed = launcher.run(f"sweeps.{verb}", of, "--store", copy)
        assert noticed.code == 2
        assert re.search(r"the database has train/loss=.* at step 7, and .*history.parquet, .* is damaged", noticed.err)
    with closing(sqlite3.connect(copy / "mlflow.db")) as database, database:  # as of a version that kept no digest
        database.execute("DELETE FROM tags WHERE run_uuid = ? AND key = 'history.sha256'", (run_id,))
    result = launcher.run("sweeps.reproduce", run_id, "--store", copy)
    assert result.code == 1
    assert "first at step 7" in result.out
    assert "train_loss" in result.out
    within = launcher.run("sweeps.reproduce", run_id, "--rtol", "1e-9", "--store", copy)
    assert (within.code, "within rtol=1e-09" in within.out) == (0, True), within


@pytest.mark.slow
def test_a_thinned_record_is_reproduced(launcher: Launcher, text_file: Path, tmp_path: Path) -> None:
    text = GRID.replace("seeds=2", "log_every=5").replace("Choice(1e-3, 3e-3)", "Choice(1e-3)")
    kept = Kept(tmp_path / "store")
    assert run_sweep(launcher, write_experiment(tmp_path, text, text_file, tokens=32 * 24), kept.store).code == 0
    (run,) = kept.runs
    assert [step for step, _ in kept.history(run, "train/loss")] == [5, 10, 15, 20, 24]
    assert pq.read_table(kept.artifact(run, "history.parquet")).num_rows == 25
    result = launcher.run("sweeps.reproduce", run.info.run_id, "--store", kept.store)
    assert (result.code, "bit-identical over 5 steps, 4 evaluations" in result.out) == (0, True), result


@pytest.mark.slow
def test_a_run_whose_data_is_gone_trains_on_the_stores_copy(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    data = tmp_path / "text.txt"
    shutil.copy(text_file, data)
    file = write_experiment(tmp_path, GRID.replace("seeds=2", ""), data)
    kept = Kept(tmp_path / "store")
    assert run_sweep(launcher, file, kept.store).code == 0
    run_id = kept.runs[0].info.run_id
    for change in (data.unlink, lambda: data.write_text("the cat eats a dog. " * 100)):
        change()
        result = launcher.run(
            "sweeps.reproduce", run_id, "--store", kept.store, env={"TINYLM_CACHE": str(tmp_path / "c")}
        )
        assert (result.code, "trained on the store's copy" in result.out) == (0, True), result
        assert "bit-identical" in result.out


# --- Text


def test_a_run_writes_text(launcher: Launcher, copy: Path) -> None:
    run_id = Kept(copy).runs[0].info.run_id
    arguments = ("sweeps.sample", run_id[:8], "--prompt", "the ", "--max-new-tokens", 40, "--store", copy)
    texts = [launcher.run(*arguments, "--seed", seed) for seed in (0, 0, 1)]
    assert [result.code for result in texts] == [0, 0, 0]
    assert texts[0].out.startswith("the ")
    assert len(texts[0].out) == len("the ") + 40 + 1
    assert texts[0].out == texts[1].out != texts[2].out
    refused = launcher.run("sweeps.sample", run_id, "--prompt", "QUÄ", "--store", copy)
    assert (refused.code, refused.one_line[:8]) == (2, "--prompt")


# --- Nothing is written without need


def test_a_dry_run_writes_nothing(launcher: Launcher, grid_file: Path, tmp_path: Path) -> None:
    result = run_sweep(launcher, grid_file, tmp_path / "store", "--dry-run")
    assert (result.code, result.err) == (0, "")
    for said in ("2 trials x 2 seeds = 4 runs", "t001", "warmup steps", "epochs", "MB"):
        assert said in result.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_what_is_there(launcher: Launcher, copy: Path, grid_file: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "mlflow.db" not in path.name}
    result = run_sweep(launcher, grid_file, copy, "--dry-run")
    assert "4 of its runs are there already" in result.out
    assert re.search(r"time +none: all of it is done\n +disk +nothing more\n", result.out)
    one_more = run_sweep(launcher, grid_file, copy, "--seeds", "3", "--dry-run").out
    assert "nothing more" not in one_more
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "mlflow.db" not in path.name} == before


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 1.0])
def test_a_command_that_is_stopped_while_its_workers_get_ready_ends_without_a_traceback(
    launcher: Launcher, grid_file: Path, tmp_path: Path, moment: float
) -> None:
    """Ctrl-C reaches the server that workers are forked from too: while Python starts there, while it loads torch."""
    command = launcher.start("sweeps.run", grid_file, "--store", tmp_path / "store")

    def server_is_started() -> bool:
        with suppress(psutil.NoSuchProcess):
            return any("forkserver" in " ".join(c.cmdline()) for c in command.below())
        return False

    wait_until(server_is_started)
    time.sleep(moment)
    command.signal_all(signal.SIGINT)
    ended = command.result()
    assert (ended.code, ended.err.strip()) == (130, ""), ended
