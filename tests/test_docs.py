"""Code in the docs runs as it stands."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launcher import Launcher, without_waiting
from small_sweeps import BASE, HEAD

from sweeps.plan.plan import make_plan
from sweeps.search.ask_tell import TrialSearch
from sweeps.spec.catalog import load_experiment
from tinylm_core import RunConfig
from tinylm_core.machine import this_machine

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def code() -> str:
    """All of the packages' source."""
    files = [file for package in ("tinylm_core", "sweeps") for file in sorted((ROOT / package).rglob("*.py"))]
    return "\n".join(file.read_text() for file in files)


def texts(code: str) -> set[str]:
    """Every string in the code but docstrings, with … for what an f-string fills in."""
    found = set()
    tree = ast.parse(code)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in docstrings:
                found.add(text)
            case ast.JoinedStr(values=values):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in values))
    return found


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder_with_a_sweep(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, text_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    base = BASE.format(data=str(text_file), tokens=32 * 12)
    space = "{'learning_rate': Choice(1e-3, 3e-3), 'warmup_ratio': Choice(0.0, 0.5)}"
    (folder / "lr_warmup.py").write_text(f"{HEAD}SWEEP = Sweep(base={base}, space={space}, seeds=2)\n")
    done = launcher.run("sweeps.run", folder / "lr_warmup.py", "--store", folder / "mlruns", cwd=folder)
    assert done.code == 0, done
    return folder


def test_the_notebook_part_of_the_report_page_runs(folder_with_a_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with_a_sweep)
    (block,) = blocks(DOCS / "report.md", "python")
    names: dict[str, object] = {}
    exec(compile(block, "report.md", "exec"), names)
    assert len(names["best"]) == 4  # type: ignore[arg-type]
    assert names["results"].board["objective"].notna().all()  # type: ignore[attr-defined]


def test_the_reference_is_what_the_code_says() -> None:
    make = runpy.run_path(str(DOCS / "make_reference.py"))
    assert (DOCS / "reference.md").read_text() == make["page"](), "run python docs/make_reference.py"
    headed = [name for _, names in make["config_groups"]() for name in names]
    assert headed == list(RunConfig.model_fields)


def test_the_tags_that_the_page_on_reproducibility_names_are_those_of_the_code(code: str) -> None:
    page = (DOCS / "reproducibility.md").read_text()
    tags = set(re.findall(r"`((?:machine|torch|numpy|tokenizers|sweep|run|weights|code)\.[a-z0-9_]+)`", page))
    tags.remove("torch.use_deterministic_algorithms")
    assert len(tags) >= 10
    assert {tag for tag in tags if f'"{tag}"' not in code} == set()


def test_the_messages_that_troubleshooting_quotes_are_those_of_the_code(code: str) -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    known = texts(code)
    assert len(quoted) > 60
    # A `…` of the page may stand for several things in a row, and for words between them.
    patterns = {message: ".*".join(map(re.escape, message.split("…"))) for message in quoted}
    assert [message for message, pattern in patterns.items() if not any(re.search(pattern, t) for t in known)] == []


def test_what_contributing_names_is_there(code: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    tests = {file.stem: file.read_text() for file in (ROOT / "tests").rglob("*.py")}
    for name in set(re.findall(r"`((?:sweeps|tinylm_core|tests|benchmarks|docs)/[\w/.]*)`", page)):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"`(test_\w+)", page)):
        assert name in tests or f"def {name}" in "".join(tests.values()), name
    for name in set(re.findall(r"`(?!test_)(_?[a-z]+_[a-z_]+|[A-Z]+_[A-Z]+)`", page)):
        assert re.search(rf"\b{name}\b", code + "".join(tests.values())), name


def test_the_sweeps_of_the_tutorial_are_planned(text_file: Path, tmp_path: Path) -> None:
    shutil.copy(text_file, tmp_path / "corpus.txt")
    found = [block for block in blocks(DOCS / "tutorial.md", "python") if "SWEEP =" in block]
    assert found
    for number, block in enumerate(found):
        path = tmp_path / f"part{number}.py"
        path.write_text(block.replace('"corpus.txt"', repr(str(tmp_path / "corpus.txt"))))
        plan = make_plan(load_experiment(str(path)), this_machine("cpu"))
        assert plan.trial(0, TrialSearch(plan.sweep).ask()).runs


@pytest.mark.slow
def test_the_trainer_of_the_page_on_trainers_is_swept(launcher: Launcher, tmp_path: Path) -> None:
    block, by_hand, _ = blocks(DOCS / "own_trainer.md", "python")
    (tmp_path / "fall.py").write_text(f"{block}\n\n{by_hand}")
    done = launcher.run("sweeps.run", "fall.py", cwd=tmp_path)
    assert (done.code, "Best of 2 settings is lr=0.1: validation loss 1.0052" in done.out) == (0, True), done
    assert "StepRecord" not in done.out
    seen = subprocess.run([sys.executable, "fall.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert seen.stdout.count("StepRecord(step=") == 5
    assert "Metrics(state='COMPLETE'" in seen.stdout


def test_the_trainer_that_goes_on_tells_from_the_first_step_again_and_computes_only_what_is_left(
    tmp_path: Path,
) -> None:
    block, _, goes_on = blocks(DOCS / "own_trainer.md", "python")
    names: dict[str, Any] = {"__name__": "fall"}
    exec(compile(f"{block}\n\n{goes_on}", "own_trainer.md", "exec"), names)
    computed = []

    class Config(names["Config"]):  # type: ignore[misc]
        @property
        def learning_rate(self) -> float:
            computed.append(1)
            return 0.1

    def told(workdir: Path, stop_after: int | None) -> tuple[str, list[Any], list[Any]]:
        workdir.mkdir(exist_ok=True)
        steps: list[Any] = []
        evals: list[Any] = []
        ended = names["train"](
            object.__new__(Config), workdir=workdir, on_steps=steps.extend, on_eval=evals.append,
            should_stop=lambda: len(steps) == stop_after, device="cpu", threads=1,
        )  # fmt: skip
        return ended.state, steps, evals

    whole = told(tmp_path / "whole", None)
    assert len(whole[1]) == 50
    of_a_step = len(computed) / 50
    assert told(tmp_path / "cut", 20)[0] == "INTERRUPTED"
    computed.clear()
    state, steps, evals = told(tmp_path / "cut", None)
    assert (state, [e.val_loss for e in evals]) == ("COMPLETE", [e.val_loss for e in whole[2]])
    assert [(s.step, s.loss) for s in steps] == [(s.step, s.loss) for s in whole[1]]
    assert len(computed) == 30 * of_a_step


@pytest.mark.slow
def test_the_tutorial_runs_from_the_text_to_what_the_model_writes(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands as they stand, in order, with a small text, by which `sweeps.new` makes everything small."""
    (tmp_path / "corpus.txt").write_text(text_file.read_text()[:4000])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run_id, said = "", {}
    for block in blocks(DOCS / "tutorial.md", "sh"):
        commands = block.replace("RUN_ID", run_id).replace("train_tokens=655360", "train_tokens=16384")
        done = subprocess.run(
            ["bash", "-ec", commands], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (commands, done.stdout, done.stderr)
        assert not without_waiting(done.stderr), (commands, done.stderr)
        said[commands] = done.stdout
        if found := re.search(r"sweeps.reproduce ([0-9a-f]{32})", done.stdout):
            run_id = found[1]
    texts = list(said.values())
    assert "6 trials x 2 seeds = 12 runs" in texts[0]
    assert "Best of 6 settings is" in texts[2]
    assert "Best of 10 settings is" in texts[3]
    assert "Best of 2 settings is" in texts[4]
    assert "Best of 1 setting is" in texts[6]
    assert texts[7].startswith("the ")
    assert "and the final weights" in texts[8]
    code = blocks(DOCS / "tutorial.md", "python")[-1]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "tutorial.md", "exec"), names)
    assert names["best"]["run_id"] == run_id  # type: ignore[index]
    assert (tmp_path / "best" / "checkpoint" / "model.safetensors").is_file()
