"""Settings that a search drew from ranges, each with values of its own: scatters, where a grid has lines and cells.

No mean over the other parameters is drawn, since a search tries most where it found the loss low: what stands out are
the settings themselves, the best quarter of them and the medians of quarters.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from sweeps.analysis.best_quarter import best_quarter
from sweeps.analysis.effects import interesting_pairs
from sweeps.analysis.results import Results
from sweeps.analysis.settings import value_groups, where_varied
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import GREY, INK, styled
from sweeps.answer.figures.marks import absent, mark, outcomes, spread
from sweeps.answer.figures.scales import LIGHTEST, ParameterAxis, panel_fields, parameter_panels
from sweeps.spec.naming import short
from sweeps.spec.space import MAX_VALUES

BEST, REST = "#31688e", "#bdbdbd"
MANY_POINTS = 2000  # of more an SVG would be megabytes of circles: they are drawn as an image
MOST_PAIRS = 3


@styled
def slices(results: Results) -> Figure:
    """Each setting's final loss against its value, a panel a swept parameter, with the median of each quarter."""
    title, board = "Final validation loss of each setting", results.board
    fields = panel_fields(results.plan)
    done = board[board["objective"].notna()]
    if done.empty:
        return canvas.message(f"{title}: no run has finished. {outcomes(results.runs)}")
    figure, panels, left = parameter_panels(fields)
    loss = done["objective"].astype(float)
    low, high = float(loss.min()), float(loss.quantile(0.75))
    pad = max(0.08 * (high - low), 0.005)
    low, high = low - pad, high + 2 * pad
    panels[0].set_ylim(low, high)  # the worst quarter would press the rest together
    above = loss > high
    is_best = done["trial"].isin(best_quarter(board)["trial"])
    medians_above = sum(
        _slice(axes, results, field, done, is_best, above) for axes, field in zip(panels, fields, strict=True)
    )
    for axes in left:
        axes.set_ylabel("final validation loss (nats per token)")
    notes = ["point: a setting, mean over seeds"] if len(results.plan.seeds) > 1 else ["point: a setting"]
    notes += ["blue: the best quarter"] * bool(is_best.any())
    part = "quarter" if len(results.plan.trials) >= MAX_VALUES else "half"
    notes += ["ring: the best", f"bar: median of the settings at that value or in that {part} of them"]
    if above.any():
        medians = f", and {medians_above} of the medians" if medians_above else ""
        notes.append(f"▲ at the top: {int(above.sum())} higher{medians}")
    if (done["state"] == "diverged").any():
        notes.append(f"✖ at the top: diverged, counts as ln V = {results.worst_loss:.2f}")
    canvas.heading(figure, f"{title} against each parameter", notes + absent(results.runs))
    return figure


def _slice(axes: Axes, results: Results, field: str, done: pd.DataFrame, is_best: pd.Series, above: pd.Series) -> int:
    """Draw a panel; returns how many medians lie above it."""
    x_axis = ParameterAxis(results.plan, field)
    x_axis.apply(axes)
    drawn = where_varied(results.plan, done, field)
    loss, top = drawn["objective"].astype(float), axes.get_ylim()[1]
    x = pd.Series(x_axis.position(drawn), index=drawn.index)
    beside = pd.Series(x_axis.shifted(x_axis.position(drawn), spread(drawn[field].map(short))), index=drawn.index)
    best, higher = is_best[drawn.index], above[drawn.index]
    diverged = drawn["state"] == "diverged"
    look: dict[str, Any] = {"linewidths": 0, "rasterized": len(drawn) > MANY_POINTS}
    inside = ~higher & ~diverged
    axes.scatter(beside[inside & ~best], loss[inside & ~best], s=14, color=REST, **look)
    axes.scatter(beside[inside & best], loss[inside & best], s=22, color=BEST, zorder=3, **look)
    up = beside[higher & ~diverged]
    axes.scatter(up, np.full(len(up), top), s=18, marker="^", color=REST, clip_on=False, **look)
    for place in beside[diverged]:
        mark(axes, float(place), top, "DIVERGED", REST)
    axes.plot(beside.iloc[:1], loss.iloc[:1], "o", markersize=10, markerfacecolor="none", color=INK, zorder=4)
    num_above = 0
    for _, group in loss.groupby(value_groups(results.plan, drawn, field), observed=True):
        ends = (float(x[group.index].min()), float(x[group.index].max()))
        median = float(group.median())
        num_above += median > top
        if median <= top and ends[0] < ends[1]:
            axes.plot(ends, [median] * 2, color=INK, linewidth=1.4, zorder=2)
        elif median <= top:
            axes.plot(ends[0], median, "_", color=INK, markersize=16, zorder=4)
    return num_above


@styled
def pairs(results: Results) -> Figure:
    """Each setting at its values of two parameters, coloured by its final loss; those first that interact most."""
    title, plan, board = "Final validation loss over two parameters", results.plan, results.board
    done = board[board["objective"].notna()]
    if done.empty:
        return canvas.message(f"{title}: no run has finished. {outcomes(results.runs)}")
    shown = interesting_pairs(plan, results.decomposition)[:MOST_PAIRS]
    loss = done["objective"].astype(float)
    low, high = float(loss.min()), float(loss.quantile(0.9))
    high = high if high > low else low + 1e-3
    viridis = ListedColormap(canvas.VIRIDIS(np.linspace(0, LIGHTEST, 256)))
    norm = Normalize(low, high, clip=True)
    figure = Figure(figsize=(max(6.5, 3.8 * len(shown) + 0.8), 3.3), layout="constrained")
    panels = list(figure.subplots(1, len(shown), squeeze=False).flat)
    worst_first = done[::-1]
    for axes, (first, second) in zip(panels, shown, strict=True):
        x_axis, y_axis = ParameterAxis(plan, second), ParameterAxis(plan, first)
        x_axis.apply(axes)
        y_axis.apply(axes, "y")
        # Beside one another only where both values are among few, as two choices' are.
        same = spread(worst_first[first].map(short) + " " + worst_first[second].map(short))
        x = x_axis.shifted(x_axis.position(worst_first), same)
        y = y_axis.position(worst_first)
        colours = viridis(norm(worst_first["objective"].to_numpy(dtype=np.float64)))
        axes.scatter(x, y, s=30, c=colours, linewidths=0, rasterized=len(x) > MANY_POINTS)
        for place in np.flatnonzero(worst_first["state"] == "diverged"):
            axes.plot(x[place], y[place], "x", color=INK, markersize=7)
        axes.plot(x[-1:], y[-1:], "o", markersize=11, markerfacecolor="none", color=INK)
    bar = figure.colorbar(ScalarMappable(norm, viridis), ax=panels, pad=0.01, aspect=30, extend="max")
    bar.set_label("nats per token", color=GREY)
    bar.outline.set_visible(False)
    notes = ["point: a setting, darker is better", "ring: the best"]
    notes += ["✖ diverged"] * bool((done["state"] == "diverged").any())
    canvas.heading(figure, title, notes + absent(results.runs))
    return figure
