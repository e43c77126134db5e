"""Where the time of a short run on a GPU goes, for 1, 2, 4, 8 runs that start on it at once.

    python -m benchmarks.gpu_start [--device cuda:0] [--set FIELD=VALUE]…

Each run is a process, forked as a sweep's workers are, of the size of `lr_warmup`. A line is a stage, in seconds, the
median over the runs of a column; what a stage gave the GPU to do is waited for at its end. `--device cpu` tries the
benchmark itself where there is no GPU.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.measure import changes_of, text_file, wait_for
from sweeps.workers.local import HAS_SERVER, held_back_signals, start_server, tuned_memory
from tinylm_core import RunConfig
from tinylm_core.config import resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.determinism import reproducible
from tinylm_core.machine import this_machine
from tinylm_core.samples import write_samples
from tinylm_core.train import TrainingLoop

RUNS_AT_ONCE = (1, 2, 4, 8)
METHOD = "forkserver" if HAS_SERVER else "spawn"


def train(config: RunConfig, device: str, asked_at: float, pipe: Connection) -> None:
    """One run, by the parts of `tinylm_core.run`; says when each was done, by the clock that processes share."""
    stages: list[tuple[str, float]] = []

    def done(stage: str) -> None:
        wait_for(device)
        stages.append((stage, time.monotonic()))

    stages.append(("asked", asked_at))
    stages.append(("process", time.monotonic()))
    torch.set_num_threads(1)
    torch.zeros((), device=device)
    done("the device's context")
    corpus = load_corpus(config)
    done("corpus")
    with reproducible(device, 1, compiles=config.compile is True), tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(config, corpus, device, Path(folder), checkpoint_seconds=1e9)
        done("model")
        loop.evaluate(lambda: False)
        done("evaluation 0")
        for number in range(1, config.num_steps + 1):
            loop.optimizer_step()
            if number <= 2:
                done(f"step {number}")
        done(f"{config.num_steps - 2} more steps")
        loop.evaluate(lambda: False)
        done("an evaluation")
        loop.finish(None)
        done("checkpoint and weights")
        write_samples(Path(folder) / "checkpoint", Path(folder) / "samples.txt")
        done("samples")
    pipe.send(stages)


def seconds_of_stages(config: RunConfig, device: str, runs: int) -> dict[str, list[float]]:
    """What each stage took of each of several runs that start at once; the last is a process' end."""
    context: SpawnContext | ForkServerContext = multiprocessing.get_context(METHOD)  # type: ignore[assignment]
    running: dict[int, tuple[BaseProcess, Connection]] = {}  # by what tells that the process has ended
    for _ in range(runs):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(config, device, time.monotonic(), theirs))
        with tuned_memory(), held_back_signals():
            process.start()
        theirs.close()
        running[process.sentinel] = process, ours
    taken: dict[str, list[float]] = {}
    while running:
        for sentinel in wait(list(running)):
            assert isinstance(sentinel, int)
            _, pipe = running.pop(sentinel)
            stages = [*pipe.recv(), ("the process' end", time.monotonic())]
            for (_, before), (stage, after) in pairwise(stages):
                taken.setdefault(stage, []).append(after - before)
            taken.setdefault("in all", []).append(stages[-1][1] - stages[0][1])
    return taken


def main(device: str, changes: dict[str, object]) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured")
        return
    machine = this_machine(device)
    base = RunConfig(data=str(text_file() or "python-docs"), d_model=128, train_tokens=327_680, eval_tokens=16_384)
    config = resolve(base.replace(changes), machine)
    load_corpus(config)
    start_server(has_own_trainer=False)
    seconds_of_stages(config.replace({"train_tokens": config.tokens_per_step * config.num_evals}), "cpu", 1)
    columns = [seconds_of_stages(config, device, runs) for runs in RUNS_AT_ONCE]
    print(f"{machine.name}, torch {torch.__version__}, {config.precision}: seconds, medians")
    print(f"{'runs at once':>24} {' '.join(f'{runs:7}' for runs in RUNS_AT_ONCE)}")
    for stage in columns[0]:
        print(f"{stage:>24} {' '.join(f'{statistics.median(column[stage]):7.2f}' for column in columns)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    main(arguments.device, changes_of(arguments.changes))
