"""Law 1: the same config gives the same bits, whatever the caller has set, and leaves that as it was."""

import os
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Listener, bits

from tinylm_core.checkpoint import weights_sha256
from tinylm_core.config import RunConfig, resolve
from tinylm_core.machine import this_machine
from tinylm_core.state import TrainState
from tinylm_core.train import run

REPOSITORY = Path(__file__).parents[2]
Tiny = Callable[..., RunConfig]


def test_same_config_gives_the_same_bits(tiny: Tiny) -> None:
    assert bits(run(tiny(), threads=1)) == bits(run(tiny(), threads=1))


def test_another_process_gives_the_same_bits(tiny: Tiny) -> None:
    configs = [tiny(precision=precision) for precision in ("fp64", "fp32", "bf16")]
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from runs import *\n"
        "for config in sys.argv[3:]: print(bits(run(RunConfig.model_validate_json(config), threads=1)))"
    )
    command = [sys.executable, "-c", program, str(REPOSITORY), str(REPOSITORY / "tests")]
    command += [config.model_dump_json() for config in configs]
    here = [bits(run(config, threads=1)) for config in configs]
    # Python's own hash seed is another here, and in every process.
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == here


def test_another_seed_gives_other_bits(tiny: Tiny) -> None:
    first, second = run(tiny(), threads=1), run(tiny(seed=1), threads=1)
    assert first.weights_sha256 != second.weights_sha256
    assert first.steps[0].loss != second.steps[0].loss


def test_the_callers_torch_is_as_it_was_and_changes_no_bits(tiny: Tiny) -> None:
    config = tiny(precision="fp32", d_model=64, max_seq_len=32, train_tokens=256 * 3)
    usual = bits(run(config, threads=1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(1234)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        random_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert bits(run(config, threads=1)) == usual
        with pytest.raises(ValueError, match="training part"):  # given back after a mistake too
            run(config.replace({"max_seq_len": 65_536, "train_tokens": 65_536 * 24}), threads=1)
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.equal(torch.get_rng_state(), random_before)
        assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert bits(run(config, threads=1)) == usual


PRODUCTS = (
    "backends.fp32_precision", "backends.cuda.matmul.fp32_precision", "backends.mkldnn.matmul.fp32_precision",
)  # fmt: skip
WAYS: dict[str, dict[str, str]] = {
    "all": {"backends.fp32_precision": "tf32"},
    "cuda": {"backends.cuda.matmul.fp32_precision": "tf32"},
    "cpu": {"backends.mkldnn.matmul.fp32_precision": "bf16"},
    "cpu apart": {"backends.fp32_precision": "tf32", "backends.mkldnn.matmul.fp32_precision": "ieee"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_callers_newer_settings_of_products_are_as_they_were_and_change_no_bits(tiny: Tiny, way: str) -> None:
    config = tiny(precision="fp32", d_model=64, max_seq_len=32, train_tokens=256 * 3)

    def put(**settings: str) -> None:
        for name, value in settings.items():
            place, _, attribute = name.rpartition(".")
            setattr(attrgetter(place)(torch), attribute, value)

    def told() -> dict[str, str]:
        return {name: attrgetter(name)(torch) for name in PRODUCTS}

    unset = dict.fromkeys(PRODUCTS, "none")
    try:
        put(**unset)
        usual = bits(run(config, threads=1))
        assert told() == unset
        put(**WAYS[way])
        before = told()
        assert bits(run(config, threads=1)) == usual
        assert told() == before
        general, *_ = PRODUCTS
        put(**{general: "ieee"})  # what was not set by itself follows still
        assert told() == dict.fromkeys(PRODUCTS, "ieee") | WAYS[way] | {general: "ieee"}
    finally:
        put(**unset)


def test_a_run_seeds_no_gpu_of_the_caller(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is not in use yet, for which PyTorch keeps the caller's seed."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    run(tiny(), threads=1)
    assert seeded == []


def test_initial_weights_do_not_depend_on_the_callers_default_device(tiny: Tiny) -> None:
    config = resolve(tiny(), this_machine("cpu"))
    with torch.device("meta"):
        elsewhere = TrainState.fresh(config, 16, "cpu").model
    assert weights_sha256(elsewhere) == weights_sha256(TrainState.fresh(config, 16, "cpu").model)


@pytest.mark.usefixtures("reported_each_step")
def test_who_listens_and_where_files_go_changes_no_bits(tiny: Tiny, tmp_path: Path) -> None:
    listener = Listener()
    told = listener.run(tiny(), workdir=tmp_path, checkpoint_seconds=0)
    assert listener.steps == told.steps
    assert listener.evals == told.evals
    with pytest.MonkeyPatch.context() as other:
        other.setattr("tinylm_core.pending.FLUSH_STEPS", 5)
        assert bits(run(tiny(), threads=1)) == bits(told)
