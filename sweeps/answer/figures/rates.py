"""The learning rate against the final loss, with the optimum's interval, for each value of the other parameters."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.analysis.rates import RATE
from sweeps.analysis.results import Results
from sweeps.analysis.settings import ordered_values
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import INK, End, styled
from sweeps.answer.figures.marks import absent, mark, outcomes, spread
from sweeps.answer.figures.scales import MAX_PANELS, ColourScale, ParameterAxis, num_values
from sweeps.spec.naming import short
from tinylm_core.records import RESULTS


@styled
def rate_panels(results: Results) -> Figure:
    """Final loss against the learning rate, a panel a further parameter with a line a value of it."""
    title, plan, table = "Learning rate", results.plan, results.rates
    if table.empty:
        return canvas.message(f"{title}: too few runs have finished. {outcomes(results.runs)}")
    fields = [field for field in dict.fromkeys(table["parameter"]) if field][:MAX_PANELS] or [""]
    width = 9.5 if len(fields) > 1 else 7.5
    figure, panels, left = canvas.panel_grid(len(fields), 2, width=width, height=3.4, share=False)
    done = results.runs[results.runs["state"].isin(RESULTS)].reset_index(drop=True)
    x_axis = ParameterAxis(plan, RATE)
    complete = done.loc[done["state"] == "COMPLETE", "objective"].astype(float)
    shown = complete if len(complete) else done["objective"].astype(float)
    low, high = float(shown.min()), float(shown.max())
    room = 0.05 * (high - low) + 0.005
    bars = max(len(table[table["parameter"] == field]) for field in fields)
    for axes, field in zip(panels, fields, strict=True):
        x_axis.apply(axes)
        axes.set_ylim(low - room * (1 + 0.8 * bars), high + room)
        rows = table[table["parameter"] == field]
        ends = _lines(axes, results, done, field, x_axis)
        _mark_diverged(axes, results, done, field, x_axis)
        _optima(axes, rows, results, low - room, 0.8 * room)
        if field:
            axes.set_title(f"by {canvas.words(field)}", loc="left")
            if num_values(plan, field) > 1:
                canvas.label_ends(axes, ends)
    for axes in left:
        axes.set_ylabel("final validation loss (nats per token)")
    num_others = len(plan.swept) - len({RATE, fields[0]} - {""})
    averaged = ", averaged over the other parameters" * (num_others > 0)
    by_rate = [f"point: a seed{averaged}", "line: mean over seeds"]
    notes = by_rate if x_axis.discrete else ["point: a run"]
    if table["optimum"].notna().any():
        notes.append("dot below: optimum by a parabola")
    if table[["optimum_low", "optimum_high"]].notna().any(axis=None):
        notes.append("bar below: where the optimum lies (95 %)")
    if (table["edge"] != "").any():
        notes.append("arrow below: the best rate is the last that was tried on that side")
    if (results.runs["state"] == "DIVERGED").any():
        notes.append(f"✖ at the top: diverged, counts as ln V = {results.worst_loss:.2f}")
    canvas.heading(figure, f"{title}: final validation loss against it", notes + absent(results.runs))
    return figure


def _lines(axes: Axes, results: Results, done: pd.DataFrame, field: str, x_axis: ParameterAxis) -> list[End]:
    plan = results.plan
    scale = ColourScale(plan, field or None)
    ends = []
    for value in ordered_values(plan, field) if field else [None]:
        mine = done[done[field].map(repr) == repr(value)] if field else done
        if mine.empty:
            continue
        colour = scale.colour({field: value}) if field else scale.colour({})
        loss = mine["objective"].astype(float)
        if x_axis.discrete:
            by_seed = loss.groupby([mine[RATE].map(float), mine["seed"]]).mean()
            means = by_seed.groupby(level=0).mean()
            axes.plot(by_seed.index.get_level_values(0), by_seed, "o", color=colour, markersize=3.5, alpha=0.6, mew=0)
            axes.plot(means.index, means.to_numpy(), color=colour, linewidth=1.4)
            ends.append(End(float(means.iloc[-1]), short(value) if field else "", colour))
        else:
            axes.scatter(mine[RATE].astype(float), loss, s=14, color=colour, alpha=0.7, linewidths=0)
            ends.append(
                End(float(loss.iloc[int(mine[RATE].astype(float).argmax())]), short(value) if field else "", colour)
            )
    return ends


def _mark_diverged(axes: Axes, results: Results, done: pd.DataFrame, field: str, x_axis: ParameterAxis) -> None:
    diverged = done[done["state"] == "DIVERGED"]
    scale = ColourScale(results.plan, field or None)
    places = x_axis.shifted(x_axis.position(diverged), spread(diverged[RATE].map(short)))
    for place, colour in zip(places, scale.colours(diverged), strict=True):
        mark(axes, place, axes.get_ylim()[1], "DIVERGED", colour)


def _optima(axes: Axes, rows: pd.DataFrame, results: Results, top: float, step: float) -> None:
    """A bar a row: the optimum's interval, on to the edge where it is open, with a dot, or an arrow at an end."""
    swept = [float(value) for value in ordered_values(results.plan, RATE)]
    margin = (swept[-1] / swept[0]) ** 0.08
    edges = swept[0] / margin, swept[-1] * margin
    axes.set_xlim(*edges)
    for number, (_, row) in enumerate(rows.iterrows()):
        height = top - number * step
        scale = ColourScale(results.plan, row["parameter"] or None)
        values = (
            {short(value): value for value in ordered_values(results.plan, row["parameter"])}
            if row["parameter"]
            else {}
        )
        colour = scale.colour({row["parameter"]: values[row["value"]]}) if values else INK
        between = [row["optimum_low"], row["optimum_high"]]
        if np.isfinite(between).any():
            bar = np.where(np.isfinite(between), between, edges)
            axes.plot(bar, [height] * 2, color=colour, linewidth=2.2, alpha=0.5, solid_capstyle="butt")
        if np.isfinite(row["optimum"]):
            axes.plot(row["optimum"], height, "o", color=colour, markersize=4.5)
        elif row["edge"]:
            marker = "<" if row["edge"] == "low" else ">"
            axes.plot(row["best_rate"], height, marker, color=colour, markersize=5)
