"""Loss and perplexity over training tokens: what happened on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.analysis.results import Results
from sweeps.analysis.settings import ordered_values, value_groups
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import CROWDED, GREY, MOST_SETTINGS, End, styled
from sweeps.answer.figures.marks import SIGNS, absent, colour_note, mark, markers
from sweeps.answer.figures.scales import ColourScale, colour_field, facet_field, key
from sweeps.spec.naming import short


@styled
def loss_curves(results: Results) -> Figure:
    """Validation (solid) and train loss (dashed) over tokens, a panel a value of the second parameter."""
    return _curves(results, ["val_loss", "eval_train_loss"], "Loss over tokens", "loss (nats per token)")


@styled
def perplexity_curves(results: Results) -> Figure:
    """Validation perplexity over tokens, log axis, with V, the perplexity of knowing nothing."""
    title = "Validation perplexity over tokens"
    return _curves(results, ["val_perplexity"], title, "validation perplexity")


def _curves(results: Results, columns: Sequence[str], title: str, y_label: str) -> Figure:
    plan, runs, evals = results.plan, results.runs, results.evals
    drawn = runs[runs["run_id"].isin(evals["run_id"])]
    if drawn.empty:
        return canvas.message(f"{title}: no run has been evaluated yet.")
    num_settings = drawn["trial"].nunique()
    drawn = drawn[drawn["trial"].isin(_drawn_trials(results))]
    curves = dict(iter(evals[evals["run_id"].isin(drawn["run_id"])].groupby("run_id")))
    scale, facet = ColourScale(plan, colour_field(plan)), facet_field(plan)
    groups = value_groups(plan, drawn, facet).astype(str) if facet else drawn["label"].map(lambda _: "")
    values = [v for v in map(short, ordered_values(plan, facet)) if (groups == v).any()] if facet else [""]
    crowded = max(drawn.loc[groups == value, "trial"].nunique() for value in values) > CROWDED
    best = results.board.iloc[0]["trial"]
    width = 7.5 if len(values) == 1 else 10
    figure, panels, left = canvas.panel_grid(
        len(values), 4 if len(values) == 4 else 3, width=width, height=3.2, share=True
    )
    worst = results.worst_loss
    limits = _limits(pd.concat(curves.values()), columns, worst)
    ends = []
    for axes, value in zip(panels, values, strict=True):
        axes.set_ylim(limits)
        if columns == ["val_perplexity"]:
            canvas.log_y_axis(axes)
            if limits[0] < math.exp(worst) < limits[1]:
                _reference(axes, math.exp(worst), named=axes is panels[0])
        if facet:
            axes.set_title(f"{canvas.words(facet)} {value}", loc="left")
        its_ends = []
        for trial, setting in drawn[groups == value].groupby("trial", sort=False):
            pen = Pen(scale.colour(setting.iloc[0]), thin=crowded and trial != best, bold=crowded and trial == best)
            label = scale.label(setting.iloc[0])
            its_ends.append(_draw_setting(axes, setting, curves, columns, pen, label))
        ends.append(its_ends)
    for axes in panels:
        canvas.token_axis(axes)
    for axes in left:
        axes.set_ylabel(y_label)
    notes = ["solid: validation", f"dashed: train{' (best setting only)' * crowded}"] * (len(columns) > 1)
    notes += ["line: mean over seeds, band: their range"] * (len(plan.seeds) > 1 and not crowded)
    notes += ["thick: best setting"] * crowded
    if num_settings > drawn["trial"].nunique():
        notes.append(f"{drawn['trial'].nunique()} of {num_settings:,} settings drawn")
    diverged_all = " (every run diverged)" * bool((drawn["state"] == "DIVERGED").all())
    canvas.heading(figure, title + diverged_all, notes + colour_note(scale) + markers(drawn) + absent(runs))
    key(figure, panels, ends, scale)
    return figure


def _drawn_trials(results: Results) -> list[int]:
    """All settings, or of many the best ones and an even sample of the others."""
    trials = [int(trial) for trial in results.board["trial"]]
    half = MOST_SETTINGS // 2
    if len(trials) <= MOST_SETTINGS:
        return trials
    return trials[:half] + [trials[place] for place in np.unique(np.linspace(half, len(trials) - 1, half).astype(int))]


@dataclass(frozen=True)
class Pen:
    """How a setting's lines are drawn."""

    colour: str
    thin: bool
    bold: bool


def _draw_setting(
    axes: Axes,
    setting: pd.DataFrame,
    curves: Mapping[Any, pd.DataFrame],
    columns: Sequence[str],
    pen: Pen,
    label: str,
) -> End:
    """A setting's COMPLETE runs as their mean and range, every other run by itself with a marker at its end."""
    complete = [curves[run_id] for run_id in setting.loc[setting["state"] == "COMPLETE", "run_id"]]
    width: dict[str, Any] = {
        "linewidth": 2.4 if pen.bold else 0.7 if pen.thin else 1.5,
        "alpha": 0.5 if pen.thin else 1,
    }
    height = float("nan")
    if complete:
        by_tokens = pd.concat(complete).groupby("tokens")
        for number, column in enumerate(columns):
            mean = by_tokens[column].mean()
            if number == 0:
                axes.plot(mean.index, mean.to_numpy(), color=pen.colour, zorder=3, **width)
                height = float(mean.iloc[-1])
                if len(complete) > 1 and not pen.thin:
                    lowest, highest = by_tokens[column].min(), by_tokens[column].max()
                    axes.fill_between(mean.index, lowest, highest, color=pen.colour, alpha=0.18, linewidth=0)
            elif not pen.thin:
                axes.plot(mean.index, mean.to_numpy(), "--", color=pen.colour, linewidth=1, dashes=(4, 2))
    low, high = axes.get_ylim()
    for _, run in setting[setting["state"] != "COMPLETE"].iterrows():
        curve = curves[run["run_id"]]
        axes.plot(curve["tokens"], curve[columns[0]], color=pen.colour, linewidth=0.8, alpha=0.8)
        last = float(np.clip(curve[columns[0]].iloc[-1], low, high))
        mark(axes, float(curve["tokens"].iloc[-1]), last, run["state"], pen.colour)
        height = last if math.isnan(height) else height
    sign = "" if complete or not label else f" {SIGNS[setting['state'].iloc[-1]]}"
    return End(height, label + sign, pen.colour)


def _reference(axes: Axes, vocab_size: float, *, named: bool) -> None:
    axes.axhline(vocab_size, color=GREY, linewidth=0.9, linestyle=":")
    if not named:
        return
    place: dict[str, Any] = {
        "xy": (1, vocab_size),
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
    }
    axes.annotate(
        f"V = {vocab_size:,.0f}: knows nothing", xytext=(-2, 3), ha="right", color=GREY, fontsize=7.5, **place
    )


def _limits(evals: pd.DataFrame, columns: Sequence[str], worst: float) -> tuple[float, float]:
    """From the lowest value to the highest after evaluation 0, where all start alike; diverging losses are cut off.

    Where nothing is better than chance all of it is shown.
    """
    after = evals[evals["step"] > 0]
    values = (after if len(after) else evals)[list(columns)].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):  # a perplexity that overflows
        return 1.0, 1.25 * math.exp(worst)
    low, high = float(values.min()), float(values.max())
    if columns == ["val_perplexity"]:
        return low / 1.08, 1.25 * (math.exp(worst) if low < math.exp(worst) else high)
    high = min(high, 1.01 * worst) if low < worst else high
    pad = max(0.03 * (high - low), 0.01, 1e-6 * abs(high))
    return low - pad, high + pad
