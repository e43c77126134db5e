"""Who may import whom: the rooms of the house, and what is slow to load.

An import inside `if TYPE_CHECKING:` is none. What is not loaded is seen in a process of its own, where imports of
imports count too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("tinylm_core", "sweeps", "experiments")
FILES = {
    path.relative_to(REPOSITORY).as_posix(): path
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
}
SLOW = {"torch", "optuna", "mlflow", "pandas", "matplotlib", "scipy", "ray", "datasets"}


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of it but what only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child)


@cache
def imports(file: str) -> set[str]:
    """Dotted names a file imports anywhere in it: `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in nodes(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(name: str) -> set[str]:
    """The files that import a module or a part of it."""
    return {file for file in FILES if any(f"{found}.".startswith(f"{name}.") for found in imports(file))}


def loaded_by(program: str) -> set[str]:
    """The modules that are loaded after a program has run."""
    told = "import sys; print(*sys.modules)"
    command = [sys.executable, "-c", f"{program}; {told}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_this_test_sees_what_is_imported() -> None:
    assert len(FILES) > 30
    assert {"torch", "tinylm_core.config", "tinylm_core.config.RunConfig"} <= imports("tinylm_core/model.py")
    assert "sweeps/search.py" in importers("optuna")
    assert "tinylm_core/train.py" in importers("torch")


@pytest.mark.parametrize("name", ["sweeps", "experiments", "optuna", "mlflow", "pandas", "matplotlib", "rich", "click"])
def test_the_trainer_knows_nothing_of_sweeps(name: str) -> None:
    assert not {file for file in importers(name) if file.startswith("tinylm_core/")}


def test_only_search_and_what_writes_a_study_import_optuna() -> None:
    assert importers("optuna") == {"sweeps/search.py", "sweeps/study.py"}


def test_only_the_store_imports_mlflow() -> None:
    files = importers("mlflow")
    assert files
    assert all(file.startswith("sweeps/store/") for file in files)


def test_only_the_ray_workers_import_ray_and_they_know_the_workers_alone() -> None:
    files = importers("ray")
    assert files
    assert all(file.startswith("sweeps/ray_workers/") for file in files)
    for file in FILES:
        if file.startswith("sweeps/ray_workers/"):
            rooms = {".".join(name.split(".")[:2]) for name in imports(file) if name.startswith("sweeps.")}
            assert rooms <= {"sweeps.workers", "sweeps.ray_workers"}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("tinylm_core/config.py", "torch"),
        ("tinylm_core/schedule.py", "torch"),
        ("tinylm_core/schedule.py", "tinylm_core.model"),
        ("tinylm_core/schedule.py", "tinylm_core.optimizer"),
        ("tinylm_core/model.py", "tinylm_core.optimizer"),
        ("tinylm_core/model.py", "tinylm_core.schedule"),
        ("tinylm_core/model.py", "tinylm_core.data"),
        ("tinylm_core/optimizer.py", "tinylm_core.schedule"),
        ("tinylm_core/optimizer.py", "tinylm_core.model"),
        ("tinylm_core/data.py", "tinylm_core.model"),
        ("tinylm_core/data.py", "tinylm_core.train"),
        ("tinylm_core/corpus.py", "tinylm_core.train"),
        ("tinylm_core/corpus.py", "tinylm_core.data"),
        ("tinylm_core/sources.py", "tinylm_core.tokenizer"),
        ("tinylm_core/sources.py", "tinylm_core.corpus"),
        ("tinylm_core/tokenizer.py", "tinylm_core"),
        ("tinylm_core/records.py", "tinylm_core"),
        ("tinylm_core/checkpoint.py", "tinylm_core.train"),
        ("tinylm_core/generate.py", "tinylm_core.train"),
        ("sweeps/space.py", "sweeps.store"),
        ("sweeps/sweep.py", "sweeps.store"),
        ("sweeps/plan.py", "sweeps.store"),
        ("sweeps/search.py", "sweeps.store"),
        ("sweeps/search.py", "sweeps.workers"),
        ("sweeps/study.py", "sweeps.store"),
        ("sweeps/workers.py", "sweeps"),
        ("sweeps/driver.py", "sweeps.local_workers"),
        ("sweeps/outbox.py", "sweeps.plan"),
        ("sweeps/driver.py", "rich"),
        ("sweeps/frames.py", "sweeps.driver"),
        ("sweeps/page.py", "sweeps.store"),
        ("sweeps/tables.py", "sweeps.figures"),
    ],
)
def test_a_room_does_not_know_another(file: str, name: str) -> None:
    assert file in FILES
    if name.startswith(("sweeps.", "tinylm_core.")):
        assert name in map(module_of, FILES)
    assert file not in importers(name)


def test_the_store_knows_no_search_no_workers_and_no_driver() -> None:
    for name in ("sweeps.search", "sweeps.workers", "sweeps.driver", "sweeps.outbox"):
        assert not {file for file in importers(name) if file.startswith("sweeps/store")}


def test_the_analysis_knows_no_store_and_no_picture_and_a_picture_no_store() -> None:
    for name in ("sweeps.store", "sweeps.frames", "sweeps.figures", "sweeps.markup", "sweeps.search", "sweeps.report"):
        assert not {file for file in importers(name) if file.startswith("sweeps/analysis")}
    for name in ("sweeps.store", "sweeps.frames", "sweeps.markup"):
        assert not {file for file in importers(name) if file.startswith("sweeps/figures")}


def test_experiments_are_data() -> None:
    for file in FILES:
        if file.startswith("experiments/"):
            packages = {name.partition(".")[0] for name in imports(file)}
            assert packages <= {"sweeps", "tinylm_core", "experiments", "dataclasses", "math"}


def test_packages_load_nothing_slow() -> None:
    assert not SLOW & loaded_by(
        "import tinylm_core, sweeps; from tinylm_core import RunConfig; from sweeps import Sweep"
    )


def test_the_list_of_verbs_loads_nothing_slow_and_no_config() -> None:
    loaded = loaded_by(
        "import contextlib, io\nfrom sweeps.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main([]) == 0"
    )
    assert not (SLOW | {"pydantic", "rich"}) & loaded


def test_a_config_is_made_and_resolved_without_torch() -> None:
    program = (
        "from tinylm_core.config import *; from tinylm_core.schedule import *; import tinylm_core.machine as m\n"
        "c = resolve(RunConfig(), m.Machine('cpu', '', False, False)); identity(c, ''); learning_rate(c, 1)\n"
        "import tinylm_core.records, tinylm_core.tokenizer"
    )
    assert not SLOW & loaded_by(program)


def test_a_worker_loads_neither_tracker_nor_search_nor_tables() -> None:
    loaded = loaded_by("import sweeps.local_workers, tinylm_core.train, tinylm_core.samples")
    assert "torch" in loaded
    assert not {"mlflow", "optuna", "pandas", "matplotlib"} & loaded


def test_what_turns_rows_into_pages_loads_no_tracker() -> None:
    loaded = loaded_by("import sweeps.frames, sweeps.analysis.words, sweeps.figures, sweeps.page, sweeps.markup")
    assert "pandas" in loaded
    assert not {"mlflow", "optuna", "torch"} & loaded


def test_a_report_needs_nothing_that_trains() -> None:
    loaded = loaded_by("import sweeps.report, sweeps.answer, sweeps.work, sweeps.summary, sweeps.export, sweeps.rm")
    assert "pandas" in loaded
    assert not {"mlflow", "optuna", "torch"} & loaded


def test_the_search_loads_no_tracker() -> None:
    make = "from sweeps import *; from tinylm_core import RunConfig; from sweeps.search import *; TrialSearch(Sweep("
    rest = "base=RunConfig(), space={'warmup_ratio': Choice(0.0, 0.1)}"
    loaded = loaded_by(f"{make}{rest}, search='tpe', num_trials=1)).ask()")
    assert "optuna" in loaded
    assert "mlflow" not in loaded
    assert not {"optuna", "scipy"} & loaded_by(f"{make}{rest})).ask()")


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_module_says_what_it_is_for(file: str) -> None:
    assert ast.get_docstring(ast.parse(FILES[file].read_text()))


def test_no_module_is_imported_in_a_circle() -> None:
    """At the top of files: an import inside a function may close a circle."""
    modules = {module_of(file): file for file in FILES}
    edges = {
        module: {name for name in top_imports(file) if name in modules} - {module} for module, file in modules.items()
    }
    done: set[str] = set()
    while ready := {module for module in edges if module not in done and edges[module] <= done}:
        done |= ready
    assert done == edges.keys()


def top_imports(file: str) -> set[str]:
    tree = ast.parse(FILES[file].read_text())
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            files = {module_of(name) for name in FILES}
            found |= children & files or {node.module}
    return found


@pytest.mark.slow
def test_training_loads_no_compiler_unless_it_is_to_compile() -> None:
    """PyTorch's takes 0.8 s, in every process that trains."""
    config = "RunConfig(tokenizer='char', max_seq_len=8, d_model=8, num_layers=1, num_heads=1, batch_size=4, "
    config += "train_tokens=64, num_evals=1, eval_tokens=64, precision='fp32')"
    loaded = loaded_by(f"from tinylm_core import RunConfig, run; run({config}, threads=1)")
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_what_a_gpu_is_asked_for_loads_the_compiler_only_where_it_is_to_compile() -> None:
    """By a GPU that only pretends; the rest of a run there is in `tests/test_gpu.py`."""
    program = (
        "import contextlib, torch; from tinylm_core.determinism import reproducible\n"
        "torch.cuda.device = lambda device: contextlib.nullcontext()\n"
        "torch.random.fork_rng = lambda devices: contextlib.nullcontext()\n"
        "with reproducible('cuda', 1, compiles={}):\n"
        "    assert torch.are_deterministic_algorithms_enabled()\n"
        "    assert not torch.is_deterministic_algorithms_warn_only_enabled()\n"
        "    {}\n"
        "assert not torch.are_deterministic_algorithms_enabled()"
    )
    assert "torch._inductor.config" not in loaded_by(program.format(False, "pass"))
    tells = "import torch._inductor.config as settings; assert settings.deterministic"
    assert "torch._inductor.config" in loaded_by(program.format(True, tells))
