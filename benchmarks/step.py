"""Goal 2: the training step against what the machine's matrix products allow.

    python -m benchmarks.step [--rounds 3]

FLOPs are those of matrix products, two a multiply-add: of the linear layers, and of attention's two products over the
whole T x T square, as they are computed; the backward pass counts twice the forward one. The peak is that of a bf16
product of 1024 x 1024 matrices. Both are measured in as many processes at once as there are workers.
"""

import argparse
import multiprocessing
import time

import torch

from benchmarks.measure import Goal, in_turn, text_file
from sweeps.workers.engines import worker_slots
from sweeps.workers.local import tuned_memory
from tinylm_core import RunConfig
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.determinism import reproducible
from tinylm_core.machine import this_machine
from tinylm_core.train import TrainingLoop

SECONDS = 8.0
WARM_STEPS = 3
PEAK_SIZE = 1024


def flops_per_token(config: RunConfig, vocab_size: int) -> float:
    """Of a training step: forward and backward."""
    d, f, t = config.d_model, config.d_ff or 4 * config.d_model, config.max_seq_len
    linear = config.num_layers * (4 * d * d + 2 * d * f) + d * vocab_size
    attention = config.num_layers * 2 * t * d
    return 3 * 2 * (linear + attention)


def train(config: RunConfig) -> float:
    """FLOP/s of one process that takes steps for a while."""
    corpus = load_corpus(config)
    with reproducible("cpu", 1):
        loop = TrainingLoop(config, corpus, "cpu", None, checkpoint_seconds=1e9)
        for _ in range(WARM_STEPS):
            loop.optimizer_step()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            loop.optimizer_step()
            steps += 1
        elapsed = time.perf_counter() - started
    return flops_per_token(config, corpus.vocab_size) * steps * config.tokens_per_step / elapsed


def multiply(dtype: torch.dtype) -> float:
    """FLOP/s of one process that multiplies matrices for a while."""
    torch.set_num_threads(1)
    a = torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype)
    b, out = a.clone(), a.clone()
    torch.mm(a, b, out=out)
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS / 2:
        torch.mm(a, b, out=out)
        products += 1
    return 2 * PEAK_SIZE**3 * products / (time.perf_counter() - started)


def main(rounds: int = 3) -> list[Goal]:
    machine = this_machine("cpu")
    num_workers = len(worker_slots("cpu", None, 1))
    config = resolve(
        RunConfig(data=str(text_file() or "python-docs"), train_tokens=8 * 128 * 100_000, num_evals=1), machine
    )
    corpus = load_corpus(config)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    with tuned_memory(), multiprocessing.get_context("forkserver").Pool(num_workers) as pool:
        speeds = in_turn(
            {
                "step": lambda: sum(pool.map(train, [config] * num_workers, chunksize=1)) / num_workers,
                "peak": lambda: sum(pool.map(multiply, [dtype] * num_workers, chunksize=1)) / num_workers,
            },
            rounds,
        )
    tokens = speeds["step"] / flops_per_token(config, corpus.vocab_size)
    print(
        f"{num_workers} processes, {config.precision}: a step makes {speeds['step'] / 1e9:,.0f} GFLOP/s a core "
        f"({tokens:,.0f} tokens/s), matrix products {speeds['peak'] / 1e9:,.0f}"
    )
    return [Goal("2 step against the peak of matrix products", 100 * speeds["step"] / speeds["peak"], 50, "%")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for goal in main(parser.parse_args().rounds):
        print(goal)
