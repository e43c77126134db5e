"""The laws on a GPU, where there is one."""

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from runs import StopAt, bits

from sweeps.workers.local import LocalWorkers
from sweeps.workers.protocol import Ended, Job
from tinylm_core import RunConfig, run, usage
from tinylm_core import train as train_module
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.determinism import reproducible
from tinylm_core.machine import this_machine
from tinylm_core.train import TrainingLoop

DEVICE = "cuda:0"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

Tiny = Callable[..., RunConfig]

# Heads of 64 and a context beyond a tile's, so that it is the fused attention that trains.
FUSED = {"d_model": 128, "num_heads": 2, "max_seq_len": 160, "train_tokens": 8 * 160 * 30, "eval_tokens": 640}
# 2048 tokens a micro-batch, of about 20 kinds: where CUDA's kernel for an embedding's gradient has a data race.
MANY = {"max_seq_len": 128, "batch_size": 16, "train_tokens": 32 * 128 * 30, "eval_tokens": 640}
SHAPES: dict[str, dict[str, int]] = {"tiny": {}, "fused": FUSED, "many": MANY}
PRECISIONS = ("fp64", "fp32", "bf16", "fp16")


@pytest.fixture(autouse=True)
def _reported_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinylm_core.pending.FLUSH_STEPS", 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_same_config_gives_the_same_bits(tiny: Tiny, shape: dict[str, int], precision: str) -> None:
    config = tiny(**shape, precision=precision)
    assert bits(run(config, device=DEVICE)) == bits(run(config, device=DEVICE))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny: Tiny, tmp_path: Path, shape: dict[str, int], precision: str
) -> None:
    config = tiny(**shape, precision=precision)
    stopped = run(config, device=DEVICE, workdir=tmp_path, should_stop=StopAt(6))
    assert stopped.state == "INTERRUPTED"
    assert 0 < len(stopped.steps) < config.num_steps
    assert bits(run(config, device=DEVICE, workdir=tmp_path)) == bits(run(config, device=DEVICE))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_graphs_have_the_bits_of_kernels_launched_one_by_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, shape: dict[str, int], micro_batches: int, precision: str
) -> None:
    config = tiny(**shape, precision=precision)
    config = config.replace(
        {"gradient_accumulation_steps": micro_batches, "train_tokens": config.tokens_per_step * micro_batches * 12}
    )
    graphed = bits(run(config, device=DEVICE))
    monkeypatch.setattr(train_module, "Graphed", lambda function: function)
    monkeypatch.setattr(train_module, "GraphedBackward", lambda backward, _parameters: backward)
    assert graphed == bits(run(config, device=DEVICE))


def test_a_run_gives_back_the_memory_that_it_took(tiny: Tiny) -> None:
    """Without the garbage collector, which knows nothing of a GPU's memory."""
    run(tiny(**FUSED, precision="bf16"), device=DEVICE)  # what libraries keep is theirs
    gc.collect()
    before = torch.cuda.memory_allocated(DEVICE)
    gc.disable()
    try:
        run(tiny(**FUSED, precision="bf16"), device=DEVICE)
        assert torch.cuda.memory_allocated(DEVICE) == before
    finally:
        gc.enable()


def test_the_numbers_are_the_cpu_s_but_for_rounding(tiny: Tiny) -> None:
    config = tiny(dropout=0.0)
    gpu, cpu = run(config, device=DEVICE), run(config, device="cpu", threads=1)
    assert [record.loss for record in gpu.steps] == pytest.approx([record.loss for record in cpu.steps], rel=1e-9)
    assert [record.val_loss for record in gpu.evals] == pytest.approx([r.val_loss for r in cpu.evals], rel=1e-9)


def test_accumulated_micro_batches_are_one_batch(tiny: Tiny) -> None:
    several, one = (
        run(tiny(dropout=0.0, batch_size=b, gradient_accumulation_steps=k), device=DEVICE) for k, b in ((4, 2), (1, 8))
    )
    assert [record.loss for record in several.steps] == pytest.approx([r.loss for r in one.steps], rel=1e-9)
    assert [r.grad_norm for r in several.steps] == pytest.approx([r.grad_norm for r in one.steps], rel=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_does_not_wait_for_the_gpu(tiny: Tiny, precision: str) -> None:
    config = resolve(tiny(precision=precision), this_machine(DEVICE))
    with reproducible(DEVICE, 1):
        loop = TrainingLoop(config, load_corpus(config), DEVICE, None, 1e9)
        loop.optimizer_step()  # the first sets up libraries and moments
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                loop.optimizer_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_runs_that_share_a_gpu_have_the_bits_of_one_alone(tiny: Tiny, tmp_path: Path) -> None:
    shape = FUSED | {"train_tokens": 8 * 160 * 300}
    configs = {str(seed): tiny(**shape, precision="bf16", seed=seed) for seed in (0, 1)}
    workers = LocalWorkers([DEVICE] * 2)
    for key, config in configs.items():
        workers.submit(Job(key, config.model_dump_json(), tmp_path / key, DEVICE, 1))
    messages = []
    while workers.is_busy():
        messages += workers.receive(1)
    ended = {message.key: message.metrics for message in messages if isinstance(message, Ended)}
    assert {key: bits(metrics) for key, metrics in ended.items()} == {
        key: bits(run(config, device=DEVICE, threads=1)) for key, config in configs.items()
    }


def test_what_a_process_holds_of_the_gpu_is_told() -> None:
    held = torch.ones(2**20, device=DEVICE)
    record = usage._look(psutil.Process(), DEVICE)
    assert (record.gpu_memory_megabytes or 0) > held.nbytes / 1e6
    assert 0 < (record.gpu_memory_percent or 0) < 100


def test_a_run_loads_no_compiler_unless_it_is_to_compile(tiny: Tiny) -> None:
    """For a second or more, in every process that trains."""
    program = (
        "import sys; from tinylm_core import RunConfig, run\n"
        f"run(RunConfig.model_validate_json(sys.argv[1]), device={DEVICE!r}, threads=1)\n"
        "assert not {'torch._dynamo', 'torch._inductor.config'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, tiny(**FUSED, precision="bf16").model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_compiled_run_has_the_same_bits_each_time_stopped_or_not(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(**FUSED, precision="bf16", compile=True)
    whole = bits(run(config, device=DEVICE))
    assert bits(run(config, device=DEVICE)) == whole
    assert run(config, device=DEVICE, workdir=tmp_path, should_stop=StopAt(9)).state == "INTERRUPTED"
    assert bits(run(config, device=DEVICE, workdir=tmp_path)) == whole


@pytest.mark.slow
def test_a_sweep_with_several_runs_a_gpu_is_reproduced_to_the_last_bit(tmp_path: Path) -> None:
    def printed_by(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command, "--store", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = re.search(r"sweeps\.reproduce (\w+)", printed_by("sweeps.run", "smoke", "--runs-per-gpu", "2"))
    assert said
    assert "bit-identical" in printed_by("sweeps.reproduce", said.group(1))
