"""Goal 1: a whole sweep, from the command to the report, against Optuna with a notebook's loop.

    python -m benchmarks.sweep_throughput [--rounds 3] [--work small|default]

Both train 8 learning rates on the same tokens with the same model and evaluate before and after; imports, set-up, every
step's rate and loss in MLflow on SQLite, and on our side the report too, are counted.
"""

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.measure import Goal, in_turn, text_file, timed
from tinylm_core import RunConfig
from tinylm_core.corpus import load_corpus

RATES = [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2]
EVAL_TOKENS = 8192
WORKS = {
    "default": {"d_model": 256, "max_seq_len": 128, "batch_size": 8, "steps": 100},
    "small": {"d_model": 128, "max_seq_len": 64, "batch_size": 12, "steps": 400},
}
TOKENIZERS = {"default": "bpe", "small": "char"}
GOALS = {"default": 4.0, "small": 3.0}
EXPERIMENT = '''"""Is the harness fast?"""
from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(base=RunConfig(**{base!r}), space={{"learning_rate": Choice(*{rates!r})}})
'''


def write_ids(tokenizer: str, folder: Path) -> tuple[Path, int]:
    """The corpus as token IDs, which both sides read, and its vocabulary."""
    config = RunConfig(data=str(text_file() or "python-docs"), tokenizer=tokenizer, vocab_size=None)
    corpus = load_corpus(config)
    path = folder / f"{tokenizer}.txt"
    if not path.exists():
        path.write_text(" ".join(map(str, itertools.chain(corpus.train, corpus.val))))
    return path, corpus.vocab_size


def compare(name: str, rounds: int, folder: Path) -> list[Goal]:
    """Measure one work on both sides."""
    work = WORKS[name]
    ids, vocab_size = write_ids(TOKENIZERS[name], folder)
    shape: dict[str, object] = {
        "num_layers": 4,
        "num_heads": 4,
        **{key: work[key] for key in ("d_model", "max_seq_len", "batch_size")},
    }
    tokens = work["batch_size"] * work["max_seq_len"] * work["steps"]
    base = shape | {
        "data": str(ids), "tokenizer": "ids", "vocab_size": vocab_size, "train_tokens": tokens, "num_evals": 1,
        "eval_tokens": EVAL_TOKENS,
    }  # fmt: skip
    (folder / f"{name}.py").write_text(EXPERIMENT.format(base=base, rates=RATES))
    theirs = shape | {
        "data": str(ids), "vocab_size": vocab_size, "steps": work["steps"], "num_evals": 1,
        "eval_tokens": EVAL_TOKENS, "learning_rates": RATES,
    }  # fmt: skip

    def sweep() -> float:
        shutil.rmtree(folder / "store", ignore_errors=True)
        return timed("-m", "sweeps.run", folder / f"{name}.py", "--store", folder / "store", cwd=folder)

    def notebook() -> float:
        shutil.rmtree(folder / "notebook", ignore_errors=True)
        (folder / "notebook").mkdir()
        return timed("-m", "benchmarks.notebook", json.dumps(theirs), folder / "notebook", cwd=folder)

    sweep()  # tokens into the cache, as any second sweep finds them
    seconds = in_turn({"sweep": sweep, "notebook": notebook}, rounds)
    all_tokens = tokens * len(RATES)
    sides = (f"{side} {taken:.1f} s = {all_tokens / taken:,.0f} tokens/s" for side, taken in seconds.items())
    print(f"{name}: {all_tokens:,} tokens; {', '.join(sides)}")
    return [Goal(f"1 sweep against notebook, {name}", seconds["notebook"] / seconds["sweep"], GOALS[name], "x")]


def main(works: list[str] | None = None, rounds: int = 3) -> list[Goal]:
    with tempfile.TemporaryDirectory() as folder:
        return [goal for name in works or WORKS for goal in compare(name, rounds, Path(folder))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=WORKS, action="append")
    arguments = parser.parse_args()
    for goal in main(arguments.work, arguments.rounds):
        print(goal)
