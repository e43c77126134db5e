"""What all tests share: nothing of the user's is read or written, and nobody is told that tests run."""

import gc
import math
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import nodes as nodes
from clusters import on_cluster as on_cluster
from clusters import ray_folder as ray_folder
from hypothesis import settings
from launcher import launcher as launcher
from runs import reported_each_step as reported_each_step
from stores import any_store as any_store
from stores import server as server
from stores import server_on_postgres as server_on_postgres

from tinylm_core.config import RunConfig

# Before any test file imports a library that reads them.
for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[name] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Threads that wait for each other on a busy machine make a tiny model a hundred times slower.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says nothing of a law, and a machine under load must not fail a test.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")

ONE_IN = 4  # of the tests marked faults in each file that a run without --all-faults takes, at least one

LONGEST = ("test_torture", "test_ray", "test_faults", "test_time_left")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-faults", action="store_true", help="every test marked faults, not a sample")


def pytest_report_header(config: pytest.Config) -> str:
    return "faults: all" if config.getoption("--all-faults") else f"faults: a sample, FAULTS_SEED={faults_seed()}"


def faults_seed() -> str:
    """What chooses the sample: the commit, so that others are run each time, and the same in all of its runs."""
    if given := os.environ.get("FAULTS_SEED"):
        return given
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "0"


def sampled(items: list[pytest.Item], seed: str) -> list[pytest.Item]:
    """The tests to leave out of those given: all but one in ONE_IN of each file."""
    by_file: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path.stem, []).append(item)
    left_out: list[pytest.Item] = []
    for name, some in by_file.items():
        chosen = random.Random(f"{seed} {name}").sample(range(len(some)), math.ceil(len(some) / ONE_IN))
        left_out += [item for place, item in enumerate(some) if place not in chosen]
    return left_out


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A sample of the tests that break something, unless they are named or all are asked for; then the order."""
    whole_files = not any("::" in argument for argument in config.args)
    if whole_files and not config.getoption("--all-faults"):
        left_out = sampled([item for item in items if item.get_closest_marker("faults")], faults_seed())
        config.hook.pytest_deselected(items=left_out)
        is_left_out = set(left_out)
        items[:] = [item for item in items if item not in is_left_out]
    in_order(items)


def in_order(items: list[pytest.Item]) -> None:
    """The slow tests first, a share for each process, a file's all in one, which share what it prepares; then the rest.

    Each process begins with as many tests of the list as any other, and takes from the others in the end: so no core
    waits long.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    by_file = {path: [item for item in slow if item.path == path] for path in dict.fromkeys(i.path for i in slow)}
    num_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[list[pytest.Item]] = [[] for _ in range(num_processes)]
    for path in sorted(by_file, key=lambda path: (path.stem not in LONGEST, -len(by_file[path]))):
        min(shares, key=len).extend(by_file[path])
    size = math.ceil(len(items) / num_processes)
    for share in shares:
        wanted = max(0, size - len(share))
        share += quick[:wanted]
        del quick[:wanted]
    items[:] = [item for share in shares for item in share] + quick


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector needs not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TINYLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 12,000 characters of small sentences, from an alphabet of about 20."""
    choose = random.Random(0).choice
    things, verbs = ["the cat", "a dog", "one hen", "no goat"], ["sees", "has", "eats"]
    sentences = [f"{choose(things)} {choose(verbs)} {choose(things)}.\n" for _ in range(650)]
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("".join(sentences))
    return path


@pytest.fixture(scope="session")
def tiny(text_file: Path) -> Callable[..., RunConfig]:
    """The smallest run that has everything: dropout, accumulation, clipping, warmup, four evaluations; 0.1 s."""

    def tiny(**changes: Any) -> RunConfig:
        fields: dict[str, Any] = {
            "data": str(text_file), "tokenizer": "char", "max_seq_len": 8, "d_model": 16, "num_layers": 2,
            "num_heads": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "train_tokens": 64 * 12,
            "num_evals": 3, "eval_tokens": 256, "learning_rate": 3e-3, "precision": "fp64",
        }  # fmt: skip
        return RunConfig.model_validate(fields | changes)

    return tiny


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store without a sweep, to be copied: making one takes seconds."""
    from sweeps.store import open_store

    folder = tmp_path_factory.mktemp("stores") / "empty"
    open_store(folder, create=True)
    return folder
