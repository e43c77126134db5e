"""The figures of a sweep: plan and DataFrames in, matplotlib figures out.

One value of a swept parameter has one colour in all of them; each says in its heading what colour, line and marker
mean. What diverged, failed or hasn't run is marked or counted, never left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from sweeps import canvas, stats
from sweeps.canvas import GREY, INK, ColourScale, End, ParameterAxis, styled
from sweeps.space import short
from sweeps.stats import Plan

CROWDED = 9  # more settings than this in a panel: thin lines, no bands, train loss of the best one only
MAX_PANELS = 6
MARKERS = {"DIVERGED": "X", "FAILED": "s", "INTERRUPTED": "s", "RUNNING": ">"}
SIGNS = {"DIVERGED": "✖", "FAILED": "■", "INTERRUPTED": "■", "RUNNING": "▶"}
SCHEDULE_FIELDS = ("learning_rate", "warmup_ratio", "schedule", "min_lr_ratio", "decay_ratio", "train_tokens")


def save_figures(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame, folder: Path) -> list[str]:
    """Writes every figure of `FIGURES` as NAME.png (150 dpi) and NAME.svg into the folder; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, _) in FIGURES.items():
        figure = draw(plan, trials, history)
        with mpl.rc_context(canvas.STYLE):
            figure.savefig(folder / f"{name}.png", dpi=150)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return list(FIGURES)


@styled
def loss_curves(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Validation (solid) and train loss (dashed) over tokens, a panel a value of the second parameter."""
    return _curves(plan, trials, history, ["val_loss", "eval_train_loss"], "Loss over tokens", "loss (nats per token)")


@styled
def perplexity_curves(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Validation perplexity over tokens, log axis, with V, the perplexity of knowing nothing."""
    title = "Validation perplexity over tokens"
    return _curves(plan, trials, history, ["val_perplexity"], title, "validation perplexity")


@styled
def final_loss(plan: Plan, trials: pd.DataFrame, _history: pd.DataFrame) -> Figure:
    """Final loss against the learning rate, or the swept number with most values; one line a value of the rest."""
    title = "Final validation loss"
    runs = stats.planned_runs(plan, trials)
    complete = runs[runs["state"] == "COMPLETE"]
    if not plan["swept"]:
        return canvas.message(f"{title} against a parameter: nothing was swept.")
    if complete.empty:
        return canvas.message(f"{title} against a parameter: no run has completed. {_outcomes(runs)}")
    field = _x_field(plan)
    others = [other for other in plan["swept"] if other != field]
    x_axis = ParameterAxis(plan, field)
    scale = ColourScale(plan, max(others, key=lambda other: _num_values(plan, other), default=None))
    figure = Figure(figsize=(7.5, 3.9), layout="constrained")
    axes = figure.subplots()
    x_axis.apply(axes)

    lines = dict(iter(complete.groupby(complete[others].map(short).agg(" ".join, axis=1) if others else "state")))
    joined = x_axis.discrete and len(lines) <= CROWDED
    ends = []
    for line in lines.values():
        colour, x = scale.colour(line.iloc[0]), x_axis.position(line)
        axes.plot(x, line["objective"], "o", color=colour, markersize=4.5, alpha=0.7, markeredgewidth=0)
        means = line["objective"].astype(float).groupby(x).mean()
        if joined:
            axes.plot(means.index, means.to_numpy(), color=colour, linewidth=1.4)
            ends.append(End(float(means.iloc[-1]), scale.label(line.iloc[0]), colour))
    low, high = float(complete["objective"].min()), float(complete["objective"].max())
    pad = max(0.06 * (high - low), 0.01)
    axes.set_ylim(low - pad, high + 2 * pad)

    diverged = runs[runs["state"] == "DIVERGED"]
    places = x_axis.shifted(x_axis.position(diverged), _spread(diverged[field].map(short)))
    for x, (_, run) in zip(places, diverged.iterrows(), strict=True):
        _mark(axes, x, axes.get_ylim()[1], "DIVERGED", scale.colour(run))
    best = stats.leaderboard(plan, trials).head(1)
    axes.plot(x_axis.position(best), best["objective"], "o", markersize=12, markerfacecolor="none", color=INK)
    axes.set_ylabel("final validation loss (nats per token)")
    notes = ["point: a run", *["line: mean over seeds"] * joined, "ring: best setting", *_colour_note(scale)]
    if len(diverged):
        notes.append(f"✖ at the top: diverged, counts as ln V = {stats.worst_loss(trials):.2f}")
    canvas.heading(figure, f"{title} against {canvas.words(field)}", notes + _absent(runs))
    canvas.key(figure, [axes], [ends], scale)
    return figure


@styled
def gap_panels(plan: Plan, trials: pd.DataFrame, _history: pd.DataFrame) -> Figure:
    """Validation minus train loss at the end of each COMPLETE run, a panel a swept parameter."""
    title = "Gap (validation loss minus train loss) by parameter"
    runs = stats.planned_runs(plan, trials)
    complete = runs[runs["state"] == "COMPLETE"].reset_index(drop=True)
    fields = sorted(plan["swept"], key=lambda field: -_num_values(plan, field))[:MAX_PANELS]
    if not fields:
        return canvas.message(f"{title}: nothing was swept.")
    if complete.empty:
        return canvas.message(f"{title}: no run has completed. {_outcomes(runs)}")
    width = 9.5 if len(fields) > 1 else 6
    figure, panels, left = canvas.panel_grid(len(fields), 3, width=width, height=3, share=False)
    for axes, field in zip(panels, fields, strict=True):
        x_axis, scale = ParameterAxis(plan, field), ColourScale(plan, field)
        x_axis.apply(axes)
        x = x_axis.position(complete)
        colours = [scale.colour(run) for _, run in complete.iterrows()]
        moved = x_axis.shifted(x, _spread(complete[field].map(short)))
        axes.scatter(moved, complete["final_gap"].astype(float), s=16, c=colours, alpha=0.7, linewidths=0)
        groups = stats.value_groups(plan, complete, field)
        for value in groups.cat.categories:
            inside = (groups == value).to_numpy()
            if inside.any():
                gap = complete.loc[inside, "final_gap"].astype(float)
                error = gap.sem() if len(gap) > 1 else 0.0
                axes.errorbar(np.median(x[inside]), gap.mean(), error, fmt="_", color=INK, markersize=16, zorder=4)
    for axes in left:
        axes.set_ylabel("gap (nats per token)")
    low, high = panels[0].get_ylim()
    if low < 0 < high:
        for axes in panels:
            axes.axhline(0, color=GREY, linewidth=0.8)
    binned = any(_num_values(plan, field) > stats.MAX_VALUES for field in fields)
    notes = ["point: a run", f"bar: mean ± standard error over the runs {'in each quarter' if binned else 'there'}"]
    num_diverged = int((runs["state"] == "DIVERGED").sum())
    notes += [f"{num_diverged} diverged: no gap"] if num_diverged else []
    canvas.heading(figure, title, notes + _absent(runs))
    return figure


@styled
def schedules(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """The learning rate each step used over tokens, a line a distinct schedule, a dot where its warmup ends."""
    title = "Learning-rate schedules"
    rates = history[history["train_learning_rate"].notna()].sort_values("step")
    curves = dict(iter(rates.groupby("run_id")))
    runs = stats.planned_runs(plan, trials)
    runs = runs[runs["run_id"].isin(list(curves))]
    if runs.empty:
        return canvas.message(f"{title}: no run has taken a step yet.")
    num_steps = runs["run_id"].map({run_id: len(curve) for run_id, curve in curves.items()})
    distinct = [field for field in SCHEDULE_FIELDS if field in runs]
    runs = runs.assign(_steps=num_steps).sort_values("_steps", ascending=False, kind="stable")
    runs = runs.drop_duplicates(distinct).sort_values("trial")
    swept = [field for field in distinct if field in plan["swept"]]
    scale = ColourScale(plan, _colour_field(plan) if _colour_field(plan) in swept else next(iter(swept), None))
    runs = runs.assign(_colour=[scale.colour(run) for _, run in runs.iterrows()])
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    ends = []
    for _, run in runs.iterrows():
        curve, colour = curves[run["run_id"]], run["_colour"]
        thinned = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 200).astype(int))]
        tokens = thinned["step"] * _tokens_per_step(run)
        width = 1.4 if len(runs) <= CROWDED else 0.8
        axes.plot(tokens, thinned["train_learning_rate"], color=colour, linewidth=width, alpha=0.85)
        warmup = curve[curve["step"] == _warmup_steps(run)]
        axes.plot(
            warmup["step"] * _tokens_per_step(run), warmup["train_learning_rate"], "o", color=colour, markersize=4
        )
        if run["_steps"] == runs.loc[runs["_colour"] == colour, "_steps"].max():
            ends.append(End(float(curve["train_learning_rate"].iloc[-1]), scale.label(run), colour))
    if "learning_rate" in swept and canvas.is_log(plan, "learning_rate"):
        values = stats.ordered_values(plan, "learning_rate")
        axes.set_ylim(values[0] / 40, values[-1] * 1.5)
        canvas.log_y_axis(axes, values if len(values) <= stats.MAX_VALUES else None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    canvas.token_axis(axes)
    axes.set_ylabel("learning rate")
    count = f"{len(runs)} different ones" if len(runs) > 1 else "one for all runs"
    canvas.heading(figure, title, [count, "dot: end of the warmup", *_colour_note(scale)])
    canvas.key(figure, [axes], [ends], scale)
    return figure


FIGURES: dict[str, tuple[Callable[[Plan, pd.DataFrame, pd.DataFrame], Figure], str]] = {
    "loss": (loss_curves, "Validation and train loss over training tokens, both measured with dropout off."),
    "perplexity": (perplexity_curves, "Validation perplexity over training tokens, on a log axis."),
    "final_loss": (final_loss, "Final validation loss of every run against the parameter that spans most."),
    "gap": (gap_panels, "How far validation loss ends above train loss, by each swept parameter."),
    "schedule": (schedules, "The learning rate of every step, a line a distinct schedule."),
}


def _curves(
    plan: Plan, trials: pd.DataFrame, history: pd.DataFrame, columns: Sequence[str], title: str, y_label: str
) -> Figure:
    runs = stats.planned_runs(plan, trials)
    evals = stats.evaluations(trials, history)
    curves = {run_id: curve for run_id, curve in evals.groupby("run_id") if run_id in set(runs["run_id"].dropna())}
    drawn = runs[runs["run_id"].isin(list(curves))]
    if drawn.empty:
        return canvas.message(f"{title}: no run has been evaluated yet.")
    scale, facet = ColourScale(plan, _colour_field(plan)), _facet_field(plan)
    groups = stats.value_groups(plan, drawn, facet).astype(str) if facet else drawn["label"].map(lambda _: "")
    values = [v for v in map(short, stats.ordered_values(plan, facet)) if (groups == v).any()] if facet else [""]
    crowded = max(drawn.loc[groups == value, "trial"].nunique() for value in values) > CROWDED
    best = stats.leaderboard(plan, trials).iloc[0]["trial"]
    width = 7.5 if len(values) == 1 else 10
    figure, panels, left = canvas.panel_grid(
        len(values), 4 if len(values) == 4 else 3, width=width, height=3.2, share=True
    )
    worst = stats.worst_loss(trials)
    limits = _limits(pd.concat(curves.values()), columns, worst)
    ends = []
    for axes, value in zip(panels, values, strict=True):
        axes.set_ylim(limits)
        if columns == ["val_perplexity"]:
            canvas.log_y_axis(axes)
            if not math.isnan(worst):
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
    notes += ["line: mean over seeds, band: their range"] * (len(plan["seeds"]) > 1 and not crowded)
    notes += ["thick: best setting"] * crowded
    diverged_all = " (every run diverged)" * bool((drawn["state"] == "DIVERGED").all())
    canvas.heading(figure, title + diverged_all, notes + _colour_note(scale) + _markers(drawn) + _absent(runs))
    canvas.key(figure, panels, ends, scale)
    return figure


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
        _mark(axes, float(curve["tokens"].iloc[-1]), last, run["state"], pen.colour)
        height = last if math.isnan(height) else height
    sign = "" if complete or not label else f" {SIGNS[setting['state'].iloc[-1]]}"
    return End(height, label + sign, pen.colour)


def _spread(values: pd.Series) -> NDArray[np.float64]:
    """Shares from -0.6 to 0.6, evenly over the rows of equal value."""
    rank, count = values.groupby(values).cumcount(), values.map(values.value_counts())
    return np.asarray(0.6 * (2 * (rank + 0.5) / count - 1), dtype=np.float64)


def _mark(axes: Axes, x: float, y: float, state: str, colour: str) -> None:
    style: dict[str, Any] = {
        "markersize": 7,
        "markeredgecolor": INK,
        "markeredgewidth": 0.6,
        "clip_on": False,
        "zorder": 5,
    }
    axes.plot(x, y, MARKERS[state], color=colour, **style)


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
    """From the lowest value to the highest after evaluation 0, where all start alike; diverging losses are cut off."""
    after = evals[evals["step"] > 0]
    values = (after if len(after) else evals)[list(columns)].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if columns == ["val_perplexity"]:
        return low / 1.08, 1.25 * (high if math.isnan(worst) else math.exp(worst))
    pad = max(0.03 * (high - low), 0.01)
    return low - pad, float(np.fmin(high, 1.01 * worst)) + pad


def _markers(runs: pd.DataFrame) -> list[str]:
    texts = {"DIVERGED": "✖ diverged", "RUNNING": "▶ still running"}
    notes = [text for state, text in texts.items() if (runs["state"] == state).any()]
    return notes + ["■ failed or interrupted"] * bool(runs["state"].isin(["FAILED", "INTERRUPTED"]).any())


def _absent(runs: pd.DataFrame) -> list[str]:
    missing = int((runs["state"] == "MISSING").sum())
    return [f"{missing} of {len(runs)} runs not started"] if missing else []


def _outcomes(runs: pd.DataFrame) -> str:
    counts = runs["state"].replace("MISSING", "not started").value_counts()
    return f"Of {len(runs)}: {', '.join(f'{count} {str(state).lower()}' for state, count in counts.items())}."


def _colour_note(scale: ColourScale) -> list[str]:
    return [f"colour: {canvas.words(scale.field)}"] if scale.field and len(scale.domain) > 1 else []


def _num_values(plan: Plan, field: str) -> int:
    return len(stats.ordered_values(plan, field))


def _colour_field(plan: Plan) -> str | None:
    if "learning_rate" in plan["swept"]:
        return "learning_rate"
    return max(plan["swept"], key=lambda field: _num_values(plan, field), default=None)


def _facet_field(plan: Plan) -> str | None:
    """The parameter beside the coloured one with most values, if it has few enough for a panel each."""
    others = [field for field in plan["swept"] if field != _colour_field(plan)]
    few = [field for field in others if 2 <= _num_values(plan, field) <= MAX_PANELS]
    return max(few, key=lambda field: _num_values(plan, field), default=None)


def _x_field(plan: Plan) -> str:
    if "learning_rate" in plan["swept"]:
        return "learning_rate"
    numeric = [field for field in plan["swept"] if canvas.is_number(stats.ordered_values(plan, field))]
    return str(max(numeric or plan["swept"], key=lambda field: _num_values(plan, field)))


def _tokens_per_step(run: pd.Series) -> int:
    return int(run["batch_size"]) * int(run["max_seq_len"]) * int(run["gradient_accumulation_steps"])


def _warmup_steps(run: pd.Series) -> int:
    num_steps = int(run["train_tokens"]) // _tokens_per_step(run)
    return math.ceil(Decimal(str(run["warmup_ratio"])) * num_steps)
