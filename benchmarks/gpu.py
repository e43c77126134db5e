"""On a GPU: tokens a second, time of a step and share of the peak, against a plain loop, for 1, 2, 4, 8 runs a GPU.

    python -m benchmarks.gpu [--seconds 10] [--device cuda:0] [--set FIELD=VALUE]…

The plain loop is the notebook's model in float32 with `.item()` at each step. The peak is that of a bf16 product of
8192 x 8192 matrices on the same GPU, in the same process. FLOPs as in `benchmarks/step.py`: attention's for the whole
T x T square, of which causal flash attention computes about half, so that the share is a little too high. Runs that
share the GPU begin to count together, when the last is warm. `--device cpu` tries the benchmark itself where there is
no GPU.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from torch.nn import functional as F

from benchmarks.measure import changes_of, text_file, wait_for
from benchmarks.notebook import NotebookGPT
from benchmarks.step import flops_per_token
from tinylm_core import RunConfig
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.data import micro_batch, train_windows
from tinylm_core.determinism import reproducible
from tinylm_core.machine import this_machine
from tinylm_core.train import TrainingLoop

RUNS_PER_GPU = (1, 2, 4, 8)
WARM_STEPS = 10
WARM_SECONDS = 300.0  # a run that waits so long for the others waits for one that has failed
PEAK_SIZES = {"cuda": 8192, "cpu": 1024}


def steps_per_second(
    step: Callable[[], object], device: str, seconds: float, when_warm: Callable[[], object] = lambda: None
) -> float:
    """The pace of a step, the device waited for at both ends."""
    for _ in range(WARM_STEPS):
        step()
    wait_for(device)
    when_warm()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10):  # the host runs ahead of the device, as in a run between two flushes
            step()
        wait_for(device)
        steps += 10
    return steps / (time.perf_counter() - started)


together: Barrier


def wait_at(barrier: Barrier) -> None:
    """Begin a process of those that share a GPU."""
    global together
    together = barrier


def ours(config: RunConfig, device: str, seconds: float) -> float:
    """Tokens a second of one run."""
    corpus = load_corpus(config)
    with reproducible(device, 1):
        loop = TrainingLoop(config, corpus, device, None, checkpoint_seconds=1e9)
        return steps_per_second(loop.optimizer_step, device, seconds, together.wait) * config.tokens_per_step


def plain(config: RunConfig, device: str, seconds: float) -> float:
    """Tokens a second of the loop that a notebook has."""
    corpus = load_corpus(config)
    windows = train_windows(corpus, config)
    shape = (corpus.vocab_size, config.max_seq_len, config.d_model, config.num_layers, config.num_heads, config.dropout)
    model = NotebookGPT(*shape).to(device)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    index = 0

    def step() -> float:
        nonlocal index
        batch = micro_batch(windows, 0, index, config.batch_size)
        index += 1
        logits = model(batch.input_ids.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.to(device).flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return steps_per_second(step, device, seconds) * config.batch_size * config.max_seq_len


def peak_flops(device: str, seconds: float) -> float:
    """FLOP/s of large bf16 products."""
    size = PEAK_SIZES[device.partition(":")[0]]
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b, out = torch.randn_like(a), torch.empty_like(a)
    return steps_per_second(lambda: torch.mm(a, b, out=out), device, seconds) * 2 * size**3


def main(seconds: float, device: str, changes: dict[str, object]) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured")
        return
    machine = this_machine(device)
    base = RunConfig(data=str(text_file() or "python-docs"), train_tokens=8 * 128 * 1_000_000, num_evals=1)
    config = resolve(base.replace(changes), machine)
    flops = flops_per_token(config, load_corpus(config).vocab_size)
    peak = peak_flops(device, seconds)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        loop = pool.apply(plain, (config, device, seconds))
    print(
        f"{machine.name}, torch {torch.__version__}, {config.precision}: matrix products make {peak / 1e12:.0f} TFLOP/s"
    )
    print(f"plain loop, float32: {loop:,.0f} tokens/s")
    for runs in RUNS_PER_GPU:
        with context.Pool(runs, wait_at, (context.Barrier(runs, timeout=WARM_SECONDS),)) as pool:
            speeds = pool.starmap(ours, [(config, device, seconds)] * runs, chunksize=1)
        step_ms = 1000 * config.tokens_per_step * runs / sum(speeds)
        share = sum(speeds) * flops / peak
        print(
            f"{runs} runs a GPU: {sum(speeds):12,.0f} tokens/s in all, {step_ms:6.1f} ms a step, {share:6.1%} of the "
            f"peak, {sum(speeds) / loop:5.1f} x the plain loop"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.device, changes_of(arguments.changes))
