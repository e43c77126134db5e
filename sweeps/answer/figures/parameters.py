"""Final losses and gaps by what was swept: against one parameter, each parameter alone, and two together."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sweeps.analysis.effects import interesting_pairs, isolated, pair_table
from sweeps.analysis.results import Results
from sweeps.analysis.settings import is_sampled, unconditional, value_groups, where_varied
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import GREY, INK, End, styled
from sweeps.answer.figures.marks import absent, colour_note, counted_diverged, mark, outcomes, spread
from sweeps.answer.figures.scales import (
    LIGHTEST,
    ColourScale,
    ParameterAxis,
    key,
    num_values,
    panel_fields,
    parameter_panels,
    x_field,
)
from sweeps.spec.naming import short
from sweeps.spec.space import MAX_VALUES

PALE = "#c9c9c9"
CROWDED = 9  # more lines than this: points only
MANY_POINTS = 2000  # of more an SVG would be megabytes of circles: they are drawn as an image
MOST_HEAT_MAPS = 3
MOST_MAP_CELLS = 64


@styled
def final_loss(results: Results) -> Figure:
    """Final loss against the learning rate, or the swept number with most values; one line a value of the rest."""
    title, plan, runs, complete = "Final validation loss", results.plan, results.runs, results.complete
    if complete.empty:
        return canvas.message(f"{title} against a parameter: no run has completed. {outcomes(runs)}")
    field = x_field(plan)
    others = [other for other in plan.swept if other != field]
    by_colour = [other for other in unconditional(plan) if other != field]
    x_axis = ParameterAxis(plan, field)
    scale = ColourScale(plan, max(by_colour, key=lambda other: num_values(plan, other), default=None))
    figure = Figure(figsize=(7.5, 3.9), layout="constrained")
    axes = figure.subplots()
    x_axis.apply(axes)
    x, y = x_axis.position(complete), complete["objective"].astype(float)
    _points(axes, x, y, scale.colours(complete), size=20)

    rest = complete[others].map(short).agg(" ".join, axis=1) if others else complete["state"]
    joined = x_axis.discrete and rest.nunique() <= CROWDED
    ends = []
    for _, line in complete.groupby(rest) if joined else ():
        colour = scale.colour(line.iloc[0])
        means = line["objective"].astype(float).groupby(x[line.index]).mean()
        axes.plot(means.index, means.to_numpy(), color=colour, linewidth=1.4)
        ends.append(End(float(means.iloc[-1]), scale.label(line.iloc[0]), colour))
    pad = max(0.06 * float(y.max() - y.min()), 0.01)
    axes.set_ylim(float(y.min()) - pad, float(y.max()) + 2 * pad)

    diverged = runs[runs["state"] == "DIVERGED"]
    places = x_axis.shifted(x_axis.position(diverged), spread(diverged[field].map(short)))
    for place, colour in zip(places, scale.colours(diverged), strict=True):
        mark(axes, place, axes.get_ylim()[1], "DIVERGED", colour)
    best = results.board.head(1)
    axes.plot(x_axis.position(best), best["objective"], "o", markersize=12, markerfacecolor="none", color=INK)
    axes.set_ylabel("final validation loss (nats per token)")
    notes = ["point: a run", *["line: mean over seeds"] * joined, "ring: best setting", *colour_note(scale)]
    if len(diverged):
        notes.append(f"✖ at the top: diverged, counts as ln V = {results.worst_loss:.2f}")
    canvas.heading(figure, f"{title} against {canvas.words(field)}", notes + absent(runs))
    key(figure, [axes], [ends], scale)
    return figure


@styled
def gap_panels(results: Results) -> Figure:
    """Validation minus train loss at the end of each COMPLETE run, a panel a swept parameter."""
    title, plan, runs, complete = "Gap (validation loss minus train loss)", results.plan, results.runs, results.complete
    fields = panel_fields(plan)
    if complete.empty:
        return canvas.message(f"{title} by parameter: no run has completed. {outcomes(runs)}")
    figure, panels, left = parameter_panels(fields)
    for axes, field in zip(panels, fields, strict=True):
        drawn = where_varied(plan, complete, field)
        colours = ColourScale(plan, field).colours(drawn)
        x = _scattered(axes, ParameterAxis(plan, field), drawn, drawn["final_gap"], colours, size=16)
        groups = value_groups(plan, drawn, field)
        rows = results.gaps[results.gaps["parameter"] == field].set_index("value")
        for value in groups.cat.categories:
            inside = (groups == value).to_numpy()
            if inside.any():
                row = rows.loc[str(value)]
                half = (row["gap_high"] - row["gap_low"]) / 2
                error = 0.0 if np.isnan(half) else half
                at, wide = np.median(x[inside]), is_sampled(plan, field)
                axes.errorbar(at, row["gap"], error, fmt="" if wide else "_", color=INK, markersize=16, zorder=4)
                if wide:
                    axes.plot([x[inside].min(), x[inside].max()], [row["gap"]] * 2, color=INK, linewidth=1.4, zorder=4)
    for axes in left:
        axes.set_ylabel("gap (nats per token)")
    low, high = panels[0].get_ylim()
    if low < 0 < high:
        for axes in panels:
            axes.axhline(0, color=GREY, linewidth=0.8)
    binned = any(num_values(plan, field) > MAX_VALUES for field in fields)
    sampled = any(is_sampled(plan, field) for field in fields)
    part = "quarter" if len(plan.trials) >= MAX_VALUES else "half"
    where = f"there, of a range in each {part} of the settings" if sampled else "in each quarter" if binned else "there"
    notes = ["point: a run", f"bar: mean, 95 % interval over the runs {where}"]
    num_diverged = int((runs["state"] == "DIVERGED").sum())
    notes += [f"{num_diverged} diverged: no gap"] if num_diverged else []
    canvas.heading(figure, f"{title} by parameter", notes + absent(runs))
    return figure


@styled
def isolation(results: Results) -> Figure:
    """The best setting at each value of a parameter, whatever the others are, a panel a swept parameter."""
    title, plan, board = "Best loss at each value, the other parameters tuned", results.plan, results.board
    fields = panel_fields(plan)
    done = board[board["objective"].notna()]
    if done.empty:
        return canvas.message(f"{title}: no run has finished. {outcomes(results.runs)}")
    figure, panels, left = parameter_panels(fields)
    for axes, field in zip(panels, fields, strict=True):
        x_axis = ParameterAxis(plan, field)
        drawn = where_varied(plan, done, field)
        _scattered(axes, x_axis, drawn, drawn["objective"], [PALE] * len(drawn), size=9)
        best = isolated(plan, board, field)
        places = x_axis.position(best)
        errors = best["standard_error"].fillna(0).astype(float)
        axes.plot(places, best["objective"], color=GREY, linewidth=1, zorder=2)
        axes.errorbar(places, best["objective"], errors, fmt="none", ecolor=INK, elinewidth=1, zorder=3)
        axes.scatter(places, best["objective"], s=34, c=ColourScale(plan, field).colours(best), zorder=4, linewidths=0)
    low, high = float(done["objective"].min()), float(done["objective"].quantile(0.75))
    pad = max(0.08 * (high - low), 0.005)
    panels[0].set_ylim(low - pad, high + pad)  # the worse quarter is not what is asked here
    for axes in left:
        axes.set_ylabel("final validation loss (nats per token)")
    notes = [
        "large: the best setting at that value, ± standard error over seeds",
        "grey: the others, the best three quarters",
    ]
    canvas.heading(figure, title, notes + counted_diverged(results.runs, results.worst_loss) + absent(results.runs))
    return figure


@styled
def heat_maps(results: Results) -> Figure:
    """Mean final loss at each pair of values of two parameters, those first that interact most."""
    title, plan, board = "Mean final validation loss of two parameters together", results.plan, results.board
    pairs = interesting_pairs(plan, results.decomposition)[:MOST_HEAT_MAPS]
    if board["objective"].notna().sum() == 0:
        return canvas.message(f"{title}: no run has finished. {outcomes(results.runs)}")
    tables = [pair_table(plan, board, pair) for pair in pairs]
    low = min(float(np.nanmin(table.to_numpy(dtype=float))) for table in tables)
    high = max(float(np.nanquantile(table.to_numpy(dtype=float), 0.9)) for table in tables)
    high = high if high > low else low + 1e-3
    figure = Figure(figsize=(max(6.5, 3.8 * len(pairs)), 3.3), layout="constrained")
    panels = list(figure.subplots(1, len(pairs), squeeze=False).flat)
    for axes, table, (first, second) in zip(panels, tables, pairs, strict=True):
        _heat_map(axes, table, low, high)
        axes.set_xlabel(canvas.words(second))
        axes.set_ylabel(canvas.words(first))
    notes = [
        "nats per token, darker is better",
        "averaged over seeds and the other parameters",
        "ring: best of the panel",
    ]
    canvas.heading(figure, title, notes + counted_diverged(results.runs, results.worst_loss) + absent(results.runs))
    return figure


def _heat_map(axes: Axes, table: pd.DataFrame, low: float, high: float) -> None:
    values = table.to_numpy(dtype=float)
    axes.imshow(values, cmap="viridis", vmin=low, vmax=low + (high - low) / LIGHTEST, aspect="auto", origin="lower")
    axes.grid(visible=False)
    axes.set_xticks(range(table.shape[1]), [canvas.clipped(str(label)) for label in table.columns])
    axes.set_yticks(range(table.shape[0]), [canvas.clipped(str(label)) for label in table.index])
    if table.shape[1] > 4 or max(len(str(label)) for label in table.columns) > 6:
        axes.tick_params(axis="x", labelrotation=30)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if values.size <= MOST_MAP_CELLS:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                light = (value - low) / (high - low) < 0.6
                look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
                axes.text(column, row, f"{value:.3f}", color="white" if light else INK, **look)
    row, column = np.unravel_index(np.nanargmin(values), values.shape)
    corner = float(column) - 0.47, float(row) - 0.46
    axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor="white", linewidth=1.8))


def _scattered(
    axes: Axes, x_axis: ParameterAxis, rows: pd.DataFrame, y: pd.Series, colours: list[str], *, size: float
) -> NDArray[np.float64]:
    """A point a row against a parameter, equal values side by side; returns where they would be without that."""
    x_axis.apply(axes)
    x = x_axis.position(rows)
    _points(axes, x_axis.shifted(x, spread(rows[x_axis.field].map(short))), y.astype(float), colours, size=size)
    return x


def _points(axes: Axes, x: Any, y: Any, colours: list[str], *, size: float) -> None:
    axes.scatter(x, y, s=size, c=colours, alpha=0.7, linewidths=0, rasterized=len(y) > MANY_POINTS)
