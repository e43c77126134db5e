"""The lines of the live view fit any terminal, and say first what matters."""

import io
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from sweeps.terminal.screen import rows_after_reflow, screen, status_line
from sweeps.terminal.summary import frame_table
from sweeps.terminal.table import GAP, Row, alike_in_all, fitting, said_once

STATUS = ["12/108 runs (1 failed)", "3 min left", "41,200 tokens/s"]
TROUBLE = "records wait for the tracker: https://tracking.example.org/a/very/long/address says 503, as it often does"


def row(name: str = "t007 lr=3e-4 warmup=0.1 decay=0.01 accum=4 dropout=0.1 seed=1") -> Row:
    return {
        "run": name,
        "step": "1,200/10,000",
        "train loss": "3.1416",
        "val loss": "3.2718",
        "learning rate": "2.97e-4",
        "tokens/s": "41,200",
    }


def drawn(width: int, height: int, rows: Sequence[Row], share: float = 0.4, trouble: Sequence[str] = ()) -> list[Text]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    return screen(console, (width, height), "lr_warmup: 54 trials, 108 runs, 3 known", rows, STATUS, share, trouble)


@given(
    width=st.integers(10, 250),
    height=st.integers(3, 60),
    num_rows=st.integers(0, 12),
    name=st.text(st.characters(exclude_categories=("C", "Z")), max_size=120),
    share=st.floats(0, 1),
    num_troubles=st.integers(0, 2),
)
def test_nothing_is_wider_or_higher_than_the_terminal_and_how_far_it_is_stays(
    width: int, height: int, num_rows: int, name: str, share: float, num_troubles: int
) -> None:
    lines = drawn(width, height, [row(name)] * num_rows, share, [TROUBLE] * num_troubles)
    assert len(lines) < height
    assert all(line.cell_len <= width and "\n" not in line.plain for line in lines)
    assert any(line.plain.startswith("12/108 run"[: width - 2]) for line in lines)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["run", "step", "train loss", "val loss", "learning rate", "tokens/s"]),
        (100, ["run", "step", "train loss", "val loss", "learning rate", "tokens/s"]),
        (80, ["run", "step", "train loss", "val loss", "tokens/s"]),
        (70, ["run", "step", "train loss", "val loss"]),
        (60, ["run", "step", "val loss"]),
        (40, ["run", "step"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_no_cut_numbers(width: int, columns: list[str]) -> None:
    _, header, line, _ = drawn(width, 24, [row()])
    for name in row():
        assert (name in header.plain) == (name in columns)
        if name != "run":
            assert (row()[name] in line.plain) == (name in columns)
    assert line.plain.startswith("t007 lr=3e-4")


def test_a_name_that_fits_is_not_cut_nor_followed_by_emptiness() -> None:
    _, header, line, _ = drawn(200, 24, [row("t000 base seed=0")])
    assert line.plain.startswith("t000 base seed=0  1,200/10,000  ")
    assert line.cell_len == header.cell_len < 80


def test_of_a_name_that_does_not_fit_the_seed_stays() -> None:
    *_, line, _ = drawn(60, 24, [row()])
    assert line.plain.startswith("t007 lr=3e-4 warmup=0.1 dec")
    assert "… seed=1  1,200/10,000  " in line.plain


def test_runs_that_a_low_terminal_has_no_room_for_are_counted() -> None:
    lines = [line.plain for line in drawn(100, 10, [row(f"t{index:03d}") for index in range(8)])]
    assert len(lines) == 9
    assert [line[:4] for line in lines[2:7]] == ["t000", "t001", "t002", "t003", "t004"]
    assert lines[7] == "… and 3 more"
    assert lines[8].startswith("12/108 runs")


def test_what_is_waited_for_is_said_in_full_where_there_is_room() -> None:
    said = " ".join(line.plain for line in drawn(60, 30, [row()], trouble=[TROUBLE])[-3:])
    assert said == TROUBLE


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (120, "12/108 runs (1 failed), 3 min left, 41,200 tokens/s ━"),
        (60, "12/108 runs (1 failed), 3 min left, 41,200 tokens/s  40%"),
        (45, "12/108 runs (1 failed), 3 min left  40%"),
        (30, "12/108 runs (1 failed)  40%"),
    ],
)
def test_the_time_left_stays_longer_than_the_pace(width: int, said: str) -> None:
    assert status_line(STATUS, 0.4, width).plain.startswith(said)


def test_lines_that_a_narrower_terminal_wraps_are_counted() -> None:
    assert rows_after_reflow([100, 100, 20, 0], 100) == 4
    assert rows_after_reflow([100, 100, 20, 0], 50) == 6
    assert rows_after_reflow([100, 101, 20], 50) == 6


@given(
    widths=st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 20)),
    long=st.integers(1, 100),
    width=st.integers(1, 200),
)
def test_columns_go_in_order_and_only_the_long_one_is_cut(widths: dict[str, int], long: int, width: int) -> None:
    spare = sorted(widths)
    fit = fitting(widths | {"long": long}, width, spare=spare, long="long")
    left = [name for name in spare if name in fit]
    assert left == spare[len(spare) - len(left) :]
    assert all(fit[name] == widths[name] for name in left)
    assert 1 <= fit["long"] <= long
    assert sum(fit.values()) + GAP * len(left) <= max(width, 1)


def test_what_is_alike_in_all_rows_goes_before_anything_is_cut_and_is_said_once() -> None:
    columns = {
        "setting": [f"lr=1e-3 decay={k} accum=4" for k in range(3)],
        "steps": ["128"] * 3,
        "batch": [f"{k} sequences" for k in range(3)],
    }
    assert alike_in_all(columns) == {"steps": "128"}
    assert alike_in_all({name: texts[:1] for name, texts in columns.items()}) == {}
    widths = {"setting": 23, "steps": 5, "batch": 11}
    wide = fitting(widths, 43, spare=["batch", "steps"], long="setting", alike=["steps"])
    assert (list(wide), said_once({"steps": "128"}, wide)) == (["setting", "steps", "batch"], "")
    narrow = fitting(widths, 42, spare=["batch", "steps"], long="setting", alike=["steps"])
    assert narrow == {"setting": 23, "batch": 11}
    assert said_once({"steps": "128"}, narrow) == "in all: steps = 128"


def test_a_leaderboard_of_80_columns_shows_whole_settings_before_what_all_have_in_common() -> None:
    setting = "lr=0.0195 decay=0.185 warmup=0.0391 accum={}"
    frame = pd.DataFrame(
        {
            "#": ["1", "2", "3"],
            "trial": ["t001", "t002", "t003"],
            "setting": [setting.format(k) for k in (1, 2, 4)],
            "validation loss": ["3.5023", "3.5032", "3.6"],
            "against the best": ["best", "unknown: too few seeds", "unknown: too few seeds"],
            "seeds": ["1/1"] * 3,
            "perplexity": ["33.19", "33.22", "36.60"],
            "gap": ["-0.0821", "-0.0898", "0.01"],
        }
    )
    console = Console(width=80)
    with console.capture() as shown:
        console.print(frame_table("Leaderboard", frame, 80))
    text = shown.get()
    for k in (1, 2, 4):
        assert setting.format(k) in text
    assert "(in all: seeds = 1/1, against the best = unknown: too few seeds)" in text
    assert text.count("unknown") == 1
    frame["against the best"] = ["best", "worse", "can't be told apart"]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(frame_table("Leaderboard", frame, 120))
    assert "can't be told apart" in shown.get()
