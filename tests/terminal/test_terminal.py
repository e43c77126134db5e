"""A sweep on a real terminal: nothing wraps, scrolls away or stays behind, and at the end the answer stands there."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launcher import Launcher, wait_until
from terminals import Terminal, terminal

EXPERIMENT = '''"""Does it fit?"""
from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(data={data!r}, tokenizer="char", max_seq_len=8, d_model=16, num_layers=2, num_heads=2, batch_size=4,
                   train_tokens={tokens}, num_evals=3, eval_tokens=256, precision="fp64"),
    space={{"learning_rate": Choice(1e-3, 3e-3), "warmup_ratio": Choice(0.0, 0.1), "weight_decay": Choice(0.1),
           "dropout": Choice(0.1), "min_lr_ratio": Choice(0.05)}},
    seeds=2,
)
'''
ROOT = Path(__file__).parents[2]
NUM_RUNS = 8
TITLE = "question: 4 trials, 8 runs"
RUN = re.compile(r"t00\d lr=")
STATUS = re.compile(r"\d/8 runs")
PICTURE = re.compile(r"question: .*\n(run .*\n(t00\d lr=.*\n)+)?(… and \d more\n)?\d/8 runs.*")


@pytest.fixture
def arguments(text_file: Path, tmp_path: Path) -> tuple[object, ...]:
    file = tmp_path / "question.py"
    file.write_text(EXPERIMENT.format(data=str(text_file), tokens=32 * 120))
    return (file, "--store", tmp_path / "store")


def live(shown: list[list[str]]) -> list[list[str]]:
    """Of the pictures those that end with the status of a live view, without blank lines."""
    pictures = [[line for line in picture if line] for picture in shown]
    return [picture for picture in pictures if picture and STATUS.match(picture[-1])]


def is_whole(picture: list[str], workers: int, height: int) -> bool:
    """A title, a header, a line a run, how many are left out, and the status, each once and in this order."""
    is_ordered = PICTURE.fullmatch("\n".join(picture)) is not None
    return is_ordered and sum(bool(RUN.match(line)) for line in picture) <= workers and len(picture) < height


def assert_only_the_answer_stays(screen: Terminal) -> None:
    """On the screen, not above it."""
    everything = screen.scrolled_away + screen.lines
    assert not [line for line in everything if STATUS.search(line) or line.startswith(TITLE)]
    assert any(line.startswith("Best of 4 settings is") for line in screen.lines)
    assert not screen.cursor_is_hidden


@pytest.mark.parametrize(
    ("columns", "lines", "workers", "no_color"),
    [
        (60, 10, 4, "1"),
        pytest.param(40, 10, 8, None, marks=pytest.mark.slow),
        pytest.param(200, 50, 2, None, marks=pytest.mark.slow),
    ],
)
def test_each_picture_is_whole_and_the_answer_alone_stays(
    launcher: Launcher, arguments: tuple[object, ...], columns: int, lines: int, workers: int, no_color: str | None
) -> None:
    with terminal(columns, lines) as screen:
        environment = {"TERM": "xterm-256color", "NO_COLOR": no_color}
        given = (*arguments, "--workers", workers)
        command = launcher.start("sweeps.run", *given, terminal=screen.path, env=environment)
        assert command.result().code == 0, screen.lines
        pictures = live(screen.shown)
        assert len(pictures) >= 3
        for picture in pictures:
            assert is_whole(picture, workers, lines), picture
        assert any(RUN.match(line) for picture in pictures for line in picture)
        assert_only_the_answer_stays(screen)
        if no_color:
            assert not screen.colours
        elif columns > 100:  # where there is room for a bar
            assert screen.colours


@pytest.mark.slow
def test_a_terminal_that_can_do_nothing_gets_lines(launcher: Launcher, arguments: tuple[object, ...]) -> None:
    with terminal(70, 40) as screen:
        command = launcher.start("sweeps.run", *arguments, terminal=screen.path, env={"TERM": "dumb"})
        assert command.result().code == 0
        everything = screen.scrolled_away + screen.lines
        assert everything[0] == TITLE
        assert sum("COMPLETE" in line for line in everything) == NUM_RUNS


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("tmux") is None, reason="needs tmux, which wraps what stands there as it gets narrower"
)
def test_a_window_that_changes_its_size_holds_one_view(arguments: tuple[object, ...], tmp_path: Path) -> None:
    def tmux(*words: object) -> str:
        socket = str(tmp_path / "tmux")
        done = subprocess.run(["tmux", "-S", socket, *map(str, words)], capture_output=True, text=True, check=True)
        return done.stdout

    def picture() -> list[str]:
        return [line for line in tmux("capture-pane", "-p").splitlines() if line]

    command = shlex.join(map(str, [sys.executable, "-m", "sweeps.run", *arguments, "--set", "train_tokens=768000"]))
    tmux("-f", "/dev/null", "new-session", "-d", "-x", 110, "-y", 30, f"cd {ROOT}; {command}; sleep 60")
    try:
        for columns, lines in [(110, 30), (50, 30), (110, 30), (50, 14), (110, 14)]:
            tmux("resize-window", "-x", columns, "-y", lines)
            wait_until(lambda: STATUS.match("".join(picture()[-1:])), 30)
            # One that is taken while it is drawn is not whole, but what a size left behind stays.
            time.sleep(1)
            wait_until(lambda: is_whole(picture(), 8, lines), 5)  # noqa: B023
    finally:
        tmux("send-keys", "C-c")
        wait_until(lambda: "paused" in tmux("capture-pane", "-p", "-S", "-"))
        tmux("kill-server")
