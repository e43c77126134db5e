"""How a swept field is drawn: one colour a value through the whole report, and its place on an axis.

Knows matplotlib and the plan; knows no metric.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from sweeps.analysis.settings import is_log, is_number, is_sampled, ordered_values, unconditional
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import End
from sweeps.plan.record import PlanRecord
from sweeps.spec.naming import short
from sweeps.spec.space import MAX_VALUES, Choice

LIGHTEST = 0.8  # viridis beyond it vanishes on white
MAX_PANELS = 6
LONG_LABEL = 34  # characters, of a panel of four in a row


class ColourScale:
    """viridis over the planned values of one swept field: by rank, or along a range of more than eight."""

    def __init__(self, plan: PlanRecord, field: str | None) -> None:
        self.field = field
        self.domain = ordered_values(plan, field) if field else []
        many = len(self.domain) > MAX_VALUES or (bool(field) and is_sampled(plan, str(field)))
        self.continuous = len(self.domain) > 1 and many and is_number(self.domain)
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

    def colours(self, settings: pd.DataFrame) -> list[str]:
        """The colour of each row."""
        if not self.field:
            return [self.colour({})] * len(settings)
        if not self.continuous:
            return [self.colour({self.field: value}) for value in settings[self.field]]
        shades = self._colours(np.asarray(self._norm(settings[self.field].to_numpy(dtype=np.float64))) * LIGHTEST)
        return [to_hex(shade) for shade in shades]

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
        bar.set_label(canvas.axis_label(str(self.field)))
        bar.outline.set_visible(False)


class ParameterAxis:
    """A swept field as x: logarithmic or linear where its numbers are so spaced, else one position a value."""

    def __init__(self, plan: PlanRecord, field: str) -> None:
        self.field = field
        self.domain = ordered_values(plan, field)
        self.discrete = plan.search == "grid" or isinstance(plan.space[field], Choice)
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

    def apply(self, axes: Axes, side: Literal["x", "y"] = "x") -> None:
        """Scale, ticks and label of `axes`' x, or y."""
        axis = axes.xaxis if side == "x" else axes.yaxis
        if self.log and not self.ordinal:
            axes.set(**{f"{side}scale": "log"})
            axis.set_minor_locator(NullLocator())
            axis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        if self.ordinal or (self.discrete and len(self.domain) <= MAX_VALUES):
            places = range(len(self.domain)) if self.ordinal else self.domain
            labels = [canvas.clipped(short(value)) for value in self.domain]
            axis.set_ticks(list(places), labels)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
        axes.margins(x=0.08 if side == "x" else None, y=0.08 if side == "y" else None)
        label = canvas.axis_label(self.field)
        grid = axes.get_gridspec()
        narrow = grid is not None and grid.ncols > 3 and len(label) > LONG_LABEL
        axis.set_label_text(label.replace(" (", "\n(") if narrow else label)


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
    if len(scale.domain) > MAX_VALUES or longest > (8 if len(panels) > 1 else 24):
        handles = [
            Line2D([], [], color=scale.colour({scale.field: value}), label=canvas.clipped(short(value), 40))
            for value in scale.domain
        ]
        title = canvas.words(scale.field)
        figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, title=title, alignment="left")
        return
    for axes, its_ends in zip(panels, ends, strict=True):
        canvas.label_ends(axes, its_ends)


def num_values(plan: PlanRecord, field: str) -> int:
    """How many values of a field the plan has."""
    return len(ordered_values(plan, field))


def panel_fields(plan: PlanRecord) -> list[str]:
    """The swept fields that have a panel each where there is one a parameter: those with most values, first."""
    fields = [field for field in plan.swept if num_values(plan, field)]
    return sorted(fields, key=lambda field: -num_values(plan, field))[:MAX_PANELS]


def parameter_panels(fields: list[str]) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure with a panel a field: it, its panels, and those at the left."""
    columns, width = (4, 11.5) if len(fields) == 4 else (3, 9.5 if len(fields) > 1 else 6)
    return canvas.panel_grid(len(fields), columns, width=width, height=3, share=False)


def colour_field(plan: PlanRecord) -> str | None:
    """The field that colours tell: the learning rate where it is swept, else the one with most values."""
    if "learning_rate" in unconditional(plan):
        return "learning_rate"
    return max(unconditional(plan), key=lambda field: num_values(plan, field), default=None)


def facet_field(plan: PlanRecord) -> str | None:
    """The parameter beside the coloured one with most values, if it has few enough for a panel each."""
    others = [field for field in unconditional(plan) if field != colour_field(plan)]
    few = [field for field in others if 2 <= num_values(plan, field) <= MAX_PANELS and not is_sampled(plan, field)]
    return max(few, key=lambda field: num_values(plan, field), default=None)


def x_field(plan: PlanRecord) -> str:
    """The field that losses are drawn against: the learning rate, else the number with most values."""
    if "learning_rate" in unconditional(plan):
        return "learning_rate"
    numeric = [field for field in unconditional(plan) if is_number(ordered_values(plan, field))]
    return str(max(numeric or unconditional(plan), key=lambda field: num_values(plan, field)))
