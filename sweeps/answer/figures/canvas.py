"""What all figures of a report share: style, panels, headings, direct labels.

Knows matplotlib; knows no plan and no metric. No pyplot and no global state: style holds inside `styled` only.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

INK, GREY = "#222222", "#6b6b6b"
UNITS = {
    "warmup_ratio": "share of steps",
    "decay_ratio": "share of steps",
    "min_lr_ratio": "share of the peak",
    "val_ratio": "share of the text",
    "max_seq_len": "tokens",
    "stride": "tokens",
    "train_tokens": "tokens",
    "batch_size": "sequences",
    "gradient_accumulation_steps": "micro-batches",
}
STYLE: Any = {  # a string-keyed dict, which matplotlib's types take for literals only
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a value is a "$"
    "svg.hashsalt": "tinylm",  # the same figure is the same file
}

VIRIDIS = mpl.colormaps["viridis"]

CROWDED = 9  # more settings than this in a panel: thin lines, no bands, train loss of the best one only
MOST_SETTINGS = 120  # of more the best half of these is drawn, and the rest evenly from best to worst

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """The drawing function under the report's style."""

    @functools.wraps(draw)
    def under_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return under_style


@dataclass(frozen=True)
class End:
    """Where a line ends: its height in data, what it is called, its colour."""

    height: float
    label: str
    colour: str


def panel_grid(
    number: int, most_columns: int, *, width: float, height: float, share: bool
) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure, its panels in reading order, and those at the left edge; `share` shares x too, y always is."""
    num_columns = min(number, most_columns)
    num_rows = math.ceil(number / num_columns)
    figure = Figure(figsize=(width, height * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=share, sharey=True, squeeze=False)
    for unused in grid.flat[number:]:
        unused.set_visible(False)
    for axes in grid.flat[max(0, number - num_columns) : number]:
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:number]), list(grid[:, 0])


def heading(figure: Figure, title: str, notes: Iterable[str]) -> None:
    """The title, bold, over what colour, line and marker mean, wrapped to the figure."""
    width = int(figure.get_figwidth() * 14.5)
    lines: list[str] = []
    for note in notes:
        if lines and len(lines[-1]) + len(note) + 3 <= width:
            lines[-1] += f" · {note}"
        else:
            lines.append(note)
    line_height = 0.185  # inches
    room = line_height * (len(lines) + 1) + 0.1
    height = figure.get_figheight() + room
    figure.set_figheight(height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - room / height))
    for number, line in enumerate([title, *lines]):
        look: dict[str, Any] = {"color": GREY} if number else {"fontweight": "bold", "fontsize": 9.5}
        figure.text(0.06 / figure.get_figwidth(), 1 - (0.08 + number * line_height) / height, line, va="top", **look)


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(7.5, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=10, wrap=True)
    return figure


def label_ends(axes: Axes, ends: Sequence[End], *, least_distance: float = 0.055) -> None:
    """Each distinct label once, right of the axes at its lines' mean height, moved apart where they would touch."""
    by_label: dict[tuple[str, str], list[float]] = {}
    for end in ends:
        by_label.setdefault((end.label, end.colour), []).append(_height_share(axes, end.height))
    names = sorted(by_label, key=lambda name: float(np.mean(by_label[name])))
    wanted = np.array([np.mean(by_label[name]) for name in names])
    for (label, colour), height in zip(names, _apart(wanted, least_distance), strict=True):
        axes.text(1.015, height, clipped(label), color=colour, transform=axes.transAxes, va="center", fontsize=8)


def _height_share(axes: Axes, height: float) -> float:
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        low, high, height = np.log(low), np.log(high), np.log(max(height, low))
    return float(np.clip((height - low) / (high - low), 0, 1))


def _apart(wanted: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """Heights (ascending) at least `distance` apart and near the wanted ones: least squares by pooling neighbours."""
    blocks: list[tuple[float, int]] = []  # (mean of wanted - rank * distance, members)
    for rank, height in enumerate(wanted):
        mean, members = float(height) - rank * distance, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, members = (mean * members + other * count) / (members + count), members + count
        blocks.append((mean, members))
    base = np.repeat([mean for mean, _ in blocks], [members for _, members in blocks])
    top = 1 - (len(wanted) - 1) * distance
    return np.asarray(np.clip(base, 0, max(0.0, top)) + distance * np.arange(len(wanted)))


def token_axis(axes: Axes) -> None:
    """x counts training tokens: 200k, 1M."""
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training tokens")
    axes.set_xlim(left=0)


def log_y_axis(axes: Axes, ticks: Sequence[float] | None = None) -> None:
    """y is logarithmic with plain numbers, at `ticks` or else close enough for a narrow range; limits are set."""
    low, high = axes.get_ylim()
    axes.set_yscale("log")
    subs = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    axes.yaxis.set_major_locator(FixedLocator(list(ticks)) if ticks else LogLocator(subs=subs, numticks=15))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def words(field: str) -> str:
    """A field's name as people say it."""
    return field.replace("_", " ")


def axis_label(field: str) -> str:
    """A field's name with its unit."""
    return f"{words(field)} ({UNITS[field]})" if field in UNITS else words(field)


def clipped(text: str, most: int = 16) -> str:
    """A text at most so long, cut with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
