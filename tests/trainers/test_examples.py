"""A sweep with a trainer of its own, from the command to the store and back: search, tracking, resume, reproduce."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import Launcher, Result, wait_until
from small_sweeps import Kept

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENT = '''"""How fast?"""
import time
from dataclasses import dataclass
from sweeps import Choice, Sweep
from tinylm_core.records import EvalRecord, Metrics, StepRecord

@dataclass(frozen=True)
class Config:
    rate: float = 0.5
    num_steps: int = 60
    tokens_per_step: int = 2
    seed: int = 0

def run(config, *, workdir, on_steps, on_eval, should_stop, **_):
    kept = workdir / "step.txt"
    done = int(kept.read_text()) if {keeps} and kept.exists() else 0
    on_eval(EvalRecord(0, 0, 1.0, 0.0, 1.0, 0.0))
    for step in range(1, config.num_steps + 1):
        on_steps([StepRecord(step, 2 * step, config.rate**step, config.rate)])
        if step > done:
            time.sleep(0.05)
            if {keeps}:
                kept.write_text(str(step))
        if should_stop():
            return Metrics("INTERRUPTED", 1, 2)
    on_eval(EvalRecord(step, 2 * step, 0.1, 0.0, 0.1, 0.0))
    return Metrics("COMPLETE", 1, 2)

SWEEP = Sweep(base=Config(), space={{"rate": Choice(0.5)}}, run=run, version=3)
'''


def run_file(launcher: Launcher, file: Path, kept: Kept, *arguments: str) -> Result:
    return launcher.run("sweeps.run", file, "--store", kept.store, *arguments)


@pytest.mark.slow
def test_a_small_network_is_swept_tracked_reused_and_reproduced(launcher: Launcher, tmp_path: Path) -> None:
    file, kept = tmp_path / "mlp.py", Kept(tmp_path / "store", "mlp")
    text = (EXAMPLES / "mlp.py").read_text()
    file.write_text(text)
    arguments = ("--set", "num_steps=40", "--sweep", "learning_rate=0.003,0.03", "--seeds", "2", "--set", "width=8")
    ended = run_file(launcher, file, kept, *arguments)
    assert ended.code == 0, ended
    runs = kept.runs
    assert len(runs) == 4
    assert "none: all of it is done" in run_file(launcher, file, kept, *arguments, "--dry-run").out
    planned = run_file(launcher, file, kept, *arguments, "--seeds", "3", "--dry-run")
    assert "tokens/s each (from 4 earlier runs)" in planned.out, planned
    elsewhere = launcher.run("sweeps.run", file, "--store", tmp_path / "other", "--dry-run")
    assert "not known before the first run" in elsewhere.out
    for run in runs:
        assert run.data.tags["trial.state"] == "COMPLETE"
        assert run.data.tags["trainer.version"] == "1"
        assert run.data.params.keys() == {"learning_rate", "width", "batch_size", "num_steps", "seed"}
        assert [step for step, _ in kept.history(run, "train/loss")] == list(range(1, 41))
        assert [step for step, _ in kept.history(run, "val/loss")] == list(range(0, 41, 5))
        assert kept.history(run, "train/tokens")[-1] == (40, 2560)
    assert "Best of 2 settings is lr=" in ended.out
    report = (kept.store / "reports" / "mlp" / "report.md").read_text()
    assert " nan" not in report.lower()

    again = run_file(launcher, file, kept, *arguments)
    assert (again.code, len(kept.runs)) == (0, 4)  # nothing runs twice

    run_id = runs[0].info.run_id
    same = launcher.run("sweeps.reproduce", run_id, "--store", kept.store)
    assert (same.code, "bit-identical over 40 steps, 9 evaluations" in same.out) == (0, True), same
    assert "same conditions as recorded" in same.out

    file.write_text(text.replace("How fast may", "How fast, if at all, may"))
    assert "other code" not in run_file(launcher, file, kept, *arguments, "--dry-run").out
    file.write_text(text.replace("0.05 * torch.randn", "0.06 * torch.randn"))
    refused = launcher.run("sweeps.reproduce", run_id, "--store", kept.store)
    assert (refused.code, f"is not what it was; --file {file} trains" in refused.one_line) == (2, True), refused
    other = launcher.run("sweeps.reproduce", run_id, "--store", kept.store, "--file", file)
    assert (other.code, "differs: trainer.sha256" in other.out, "DIFFERENT" in other.out) == (1, True, True), other
    for flags in ((), ("--dry-run",)):
        edited = run_file(launcher, file, kept, *arguments, *flags)
        said = "4 results of version=1, trained by other code than mlp.py and what it imports have now; if the edit"
        assert (edited.code, said in edited.out) == (0, True), edited
    assert len(kept.runs) == 4

    file.write_text(text.replace("version=1", "version=2"))
    assert run_file(launcher, file, kept, *arguments).code == 0
    assert len(kept.runs) == 8
    assert launcher.run("sweeps.sample", run_id, "--store", kept.store).one_line.endswith("can use its weights")
    file.unlink()
    gone = launcher.run("sweeps.reproduce", run_id, "--store", kept.store)
    assert (gone.code, gone.one_line) == (2, f"no experiment file at {file}")


@pytest.mark.slow
def test_a_trainer_that_returns_nonsense_fails_its_runs_and_goes_on_once_it_is_mended(
    launcher: Launcher, tmp_path: Path
) -> None:
    file, kept = tmp_path / "mlp.py", Kept(tmp_path / "store", "mlp")
    text = (EXAMPLES / "mlp.py").read_text()
    file.write_text(text.replace('state = "COMPLETE"', 'state = "complete" if config.width == 8 else "COMPLETE"'))
    arguments = ("--set", "num_steps=8", "--set", "learning_rate=0.01", "--sweep", "width=8,16", "--seeds", "1")
    ended = run_file(launcher, file, kept, *arguments)
    assert (ended.code, [run.data.tags["trial.state"] for run in kept.runs]) == (1, ["FAILED", "COMPLETE"]), ended
    assert "FAILED t000 width=8 seed=0: ValueError: run returned state='complete'" in ended.err
    (failed,) = [run for run in kept.runs if run.data.tags["trial.state"] == "FAILED"]
    assert f"traceback.txt, and what it printed: {failed.info.artifact_uri.removeprefix('file://')}" in ended.err
    file.write_text(text)
    ended = run_file(launcher, file, kept, *arguments)
    assert (ended.code, "1 known" in ended.out) == (0, True), ended
    assert sorted(run.data.tags["trial.state"] for run in kept.runs) == ["COMPLETE", "COMPLETE", "FAILED"]


def test_a_trainers_error_is_placed_in_its_code_and_what_it_printed_is_kept(launcher: Launcher, tmp_path: Path) -> None:
    file, kept = tmp_path / "patient.py", Kept(tmp_path / "store", "patient")
    (tmp_path / "beside.py").write_text("def burst():\n    print('before it bursts')\n    raise OSError('it bursts')\n")
    file.write_text(PATIENT.format(keeps=False).replace("time.sleep(0.05)", "beside.burst()"))
    file.write_text(file.read_text().replace("    done = int(", "    import beside\n    done = int("))
    ended = run_file(launcher, file, kept)
    assert "FAILED t000 rate=0.5 seed=0: OSError: it bursts (beside.py, line 3)\n" in ended.err, ended
    (run,) = kept.runs
    assert kept.artifact(run, "worker.log").read_text() == "before it bursts\n"
    assert "burst" in kept.artifact(run, "traceback.txt").read_text()


@pytest.mark.slow
def test_a_reproduction_sees_another_module_and_more_evaluations(launcher: Launcher, tmp_path: Path) -> None:
    file, kept = tmp_path / "patient.py", Kept(tmp_path / "store", "patient")
    (tmp_path / "beside.py").write_text("EVERY = 60\n")
    file.write_text(
        PATIENT.format(keeps=False)
        .replace("time.sleep(0.05)", "pass")
        .replace("import time\n", "import beside\n")
        .replace("        if should_stop", "        if step < 60 and step % beside.EVERY == 0:\n"
                 "            on_eval(EvalRecord(step, 2 * step, 0.1, 0.0, 0.1, 0.0))\n        if should_stop")
    )  # fmt: skip
    assert run_file(launcher, file, kept).code == 0
    (run,) = kept.runs
    same = launcher.run("sweeps.reproduce", run.info.run_id, "--store", kept.store)
    assert (same.code, "same conditions" in same.out, "60 steps, 2 evaluations" in same.out) == (0, True, True), same
    (tmp_path / "beside.py").write_text("EVERY = 20\n")
    refused = launcher.run("sweeps.reproduce", run.info.run_id, "--store", kept.store)
    assert (refused.code, "beside it, is not what it was" in refused.one_line) == (2, True), refused
    other = launcher.run("sweeps.reproduce", run.info.run_id, "--store", kept.store, "--file", file)
    assert (other.code, "differs: trainer.sha256" in other.out) == (1, True), other
    assert "DIFFERENT: 2 evaluations came that are not recorded, first after step 20" in other.out


@pytest.mark.slow
def test_a_gpt2_of_hugging_faces_is_swept_and_its_weights_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    kept = Kept(tmp_path / "store", "gpt2")
    arguments = ["--set", "num_steps=8", "--set", "width=16", "--sweep", "learning_rate=0.001,0.003", "--seeds", "1"]
    command = [sys.executable, "-m", "sweeps.run", str(EXAMPLES / "gpt2.py"), "--store", str(kept.store), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended
    assert len(kept.runs) == 4
    run = kept.runs[0]
    assert {path.name for path in kept.artifact(run, "checkpoint").iterdir()} >= {"config.json", "model.safetensors"}
    command = [sys.executable, "-m", "sweeps.reproduce", run.info.run_id, "--store", str(kept.store)]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "bit-identical over 8 steps, 5 evaluations and the final weights" in again.stdout, again


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False])
def test_an_interrupted_run_goes_on_only_where_it_has_kept_something(
    launcher: Launcher, tmp_path: Path, keeps: bool
) -> None:
    file, kept = tmp_path / "patient.py", Kept(tmp_path / "store", "patient")
    file.write_text(PATIENT.format(keeps=keeps))
    command = launcher.start("sweeps.run", file, "--store", kept.store)
    wait_until(lambda: (kept.store / "mlflow.db").exists() and "patient" in command.out)
    wait_until(lambda: any(kept.history(run, "train/loss") for run in kept.of("run")))
    command.signal_all(signal.SIGINT)
    assert command.result().code == 130
    ended = run_file(launcher, file, kept)
    assert ended.code == 0, ended
    states = sorted(run.data.tags["trial.state"] for run in kept.of("run"))
    assert states == (["COMPLETE"] if keeps else ["COMPLETE", "INTERRUPTED"])
    (whole,) = [run for run in kept.of("run") if run.data.tags["trial.state"] == "COMPLETE"]
    assert ("sweep.retry_of" in whole.data.tags) is not keeps
    assert [step for step, _ in kept.history(whole, "train/loss")] == list(range(1, 61))
