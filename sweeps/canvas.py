"""What all figures of a report share: style, one colour a value, parameter axes, direct labels, headings.

Knows matplotlib and the plan; knows no metric. No pyplot and no global state: style holds inside `styled` only.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from sweeps import stats
from sweeps.space import short
from sweeps.stats import Plan

INK, GREY = "#222222", "#6b6b6b"
LIGHTEST = 0.88  # viridis beyond it vanishes on white
LOG_RATIO = 8  # choices that span less are drawn on a linear axis
UNITS = {
    "warmup_ratio": "share of steps",
    "decay_ratio": "share of steps",
    "min_lr_ratio": "share of the peak",
    "val_ratio": "share of the text",
    "max_seq_len": "tokens",
    "stride": "tokens",
    "train_tokens": "tokens",
    "batch_size": "sequences",
    "gradient_accumulation_steps": "micro-batches a step",
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


class ColourScale:
    """viridis over the planned values of one swept field: by rank, or along a range with more than eight values."""

    def __init__(self, plan: Plan, field: str | None) -> None:
        self.field = field
        self.domain = stats.ordered_values(plan, field) if field else []
        self.continuous = len(self.domain) > stats.MAX_VALUES and is_number(self.domain)
        self._colours = mpl.colormaps["viridis"].resampled(256)
        self._ranks = {short(value): rank for rank, value in enumerate(self.domain)}
        self._norm = Normalize()
        if field and self.continuous:
            bounds = float(self.domain[0]), float(self.domain[-1])
            self._norm = LogNorm(*bounds) if is_log(plan, field) else Normalize(*bounds)

    def colour(self, setting: Mapping[str, Any] | pd.Series) -> str:
        """The colour of a setting, by its value of the field."""
        if not self.field or len(self.domain) < 2:
            share = 0.35
        elif self.continuous:
            share = float(self._norm(float(setting[self.field])))
        else:
            share = self._ranks[short(setting[self.field])] / (len(self.domain) - 1)
        return to_hex(self._colours(share * LIGHTEST))

    def label(self, setting: Mapping[str, Any] | pd.Series) -> str:
        """What a direct label says of a setting: its value of the field."""
        return short(setting[self.field]) if self.field else ""

    def colourbar(self, figure: Figure, panels: Sequence[Axes]) -> None:
        """The scale beside the panels, for a range too fine for labels."""
        shades = mpl.colors.ListedColormap(self._colours(np.linspace(0, LIGHTEST, 256)))
        bar = figure.colorbar(ScalarMappable(self._norm, shades), ax=list(panels), pad=0.01, aspect=30)
        if isinstance(self._norm, LogNorm):
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.set_label(axis_label(str(self.field)))
        bar.outline.set_visible(False)


class ParameterAxis:
    """A swept field as x: logarithmic or linear where its numbers are so spaced, else one position a value."""

    def __init__(self, plan: Plan, field: str) -> None:
        self.field = field
        self.domain = stats.ordered_values(plan, field)
        self.discrete = plan["search"] == "grid" or plan["space"][field]["kind"] == "choice"
        self.log = is_log(plan, field)
        numbers = np.array(self.domain, dtype=np.float64) if is_number(self.domain) else np.zeros(0)
        crammed = self.discrete and len(numbers) > 1 and np.diff(numbers).min() < 0.06 * np.ptp(numbers)
        self.ordinal = not len(numbers) or (crammed and not self.log)
        self._ranks = {short(value): rank for rank, value in enumerate(self.domain)}

    def position(self, settings: pd.DataFrame) -> NDArray[np.float64]:
        """Each setting's x."""
        column = settings[self.field]
        return np.array([self._ranks[short(v)] if self.ordinal else float(v) for v in column], dtype=np.float64)

    def shifted(self, x: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """x moved by shares (-1…1) of a twentieth of the axis, so that equal values don't hide one another."""
        if not self.discrete or len(self.domain) < 2:
            return x
        if self.log:
            return np.asarray(x * (self.domain[-1] / self.domain[0]) ** (shares / 20))
        span = len(self.domain) - 1 if self.ordinal else self.domain[-1] - self.domain[0]
        return np.asarray(x + shares * span / 20)

    def apply(self, axes: Axes) -> None:
        """Scale, ticks and label of `axes`' x."""
        if self.log and not self.ordinal:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        if self.ordinal or (self.discrete and len(self.domain) <= stats.MAX_VALUES):
            places = range(len(self.domain)) if self.ordinal else self.domain
            labels = [clipped(short(value)) for value in self.domain]
            axes.set_xticks(list(places), labels)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.margins(x=0.08)
        axes.set_xlabel(axis_label(self.field))


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
    width = int(figure.get_figwidth() * 16)
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


def key(figure: Figure, panels: Sequence[Axes], ends: Sequence[Sequence[End]], scale: ColourScale) -> None:
    """What each colour means: at the lines' ends, below the panels where the names are long, or as a colour bar.

    `ends[i]` are the ends of the lines in panel i, whose limits are set.
    """
    if not scale.field or len(scale.domain) < 2:
        return
    if scale.continuous:
        scale.colourbar(figure, panels)
        return
    longest = max(len(short(value)) for value in scale.domain)
    if len(scale.domain) > stats.MAX_VALUES or longest > (8 if len(panels) > 1 else 24):
        handles = [
            Line2D([], [], color=scale.colour({scale.field: value}), label=clipped(short(value), 40))
            for value in scale.domain
        ]
        title = words(scale.field)
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, title=title, alignment="left")
        return
    for axes, its_ends in zip(panels, ends, strict=True):
        label_ends(axes, its_ends)


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
        low, high, height = np.log(low), np.log(high), np.log(height)
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


def is_number(values: Sequence[Any]) -> bool:
    """Whether all are numbers (a bool is none)."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_log(plan: Plan, field: str) -> bool:
    """Whether a field's values are spaced logarithmically: as its range says, or choices over a factor of 8."""
    values = stats.ordered_values(plan, field)
    if not is_number(values) or min(values) <= 0:
        return False
    space = plan["space"][field]
    return bool(space["log"]) if space["kind"] == "range" else max(values) / min(values) >= LOG_RATIO


def words(field: str) -> str:
    """A field's name as people say it."""
    return field.replace("_", " ")


def axis_label(field: str) -> str:
    """A field's name with its unit."""
    return f"{words(field)} ({UNITS[field]})" if field in UNITS else words(field)


def clipped(text: str, most: int = 16) -> str:
    """A text at most so long, cut with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
