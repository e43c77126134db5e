"""A sweep from a program and from a notebook: the same runs as the command makes."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbclient
import nbformat
import pytest
from launcher import Launcher
from small_sweeps import GRID, write_experiment

from sweeps import Choice, Sweep, open_store, run_sweep
from sweeps.answer.sentences import answer
from sweeps.driver.loop import Drive
from sweeps.driver.overview import list_sweeps
from sweeps.plan.plan import PlannedRun
from tinylm_core import RunConfig

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_a_program_makes_the_runs_that_the_command_makes(
    launcher: Launcher, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_experiment(tmp_path, GRID, text_file, tokens=32 * 12)
    assert launcher.run("sweeps.run", file, "--store", tmp_path / "one").code == 0
    base = RunConfig(
        data=str(text_file), tokenizer="char", max_seq_len=8, d_model=16, num_layers=2, num_heads=2, batch_size=4,
        train_tokens=32 * 12, num_evals=3, eval_tokens=256, precision="fp64",
    )  # fmt: skip
    sweep = Sweep(base=base, space={"learning_rate": Choice(1e-3, 3e-3)}, seeds=2)
    results = run_sweep(sweep, "question", question="Does it?", store=tmp_path / "two", output="quiet")
    assert "Best of 2 settings" in capsys.readouterr().out
    by_command = open_store(tmp_path / "one").trials("question")
    assert results.trials["weights_sha256"].tolist() == by_command["weights_sha256"].tolist()
    assert results.board["objective"].notna().all()
    again = run_sweep(sweep, "question", store=tmp_path / "two", output="quiet")
    assert again.trials["run_id"].tolist() == results.trials["run_id"].tolist()
    assert str(results.plan.command) == "run_sweep(…, 'question')"
    with pytest.raises(ValueError, match="sweep name"):
        run_sweep(sweep, "no/name", store=tmp_path / "two")


def test_ctrl_c_pauses_and_is_the_callers_again_afterwards(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = RunConfig(
        data=str(text_file), tokenizer="char", max_seq_len=8, d_model=16, num_layers=1, num_heads=2, batch_size=4,
        train_tokens=32 * 2000, num_evals=1, eval_tokens=256, precision="fp64",
    )  # fmt: skip
    sweep = Sweep(base=base, space={"learning_rate": Choice(1e-3)})
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def start_and_interrupt(drive: Drive, run: PlannedRun) -> None:
        start(drive, run)
        signal.raise_signal(signal.SIGINT)

    start = Drive._start
    with monkeypatch.context() as patch:
        patch.setattr(Drive, "_start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(sweep, "question", store=tmp_path, output="quiet")
    assert "paused; the same call goes on" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    (row,) = open_store(tmp_path).runs("question")
    assert row.state == "INTERRUPTED"
    results = run_sweep(sweep, "question", store=tmp_path, output="quiet")
    assert results.trials["run_id"].tolist() == [row.run_id]
    assert results.trials["state"].tolist() == ["COMPLETE"]


@pytest.mark.slow
def test_trials_that_a_search_repeats_count_once(text_file: Path, tmp_path: Path) -> None:
    base = RunConfig(
        data=str(text_file), tokenizer="char", max_seq_len=8, d_model=16, num_layers=1, num_heads=2, batch_size=4,
        train_tokens=32 * 12, num_evals=6, eval_tokens=256, precision="fp64",
    )  # fmt: skip
    space = {"learning_rate": Choice(1e-3, 3e-3), "bias": Choice(True, False)}
    sweep = Sweep(base=base, space=space, search="random", num_trials=16, seeds=2)
    results = run_sweep(sweep, "question", store=tmp_path, output="quiet")
    assert len(results.board) == 4
    assert len(results.runs) == results.num_planned == results.runs["run_id"].nunique() == 8
    assert not results.history.duplicated(["run_id", "step"]).any()
    assert results.gaps["num_runs"].sum() == 16  # eight by either field
    assert "12 trials repeat an earlier one and count once" in " ".join(answer(results))
    store = open_store(tmp_path)
    assert store.gaps("question")["num_runs"].sum() == 16
    assert len(store.trials("question")) == 32
    (listed,) = list_sweeps(store)
    assert (listed.standing.done, listed.standing.planned) == (32, 32)


@pytest.mark.slow
def test_the_example_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("Best of 3 settings" in output.get("data", {}).get("text/plain", "") for output in outputs)
    assert not any("Warning" in output.get("text", "") for output in outputs)


def test_a_program_sweeps_in_a_thread_of_its_own(tmp_path: Path, tiny: Callable[..., RunConfig]) -> None:
    """As a notebook's server does: Python lets only the main thread listen to signals."""
    sweep = Sweep(base=tiny(), space={"learning_rate": Choice(1e-3, 3e-3)})
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(run_sweep, sweep, "threaded", store=tmp_path / "store", output="quiet").result()
    assert len(results.complete) == 2
    assert signal.getsignal(signal.SIGINT) is before
