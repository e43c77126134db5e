"""Law 12: a user's mistake is one line that names it, exit code 2, and nothing is written."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import Launcher
from stores import listing

from tinylm_core.machine import this_machine

HEAD = '"""Does it?"""\nfrom sweeps import Choice, Range, Sweep\nfrom tinylm_core import RunConfig\n'
ROOT = Path(__file__).parent.parent


@pytest.fixture
def files(tmp_path: Path, text_file: Path) -> Path:
    """A folder of experiments, good and bad, and of texts that can't be trained on."""
    folder = tmp_path / "files"
    folder.mkdir()
    base = f"RunConfig(data={str(text_file)!r}, tokenizer='char', max_seq_len=8, d_model=16, num_layers=1, num_heads=2"
    base += ", batch_size=4, train_tokens=96, num_evals=1, eval_tokens=64, precision='fp32'"
    experiments = {
        "good": f"SWEEP = Sweep(base={base}), space={{'dropout': Choice(0.0, 0.1)}})",
        "searching": f"SWEEP = Sweep(base={base}), space={{'dropout': Range(0.0, 0.1)}}, search='tpe', num_trials=2)",
        "raising": "def broken():\n    raise KeyError('lost')\n\nbroken()",
        "without": "sweep = 1",
        "unparsable": "SWEEP = Sweep(",
        "unknown": f"SWEEP = Sweep(base={base}), space={{'dropuot': Choice(0.0)}})",
        "endless": f"SWEEP = Sweep(base={base}), space={{'dropout': Range(0.0, 0.1)}})",
        "bad name": f"SWEEP = Sweep(base={base}), space={{}})",
    }
    for name, text in experiments.items():
        (folder / f"{name}.py").write_text(f"{HEAD}{text}\n")
    (folder / "empty.txt").write_text("")
    (folder / "undecodable.txt").write_bytes(b"fine \xff\xfe\x00 not")
    (folder / "short.txt").write_text("abcdabcd")
    (folder / "stranger.txt").write_text("abc " * 200 + "xyz" * 20)
    (folder / "ids.txt").write_text(" ".join(str(i % 50) for i in range(2000)))
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("mine")
    (folder / "file").write_text("not a folder")
    (folder / "taken").mkdir()
    (folder / "taken" / "mlflow.db").write_text("not a database")
    return folder


GOOD = "{files}/good.py"
SEARCHING = "{files}/searching.py"
MISTAKES = {
    "an unknown experiment": (["lr_warmpu"], "unknown experiment 'lr_warmpu'; did you mean lr_warmup?"),
    "an unknown file": (["{files}/none.py"], "no experiment file at"),
    "an unknown option": ([GOOD, "--sett", "a=1"], "No such option '--sett'"),
    "an unknown field": (
        [GOOD, "--set", "learning_rat=1"],
        "unknown field 'learning_rat'; did you mean learning_rate?",
    ),
    "an unknown swept field": (
        [GOOD, "--sweep", "dropuot=0,0.1"],
        "unknown field in the space 'dropuot'; did you mean",
    ),
    "a field in a space": (["{files}/unknown.py"], "unknown.py, line 4: unknown field in the space 'dropuot'"),
    "no value": ([GOOD, "--set", "dropout"], "'dropout' is not FIELD=VALUE"),
    "out of range": ([GOOD, "--set", "learning_rate=0"], "learning_rate='0': input should be greater than 0"),
    "ill-typed": ([GOOD, "--set", "d_model=wide"], "d_model='wide': input should be a valid integer"),
    "not one of": ([GOOD, "--set", "schedule=cosin"], "schedule='cosin': input should be 'cosine', 'linear'"),
    "not divisible": ([GOOD, "--set", "d_model=15"], "d_model=15 is not divisible by num_heads=2"),
    "not divisible in one setting": ([GOOD, "--sweep", "num_heads=2,3"], "(setting dropout=0 num_heads=3)"),
    "not divisible later": ([SEARCHING, "--sweep", "num_heads=1:3"], "d_model=16 is not divisible by num_heads=3"),
    "no file": ([GOOD, "--set", "data={files}/none.txt"], "none.txt"),
    "an empty file": ([GOOD, "--set", "data={files}/empty.txt"], "empty.txt': is empty"),
    "no text": ([GOOD, "--set", "data={files}/undecodable.txt"], "undecodable.txt'"),
    "a short text": ([GOOD, "--set", "data={files}/short.txt"], "short.txt': the training part has 7 tokens"),
    "a stranger": ([GOOD, "--set", "data={files}/stranger.txt"], "stranger.txt'"),
    "a token too many": (
        [GOOD, "--set", "data={files}/ids.txt", "--set", "tokenizer=ids", "--set", "vocab_size=40"],
        "has token ID 49, and vocab_size=40 allows IDs below that",
    ),
    "a budget": ([GOOD, "--set", "train_tokens=100"], "the nearest is train_tokens=96"),
    "a budget of some settings": ([GOOD, "--sweep", "gradient_accumulation_steps=1,4"], "nearest is train_tokens=128"),
    "a raising file": (["{files}/raising.py"], "raising.py, line 5: KeyError: 'lost'"),
    "a file without a sweep": (["{files}/without.py"], "without.py must define SWEEP = Sweep(…)"),
    "a file that does not parse": (
        ["{files}/unparsable.py"],
        "unparsable.py, line 4: SyntaxError: '(' was never closed",
    ),
    "a range without points": (["{files}/endless.py"], "endless.py, line 4: Range(0.0, 0.1) needs points=… for a grid"),
    "a file's name": (["{files}/bad name.py"], "sweep name 'bad name': allowed are"),
    "swept seeds": ([GOOD, "--sweep", "seed=0,1"], "seed is not swept; seeds=N"),
    "a range of batches": ([GOOD, "--sweep", "batch_size=1:8:2"], "batch_size decides the tokens per step"),
    "a range that is none": ([GOOD, "--sweep", "dropout=0.5:0.1:3"], "--sweep dropout: Range(0.5, 0.1)"),
    "a range of too many points": ([GOOD, "--sweep", "dropout=0:0.1:999999999"], "at most 100,000 points"),
    "set and swept": ([GOOD, "--set", "dropout=0", "--sweep", "dropout=0,0.1"], "dropout: both set and swept"),
    "the number of a grid": ([GOOD, "--num-trials", "3"], "num_trials=3: a grid has as many trials as cells"),
    "a search without a number": ([GOOD, "--search", "random"], "search='random' needs a number"),
    "no worker": ([GOOD, "--workers", "0"], "0 is not in the range x>=1"),
    "an unknown search": ([GOOD, "--search", "luck"], "unknown name 'luck'; known: grid, random, sobol, tpe"),
}
STORES = {
    "a folder of others": ("{files}/foreign", "the folder holds other files and no mlflow.db"),
    "a file": ("{files}/file", "is no folder"),
    "another database": ("{files}/taken", "mlflow.db was not made by MLflow"),
    "another scheme": ("sqlite:///mlflow.db", "must be a folder or http(s)://…"),
    "no host": ("http://", "the address names no host"),
}
VERBS = {
    "report of nothing": (["sweeps.report", "lr_warmup"], "no store at"),
    "reproduce of nothing": (["sweeps.reproduce", "0123456789abcdef"], "no store at"),
    "sample of nothing": (["sweeps.sample", "0123456789abcdef"], "no store at"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_nothing_is_written(
    launcher: Launcher, files: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    arguments = [argument.format(files=files) for argument in arguments]
    before = listing(tmp_path)
    result = launcher.run("sweeps.run", *arguments, "--store", tmp_path / "store", cwd=tmp_path)
    assert result.code == 2, result
    assert message in result.one_line
    assert listing(tmp_path) == before
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("store", "message"), STORES.values(), ids=STORES.keys())
def test_a_store_that_is_none_of_ours_is_left_alone(
    launcher: Launcher, files: Path, tmp_path: Path, store: str, message: str
) -> None:
    before = listing(tmp_path)
    result = launcher.run("sweeps.run", files / "good.py", "--store", store.format(files=files), cwd=tmp_path)
    assert result.code == 2, result
    assert message in result.one_line
    assert listing(tmp_path) == before


@pytest.mark.parametrize(("command", "message"), VERBS.values(), ids=VERBS.keys())
def test_a_verb_that_reads_makes_no_store(launcher: Launcher, tmp_path: Path, command: list[str], message: str) -> None:
    result = launcher.run(*command, "--store", tmp_path / "store", cwd=tmp_path)
    assert result.code == 2, result
    assert message in result.one_line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("verb", "run_id"), [("reproduce", "0123456789abcdef"), ("sample", "' OR 1=1 --")])
def test_a_run_id_that_is_none_is_told(launcher: Launcher, empty_store: Path, verb: str, run_id: str) -> None:
    result = launcher.run(f"sweeps.{verb}", run_id, "--store", empty_store)
    assert result.code == 2, result
    assert result.one_line.startswith(f"run ID {run_id!r}: ")


def test_a_report_of_an_unknown_sweep_is_refused(launcher: Launcher, empty_store: Path) -> None:
    result = launcher.run("sweeps.report", "lr_warmpu", "--store", empty_store)
    assert (result.code, result.one_line[:20]) == (2, "no sweep 'lr_warmpu'")
    assert not (empty_store / "work" / "lr_warmpu").exists()
    assert not (empty_store / "reports" / "lr_warmpu").exists()


@pytest.mark.skipif(this_machine("cpu").fast_fp16, reason="fp16 runs on this machine")
def test_fp16_is_refused_where_it_can_not_run(launcher: Launcher, files: Path, tmp_path: Path) -> None:
    result = launcher.run("sweeps.run", files / "good.py", "--set", "precision=fp16", "--store", tmp_path / "store")
    assert result.code == 2
    assert result.one_line.startswith("precision='fp16': cpu ")
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_can_not_be_written_is_refused(launcher: Launcher, files: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    result = launcher.run("sweeps.run", files / "good.py", "--store", locked / "store")
    assert (result.code, "is not writable" in result.one_line) == (2, True)


def test_a_store_where_none_can_be_made_is_refused(launcher: Launcher, files: Path) -> None:
    result = launcher.run("sweeps.run", files / "good.py", "--store", "/proc/nowhere/store")
    assert (result.code, result.err.count("\n")) == (2, 1), result


def test_an_address_in_the_environment_must_be_a_servers(launcher: Launcher, files: Path, tmp_path: Path) -> None:
    result = launcher.run(
        "sweeps.run", files / "good.py", cwd=tmp_path, env={"MLFLOW_TRACKING_URI": "sqlite:///mine.db"}
    )
    assert (result.code, result.one_line[:37]) == (2, "MLFLOW_TRACKING_URI=sqlite:///mine.db")
    assert {path.name for path in tmp_path.iterdir()} == {"files"}


@pytest.mark.slow  # MLflow tries again
def test_a_server_that_is_not_there_is_come_back_later(launcher: Launcher, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = launcher.run("sweeps.report", "lr_warmup", "--store", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert result.code == 75, result
    away = f"the tracker is away (http://127.0.0.1:{port}: Connection refused); nothing is lost"
    assert result.one_line.startswith(away)


# --- The same through `python -m`, as a user types it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweeps.run", "lr_warmpu"], "unknown experiment 'lr_warmpu'; did you mean lr_warmup?"),
        (["sweeps.run", "smoke", "--set", "d_modl=64"], "unknown field 'd_modl'; did you mean d_model?"),
        (["sweeps.reproduce", "0123456789abcdef"], "no store at"),
        pytest.param(
            ["sweeps.run", "smoke", "--set", "data=none.txt"], "data='none.txt'", marks=pytest.mark.slow
        ),
        pytest.param(["sweeps.run", "smoke", "--set", "train_tokens=1000"], "nearest is", marks=pytest.mark.slow),
        pytest.param(["sweeps.sample"], "Missing argument 'RUN_ID'", marks=pytest.mark.slow),
        pytest.param(["sweeps.report", "--store", "file:///x", "a"], "must be a folder", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_mistake_typed_by_hand_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sweeps: ")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_list_names_every_experiment_with_its_question(launcher: Launcher) -> None:
    result = launcher.run("sweeps.run", "--list")
    names = [line.split()[0] for line in result.out.splitlines()]
    assert names == sorted(path.stem for path in (ROOT / "experiments").glob("[!_]*.py"))
    assert all(line.endswith("?") for line in result.out.splitlines())
    assert (result.code, result.err) == (0, "")


def test_what_may_not_be_written_is_named_in_a_line() -> None:
    program = (
        "import click; from sweeps.terminal.command import run_command\n"
        "@click.command()\n"
        "def report(): raise PermissionError(13, 'Permission denied', '/shared/reports/trials.csv')\n"
        "run_command(report)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "no permission to write or read /shared/reports/trials.csv" in ended.stderr
