"""Goal 5: how long a command takes to begin.

    python -m benchmarks.start [--rounds 5]

The first training step is taken from its own timestamp in MLflow; tokens are in the cache.
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Goal, in_turn, timed

GOALS = {"--help": 0.3, "--list": 0.3, "lr_warmup --dry-run": 3.0, "first training step": 6.0}
TRAIN = ("smoke", "--set", "train_tokens=65536", "--set", "num_evals=1")


def first_step(folder: Path) -> float:
    """Seconds from the command to the end of the first optimizer step of a new sweep in a new store."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    began = time.time()
    timed("-m", "sweeps.run", *TRAIN, "--store", folder / "store", cwd=folder)
    with closing(sqlite3.connect(folder / "store" / "mlflow.db")) as database:
        (first_ms,) = database.execute("SELECT min(timestamp) FROM metrics WHERE key = 'train/loss'").fetchone()
    return float(first_ms) / 1000 - began


def main(rounds: int = 5) -> list[Goal]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def command(text: str) -> Callable[[], float]:
            return lambda: timed("-m", "sweeps.run", *text.split(), cwd=folder)

        sides = {text: command(text) for text in list(GOALS)[:3]} | {"first training step": lambda: first_step(folder)}
        for side in sides.values():
            side()  # tokens and bytecode into their caches
        seconds = in_turn(sides, rounds)
    return [Goal(f"5 {name}", seconds[name], goal, "s", at_least=False) for name, goal in GOALS.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    for goal in main(parser.parse_args().rounds):
        print(goal)
