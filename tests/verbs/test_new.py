"""A written experiment file runs as it is, whatever the text, and nothing is ever overwritten."""

import random
from pathlib import Path

import numpy as np
import pytest
from launcher import Launcher, Result

from sweeps.plan.plan import make_plan
from sweeps.spec.catalog import load_experiment
from sweeps.spec.template import MOST_EPOCHS, experiment_text, fitting_size
from tinylm_core.machine import this_machine

WORDS = ["the", "cat", "sees", "a", "dog", "and", "no", "goat", "eats", "it"]


def text(num_characters: int, words: list[str] = WORDS) -> str:
    choose = random.Random(0).choice
    return " ".join(choose(words) for _ in range(num_characters // 2))[:num_characters]


def new(launcher: Launcher, folder: Path, *arguments: object) -> Result:
    return launcher.run("sweeps.new", *arguments, cwd=folder)


@pytest.mark.parametrize(
    ("num_characters", "tokenizer", "max_seq_len"),
    [(700, "char", 8), (3_000, "char", 32), (12_000, "char", 128), (150_000, "char", 128), (400_000, "bpe", 128)],
)
def test_the_file_suits_its_text(tmp_path: Path, num_characters: int, tokenizer: str, max_seq_len: int) -> None:
    data, file = tmp_path / "corpus.txt", tmp_path / "mine.py"
    data.write_text(text(num_characters))
    size = fitting_size(str(data))
    assert (size.tokenizer, size.max_seq_len) == (tokenizer, max_seq_len)
    file.write_text(experiment_text(file, str(data), size))
    experiment = load_experiment(str(file))
    assert experiment.question == "Which learning rate, and how much warmup, does corpus.txt want?"
    plan = make_plan(experiment, this_machine("cpu"))
    assert not plan.notes  # e.g. that two settings have the same schedule
    assert len(plan.known_trials()) * plan.sweep.seeds == 12
    base = plan.sweep.base
    assert base.train_tokens <= MOST_EPOCHS * size.num_train
    assert base.num_steps >= 8
    assert base.eval_tokens is None or base.eval_tokens <= size.num_val
    assert base.data == str(data)
    assert all(len(line) <= 120 for line in file.read_text().splitlines() if "data=" not in line)


def test_an_end_with_new_characters_takes_bytes_and_numbers_take_ids(tmp_path: Path) -> None:
    data = tmp_path / "corpus.txt"
    data.write_text(text(4_000) + "ß")
    assert fitting_size(str(data)).tokenizer == "byte"
    np.save(tmp_path / "ids.npy", np.arange(5_000, dtype=np.uint16) % 50)
    assert fitting_size(str(tmp_path / "ids.npy")).tokenizer == "ids"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part.txt").write_text(text(4_000))
    assert fitting_size(str(tmp_path / "folder")).tokenizer == "char"


@pytest.mark.slow
def test_a_written_file_is_planned_and_really_runs(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / 'my "text".txt').write_text(text(3_000))
    result = new(launcher, tmp_path, "my_sweep", "--data", 'my "text".txt')
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[1:] == [
        "What it would run and cost: python -m sweeps.run my_sweep.py --dry-run",
        "Run it: python -m sweeps.run my_sweep.py",
    ]
    dry = launcher.run("sweeps.run", "my_sweep.py", "--dry-run", cwd=tmp_path)
    assert (dry.code, dry.err) == (0, "")
    assert "6 trials x 2 seeds = 12 runs" in dry.out
    shorter = ["--set", "train_tokens=2048", "--set", "d_model=16", "--set", "learning_rate=1e-3", "--seeds", "1"]
    done = launcher.run("sweeps.run", "my_sweep.py", *shorter, "--workers", 2, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "[2/2]" in done.out


def test_nothing_is_overwritten(launcher: Launcher, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "mine.py").write_text("mine\n")
    for name in ("mine", "mine.py", tmp_path / "mine"):
        result = new(launcher, tmp_path, name, "--data", text_file)
        assert result.code == 2
        assert "mine.py is there already, and nothing is overwritten" in result.one_line
    assert (tmp_path / "mine.py").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine", "--data", "nowhere.txt"), "data='nowhere.txt': can't be read: No such file or directory"),
        (("mine", "--data", "short.txt"), "data='short.txt': is too short for a sweep, with 90 training and 10"),
        (("mine", "--data", "binary.txt"), "data='binary.txt': "),
        (("größe", "--data", "short.txt"), "sweep name 'größe': allowed are"),
        (("lr_warmup", "--data", "short.txt"), "lr_warmup is an included experiment; choose another name"),
        (("random", "--data", "long.txt"), "random is a Python module, which a file of that name would hide; choose"),
        (("optuna", "--data", "long.txt"), "optuna is a Python module"),
        (("no/mine", "--data", "short.txt"), "no is no folder"),
        (("mine",), "Missing option '--data'"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(
    launcher: Launcher, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "short.txt").write_text("ab" * 50)
    (tmp_path / "long.txt").write_text("the cat sees a dog. " * 2000)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00" * 1000)
    result = new(launcher, tmp_path, *arguments)
    assert result.code == 2
    assert result.one_line.startswith(message)
    assert not list(tmp_path.glob("*.py"))
