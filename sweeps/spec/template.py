"""The experiment file that is written for a text: model and tokens that fit its size. Leaves writing to the caller."""

import json
from dataclasses import dataclass
from pathlib import Path

from tinylm_core.config import RunConfig
from tinylm_core.corpus import load_corpus

SMALL_TEXT_BYTES = 200_000  # below, a vocabulary of byte pairs has too little to be learnt from
SMALL_TEXT_TOKENS = 200_000  # below, a model of half the width is wide enough
MOST_TOKENS = 327_680  # a run of this model takes some ten seconds a core
MOST_EPOCHS = 4
MOST_EVAL_TOKENS = 16_384
BATCH_SIZE = 8
NUM_EVALS = 8

FILE = '''"""Which learning rate, and how much warmup, does {title} want?

    python -m sweeps.run {file} --dry-run          # what it would run, and what that costs
    python -m sweeps.run {file}                    # {num_runs} runs

All fields with their units, bounds and defaults are in tinylm_core/config.py.
"""

from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(
        data={data},  # a UTF-8 text, a folder of them, or hf:NAME
        tokenizer="{tokenizer}",  # bpe, char (for a small text), byte (for any text) or ids (token files)
        max_seq_len={max_seq_len},  # context, in tokens
        d_model={d_model},  # width; twice as wide takes up to four times as long
        num_layers={num_layers},  # blocks; twice as many take twice as long
        num_heads=4,  # must divide d_model
        dropout=0.1,  # 0 where a run sees its text once, more where it sees it often
        batch_size={batch_size},  # sequences at a time
        # {epochs:.1f} epochs of {num_train:,} training tokens. It must be a multiple of
        # num_evals x batch_size x max_seq_len = {unit:,}; sweeps.run names the nearest.
        train_tokens={train_tokens:_},
        num_evals={num_evals},  # evaluations on the way, evenly spaced
        eval_tokens={eval_tokens},  # of the {num_val:,} validation tokens an evaluation measures; None = all
    ),
    space={{
        # Each field listed here is varied: Choice(…) lists values; Range(1e-4, 1e-2, log=True), all between,
        # is for the other searches. Any field may be, e.g. "weight_decay": Choice(0.0, 0.1).
        "learning_rate": Choice(3e-4, 1e-3, 3e-3),  # the peak
        "warmup_ratio": Choice(0.0, 0.1),  # share of the steps in which the rate rises to it
    }},
    search="grid",  # every combination; or "random", "sobol" or "tpe" with num_trials=20
    seeds={seeds},  # runs a setting; more of them tell smaller differences apart
)
'''

NUM_SETTINGS = 6
SEEDS = 2


@dataclass(frozen=True)
class Size:
    """What suits a text."""

    tokenizer: str
    num_train: int  # tokens of the training part
    num_val: int
    max_seq_len: int
    d_model: int
    num_layers: int
    train_tokens: int
    eval_tokens: int | None

    @property
    def unit(self) -> int:
        """What `train_tokens` must be a multiple of."""
        return NUM_EVALS * BATCH_SIZE * self.max_seq_len


def fitting_size(data: str) -> Size:
    """Model and budget for a text. ValueError where it can't be read or is too short for a sweep."""
    tokenizer = fitting_tokenizer(data)
    corpus = load_corpus(RunConfig(data=data, tokenizer=tokenizer))
    num_train, num_val = len(corpus.train), len(corpus.val)
    lengths = [n for n in (128, 64, 32, 16, 8) if NUM_EVALS * BATCH_SIZE * n <= num_train and 4 * n < num_val]
    if not lengths:
        raise ValueError(
            f"data={data!r}: is too short for a sweep, with {num_train:,} training and {num_val:,} validation tokens; "
            f"it takes {NUM_EVALS * BATCH_SIZE * 8} and 33"
        )
    unit = NUM_EVALS * BATCH_SIZE * lengths[0]
    is_small = num_train < SMALL_TEXT_TOKENS
    return Size(
        tokenizer=tokenizer,
        num_train=num_train,
        num_val=num_val,
        max_seq_len=lengths[0],
        d_model=64 if is_small else 128,
        num_layers=2 if is_small else 4,
        train_tokens=min(MOST_TOKENS, MOST_EPOCHS * num_train) // unit * unit,
        eval_tokens=MOST_EVAL_TOKENS if num_val > MOST_EVAL_TOKENS else None,
    )


def fitting_tokenizer(data: str) -> str:
    """The tokenizer that suits a corpus; of a small text characters, bytes where its end has some that are new."""
    path = Path(data).expanduser()
    if data == "random" or path.suffix.lower() in (".bin", ".npy") or (path / "train.bin").is_file():
        return "ids"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    if not files or sum(file.stat().st_size for file in files) >= SMALL_TEXT_BYTES:
        return "bpe"
    try:
        load_corpus(RunConfig(data=data, tokenizer="char"))
    except ValueError as error:
        if "tokenizer=byte" in str(error):
            return "byte"
        raise
    return "char"


def experiment_text(file: Path, data: str, size: Size) -> str:
    """The file's content. A path is written in full, so that it is found from any folder."""
    path = Path(data).expanduser()
    title = path.name if path.name.isprintable() and not set(path.name) & {'"', "\\"} else "this text"
    return FILE.format(
        title=title,
        file=file.name,
        num_runs=NUM_SETTINGS * SEEDS,
        data=json.dumps(str(path.absolute()) if path.exists() else data, ensure_ascii=False),
        tokenizer=size.tokenizer,
        max_seq_len=size.max_seq_len,
        d_model=size.d_model,
        num_layers=size.num_layers,
        batch_size=BATCH_SIZE,
        epochs=size.train_tokens / size.num_train,
        num_train=size.num_train,
        unit=size.unit,
        train_tokens=size.train_tokens,
        num_evals=NUM_EVALS,
        eval_tokens="None" if size.eval_tokens is None else f"{size.eval_tokens:_}",
        num_val=size.num_val,
        seeds=SEEDS,
    )
