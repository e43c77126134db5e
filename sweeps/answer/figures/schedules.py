"""The learning rate over training tokens: every distinct schedule of a sweep."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sweeps.analysis.results import Results
from sweeps.analysis.settings import is_log, is_sampled, ordered_values, unconditional
from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import CROWDED, MOST_SETTINGS, End, styled
from sweeps.answer.figures.marks import colour_note
from sweeps.answer.figures.scales import ColourScale, colour_field, key
from sweeps.spec.naming import short
from sweeps.spec.space import MAX_VALUES
from tinylm_core.schedule import share_of_steps

SCHEDULE_FIELDS = ("learning_rate", "warmup_ratio", "schedule", "min_lr_ratio", "decay_ratio", "train_tokens")


@styled
def schedules(results: Results) -> Figure:
    """The learning rate each step used over tokens, a line a distinct schedule, a dot where its warmup ends."""
    title, plan = "Learning-rate schedules", results.plan
    rates = results.history[results.history["train_learning_rate"].notna()]
    num_steps = rates["run_id"].value_counts()
    on_log_axis = "learning_rate" in unconditional(plan) and is_log(plan, "learning_rate")
    if on_log_axis:
        rates = rates[rates["train_learning_rate"] > 0]  # a schedule may end at 0, which has no place there
    runs = results.started[results.started["run_id"].isin(num_steps.index)]
    if runs.empty:
        return canvas.message(f"{title}: no run has taken a step yet.")
    distinct = [field for field in SCHEDULE_FIELDS if field in runs] or list(plan.swept)
    runs = runs.assign(_steps=runs["run_id"].map(num_steps)).sort_values("_steps", ascending=False, kind="stable")
    runs = runs.drop_duplicates(distinct).sort_values("trial")
    num_schedules = len(runs)
    swept = [field for field in distinct if field in unconditional(plan)]
    few = num_schedules > CROWDED and any(is_sampled(plan, field) for field in swept)
    representatives = _representatives(results, runs) if few else {}
    if representatives:
        runs = runs[runs["trial"].isin(representatives)]
    runs = runs.iloc[np.unique(np.linspace(0, len(runs) - 1, MOST_SETTINGS).astype(int))]
    curves = dict(iter(rates[rates["run_id"].isin(runs["run_id"])].sort_values("step").groupby("run_id")))
    scale = ColourScale(plan, colour_field(plan) if colour_field(plan) in swept else next(iter(swept), None))
    runs = runs.assign(_colour=scale.colours(runs))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    ends = []
    for _, run in runs.iterrows():
        curve, colour = curves[run["run_id"]], run["_colour"]
        thinned = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 200).astype(int))]
        tokens = thinned["step"] * int(run["tokens_per_step"])
        bold = representatives.get(run["trial"]) == "best"
        width = 2.4 if bold else 1.4 if len(runs) <= CROWDED else 0.8
        axes.plot(tokens, thinned["train_learning_rate"], color=colour, linewidth=width, alpha=0.85)
        # 0, where no step is, of a config that has no warmup
        warmup_steps = share_of_steps(float(run.get("warmup_ratio", 0.0)), int(run["num_steps"]))
        warmup = curve[curve["step"] == warmup_steps]
        axes.plot(
            warmup["step"] * int(run["tokens_per_step"]), warmup["train_learning_rate"], "o", color=colour, markersize=4
        )
        if run["_steps"] == runs.loc[runs["_colour"] == colour, "_steps"].max():
            label = representatives.get(run["trial"]) or scale.label(run)
            ends.append(End(float(curve["train_learning_rate"].iloc[-1]), label, colour))
    if on_log_axis:
        values = sorted(runs["learning_rate"]) if representatives else ordered_values(plan, "learning_rate")
        axes.set_ylim(values[0] / 40, values[-1] * 1.5)
        canvas.log_y_axis(axes, values if len(values) <= MAX_VALUES and not representatives else None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    canvas.token_axis(axes)
    axes.set_ylabel("learning rate")
    count = f"{num_schedules:,} different ones" if num_schedules > 1 else "one for all runs"
    if representatives:
        count += f", drawn: those of the {', '.join(representatives.values())} setting"
    elif num_schedules > len(runs):
        count += f", {len(runs)} of them drawn"
    warmup_note = ["dot: end of the warmup"] * ("warmup_ratio" in runs)
    canvas.heading(figure, title, [count, *warmup_note, *colour_note(scale)])
    if representatives:
        canvas.label_ends(axes, ends)
    else:
        key(figure, [axes], [ends], scale)
    return figure


def _representatives(results: Results, runs: pd.DataFrame) -> dict[int, str]:
    """Of many schedules with runs here, trial → "best", "median" or "worst" by final loss; {} before three are done."""
    board = results.board
    done = [int(trial) for trial in board.loc[board["objective"].notna(), "trial"] if trial in set(runs["trial"])]
    if len(done) < 3:
        return {}
    return {done[0]: "best", done[len(done) // 2]: "median", done[-1]: "worst"}
