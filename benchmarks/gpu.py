"""On a GPU: tokens a second, time of a step and share of the peak, against a plain loop, for 1, 2, 4, 8 runs a GPU.

    python -m benchmarks.gpu [--seconds 10] [--set FIELD=VALUE]…

The plain loop is the notebook's model in float32 with `.item()` at each step. The peak is that of a bf16 product of
8192 x 8192 matrices on the same GPU, in the same process. FLOPs as in `benchmarks/step.py`.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.measure import text_file
from benchmarks.notebook import NotebookGPT
from benchmarks.step import flops_per_token
from sweeps.configs import parsed
from tinylm_core import RunConfig
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.data import micro_batch, train_windows
from tinylm_core.machine import this_machine
from tinylm_core.train import Trainer, reproducible

DEVICE = "cuda:0"
RUNS_PER_GPU = (1, 2, 4, 8)
WARM_STEPS = 10
PEAK_SIZE = 8192


def steps_per_second(step: Callable[[], object], seconds: float) -> float:
    """The pace of a step, the device waited for at both ends."""
    for _ in range(WARM_STEPS):
        step()
    torch.cuda.synchronize()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(10):  # the host runs ahead of the device, as in a run between two flushes
            step()
        torch.cuda.synchronize()
        steps += 10
    return steps / (time.perf_counter() - started)


def ours(config: RunConfig, seconds: float) -> float:
    """Tokens a second of one run."""
    corpus = load_corpus(config)
    with reproducible(DEVICE, 1):
        trainer = Trainer(config, corpus, DEVICE, None, checkpoint_seconds=1e9)
        return steps_per_second(trainer.optimizer_step, seconds) * config.tokens_per_step


def plain(config: RunConfig, seconds: float) -> float:
    """Tokens a second of the loop that a notebook has."""
    corpus = load_corpus(config)
    windows = train_windows(corpus, config)
    shape = (corpus.vocab_size, config.max_seq_len, config.d_model, config.num_layers, config.num_heads, config.dropout)
    model = NotebookGPT(*shape).to(DEVICE)  # type: ignore[no-untyped-call]
    # The notebook makes its positions on the CPU.
    torch.set_default_device(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    index = 0

    def step() -> float:
        nonlocal index
        batch = micro_batch(windows, 0, index, config.batch_size)
        index += 1
        logits = model(batch.input_ids.to(DEVICE))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.to(DEVICE).flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return steps_per_second(step, seconds) * config.batch_size * config.max_seq_len


def peak_flops(seconds: float) -> float:
    """FLOP/s of large bf16 products."""
    a = torch.randn(PEAK_SIZE, PEAK_SIZE, device=DEVICE, dtype=torch.bfloat16)
    b, out = torch.randn_like(a), torch.empty_like(a)
    return steps_per_second(lambda: torch.mm(a, b, out=out), seconds) * 2 * PEAK_SIZE**3


def main(seconds: float, changes: dict[str, object]) -> None:
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured")
        return
    machine = this_machine(DEVICE)
    base = RunConfig(data=str(text_file() or "python-docs"), train_tokens=8 * 128 * 1_000_000, num_evals=1)
    config = resolve(base.replace(changes), machine)
    flops = flops_per_token(config, load_corpus(config).vocab_size)
    peak = peak_flops(seconds)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        loop = pool.apply(plain, (config, seconds))
    print(
        f"{machine.name}, torch {torch.__version__}, {config.precision}: matrix products make {peak / 1e12:.0f} TFLOP/s"
    )
    print(f"plain loop, float32: {loop:,.0f} tokens/s")
    for runs in RUNS_PER_GPU:
        with context.Pool(runs) as pool:
            speeds = pool.starmap(ours, [(config, seconds)] * runs, chunksize=1)
        step_ms = 1000 * config.tokens_per_step * runs / sum(speeds)
        share = sum(speeds) * flops / peak
        print(
            f"{runs} runs a GPU: {sum(speeds):12,.0f} tokens/s in all, {step_ms:6.1f} ms a step, {share:6.1%} of the "
            f"peak, {sum(speeds) / loop:5.1f} x the plain loop"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    pairs = (text.partition("=")[::2] for text in arguments.changes)
    main(arguments.seconds, {name: parsed(RunConfig, name, value) for name, value in pairs})
