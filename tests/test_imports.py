"""Who may import whom: the rooms of the house, and what is slow to load.

What is not loaded is seen in a process of its own, where imports of imports count too.
"""

import ast
import subprocess
import sys
from statistics import median

import pytest
from house import (
    FILES,
    MODULES,
    REPOSITORY,
    ROOMS,
    described,
    file_layers,
    importers,
    imports,
    lengths,
    package_layers,
    room_of,
    strangers,
    upward,
)

from sweeps.workers.local import PRELOADED

SLOW = {"torch", "optuna", "mlflow", "pandas", "matplotlib", "scipy", "ray", "datasets"}
MOST_LINES = 250
MOST_FLOORS = 13


def loaded_by(program: str) -> set[str]:
    """The modules that are loaded after a program has run."""
    told = "import sys; print(*sys.modules)"
    command = [sys.executable, "-c", f"{program}; {told}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_this_test_sees_what_is_imported() -> None:
    assert len(FILES) > 100
    assert {"torch", "tinylm_core.config", "tinylm_core.config.RunConfig"} <= imports("tinylm_core/model.py")
    assert "sweeps/search/ask_tell.py" in importers("optuna")
    assert "tinylm_core/train.py" in importers("torch")
    assert {room_of(file) for file in FILES} - {None} == set(ROOMS)


def test_a_room_imports_only_what_it_may_know_and_nothing_runs_up_or_in_a_circle() -> None:
    print(described())
    assert strangers() == []
    assert upward() == []
    floors, circling = package_layers()
    assert circling == []
    assert len(floors) <= MOST_FLOORS
    assert file_layers()[1] == []


def test_no_file_is_two_ideas() -> None:
    counted = lengths()
    assert {file: number for file, number in counted.items() if number > MOST_LINES} == {}
    assert median(counted.values()) <= 130


def test_a_test_file_shadows_no_other_and_no_library() -> None:
    """pytest imports a test file by its name alone, and finds what stands beside it before a library of that name."""
    tests = REPOSITORY / "tests"
    names = [path.name for path in tests.rglob("*.py") if path.name != "conftest.py"]
    assert len(set(names)) == len(names)
    assert not list(tests.rglob("__init__.py"))


@pytest.mark.parametrize("name", ["optuna", "mlflow", "pandas", "matplotlib", "rich", "click"])
def test_the_trainer_knows_nothing_of_sweeps(name: str) -> None:
    assert not {file for file in importers(name) if room_of(file) == "core"}


@pytest.mark.parametrize(
    ("name", "room"), [("optuna", "search"), ("mlflow", "store"), ("matplotlib", "answer"), ("ray", "workers")]
)
def test_only_one_room_imports_a_library_that_may_be_replaced(name: str, room: str) -> None:
    files = importers(name)
    assert files
    assert {room_of(file) for file in files} == {room}


def test_only_the_tasks_of_a_cluster_import_ray() -> None:
    assert all(file.startswith("sweeps/workers/ray/") for file in importers("ray"))


@pytest.mark.parametrize(
    "room", ["answer", "driver", "outbox", "analysis", "plan", "search", "trainers", "workers", "spec"]
)
def test_only_who_speaks_to_people_draws_on_a_terminal(room: str) -> None:
    assert not {file for file in importers("rich") if room_of(file) == room}


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
        ("sweeps/workers/protocol.py", "sweeps"),
        ("sweeps/answer/page.py", "sweeps.store"),
        ("sweeps/answer/sentences.py", "sweeps.store"),
        ("sweeps/answer/tables.py", "sweeps.answer.figures"),
        ("sweeps/driver/loop.py", "sweeps.store"),
        ("sweeps/driver/loop.py", "sweeps.workers.local"),
    ],
)
def test_a_file_does_not_know_another(file: str, name: str) -> None:
    assert file in FILES
    if name.startswith(("sweeps.", "tinylm_core.")):
        assert name in MODULES
    assert file not in importers(name)


@pytest.mark.parametrize("name", ["sweeps.store", "sweeps.answer.markup"])
def test_a_picture_knows_no_store_and_no_page(name: str) -> None:
    assert not {file for file in importers(name) if file.startswith("sweeps/answer/figures/")}


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
    loaded = loaded_by("import sweeps.workers.local, tinylm_core.train, tinylm_core.samples")
    assert "torch" in loaded
    assert not {"mlflow", "optuna", "pandas", "matplotlib"} & loaded


def test_what_turns_rows_into_pages_loads_no_tracker() -> None:
    loaded = loaded_by(
        "import sweeps.store.frames, sweeps.answer.figures, sweeps.answer.page, sweeps.answer.advice.next_steps"
    )
    assert "pandas" in loaded
    assert not {"mlflow", "optuna", "torch"} & loaded


def test_a_report_needs_nothing_that_trains() -> None:
    loaded = loaded_by(
        "import sweeps.report, sweeps.export, sweeps.rm, sweeps.outbox.work, sweeps.answer.publish, "
        "sweeps.terminal.summary"
    )
    assert "pandas" in loaded
    assert not {"mlflow", "optuna", "torch"} & loaded


def test_the_search_loads_no_tracker() -> None:
    make = "from sweeps import *; from tinylm_core import RunConfig; from sweeps.search.ask_tell import TrialSearch\n"
    rest = "TrialSearch(Sweep(base=RunConfig(), space={'warmup_ratio': Choice(0.0, 0.1)}"
    loaded = loaded_by(f"{make}{rest}, search='tpe', num_trials=1)).ask()")
    assert "optuna" in loaded
    assert "mlflow" not in loaded
    assert not {"optuna", "scipy"} & loaded_by(f"{make}{rest})).ask()")


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_module_says_what_it_is_for(file: str) -> None:
    assert ast.get_docstring(ast.parse(FILES[file].read_text()))


def test_what_the_worker_server_loads_before_it_forks_can_be_imported() -> None:
    """Python's server passes over a module that it can't import, and each worker then takes seconds to begin."""
    loaded = loaded_by("import signal; " + "; ".join(f"import {name}" for name in PRELOADED))
    assert set(PRELOADED) <= loaded


@pytest.mark.slow
def test_training_loads_no_compiler_unless_it_is_to_compile() -> None:
    """PyTorch's takes 0.8 s, in every process that trains."""
    config = "RunConfig(tokenizer='char', max_seq_len=8, d_model=8, num_layers=1, num_heads=1, batch_size=4, "
    config += "train_tokens=64, num_evals=1, eval_tokens=64, precision='fp32')"
    loaded = loaded_by(f"from tinylm_core import RunConfig, run; run({config}, threads=1)")
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_what_a_gpu_is_asked_for_loads_the_compiler_only_where_it_is_to_compile() -> None:
    """By a GPU that only pretends; the rest of a run there is in `tests/core/test_gpu.py`."""
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
