"""Figures hold what they should and can be drawn of every kind of sweep; how they look was looked at."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from synthetic import NUM_STEPS, choice, lr_warmup_space, make_plan, make_sweep, value_range

from sweeps.analysis.results import Results
from sweeps.answer import figures
from sweeps.answer.figures import canvas, losses, parameters, sampled, scales
from sweeps.answer.figures.schedules import schedules

SMALL = {"learning_rate": choice(1e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.1)}
EVERY_RUN = [(trial, seed) for trial in range(6) for seed in (0, 1)]
RANDOM = {"learning_rate": value_range(1e-4, 1e-2, log=True), "weight_decay": value_range(0, 0.3)}
SWEEPS = {
    "one run": (make_plan({}, seeds=[0]), {}),
    "words and None": (make_plan({"data": choice("a/$b$.txt", "c"), "max_grad_norm": choice(None, 1.0)}), {}),
    "all diverged": (make_plan(SMALL), dict.fromkeys(EVERY_RUN, "DIVERGED")),
    "nothing ran": (make_plan(SMALL), dict.fromkeys(EVERY_RUN, "MISSING")),
    "half-finished": (make_plan(SMALL), {(0, 0): "RUNNING", (1, 0): "FAILED", (2, 0): "INTERRUPTED"}),
    "110 settings": (make_plan(RANDOM, num_trials=110, seeds=[0]), {(3, 0): "DIVERGED"}),
}


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def lines(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata()) > 2]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_figure_is_drawn_without_a_warning(name, tmp_path):
    plan, states = SWEEPS[name]
    trials, history = make_sweep(plan, states=states)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = figures.save_figures(Results(plan, trials, history), tmp_path)
    assert names == figures.figures_of(plan)
    for figure in names:
        assert (tmp_path / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{figure}.svg").read_text()


def test_same_sweep_is_the_same_file(tmp_path):
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3)}, seeds=[0])
    for folder in ("a", "b"):
        figures.save_figures(Results(plan, *make_sweep(plan)), tmp_path / folder)
    for name in figures.figures_of(plan):
        assert (tmp_path / "a" / f"{name}.svg").read_bytes() == (tmp_path / "b" / f"{name}.svg").read_bytes()


def test_one_value_has_one_colour_in_every_figure():
    plan = make_plan(lr_warmup_space())
    trials, history = make_sweep(plan)
    expected = {
        scales.ColourScale(plan, "learning_rate").colour({"learning_rate": rate}) for rate in (1e-4, 3e-4, 1e-3, 3e-3)
    }
    for draw in (losses.loss_curves, losses.perplexity_curves, schedules):
        drawn = {to_hex(line.get_color()) for axes in draw(Results(plan, trials, history)).axes for line in lines(axes)}
        assert expected <= drawn
    assert len(expected) == 4


def test_loss_has_a_panel_a_warmup_with_validation_and_train_of_each_rate():
    plan = make_plan(lr_warmup_space())
    figure = losses.loss_curves(Results(plan, *make_sweep(plan)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"warmup ratio {v}" for v in ("0", "0.05", "0.1", "0.2")
    ]
    assert all(len(lines(axes)) == 8 for axes in figure.axes)


def test_plotted_loss_is_the_mean_over_seeds_at_its_tokens():
    plan = make_plan({"learning_rate": choice(1e-3)})
    trials, history = make_sweep(plan)
    line = lines(losses.loss_curves(Results(plan, trials, history)).axes[0])[0]
    mean = history[history["val_loss"].notna()].groupby("step")["val_loss"].mean()
    np.testing.assert_allclose(line.get_ydata(), mean)
    np.testing.assert_allclose(line.get_xdata(), mean.index * 8 * 128)


def test_diverged_runs_are_marked_and_named():
    plan = make_plan(lr_warmup_space())
    trials, history = make_sweep(plan, states={(12, 0): "DIVERGED", (12, 1): "DIVERGED"})
    for draw in (losses.loss_curves, losses.perplexity_curves, parameters.final_loss):
        figure = draw(Results(plan, trials, history))
        marks = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "X"]
        assert len(marks) == 2
        assert "diverged" in texts(figure)


def test_empty_and_diverged_sweeps_say_so():
    plan, states = SWEEPS["all diverged"]
    sweep = make_sweep(plan, states=states)
    assert "every run diverged" in texts(losses.loss_curves(Results(plan, *sweep)))
    assert "no run has completed" in texts(parameters.final_loss(Results(plan, *sweep)))
    plan, states = SWEEPS["nothing ran"]
    assert "no run has been evaluated yet" in texts(losses.loss_curves(Results(plan, *make_sweep(plan, states=states))))


def test_losses_that_are_all_above_chance_are_drawn(tmp_path):
    plan = make_plan({"learning_rate": choice(1e-2, 0.1, 0.2)})
    results = Results(plan, *make_sweep(plan, effect=lambda s: 10 - s["learning_rate"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figures(results, tmp_path)
    (axes,) = losses.loss_curves(results).axes
    low, high = axes.get_ylim()
    assert low < results.complete["final_train_loss"].min() < results.complete["final_val_loss"].max() < high


def test_losses_whose_perplexity_overflows_are_drawn(tmp_path):
    plan = make_plan({"learning_rate": choice(1e-2, 0.1)}, seeds=[0])
    trials, history = make_sweep(plan)
    for column in ("val_loss", "eval_train_loss"):
        history[column] = history[column].where(history[column].isna(), 1e30)
    history["val_perplexity"] = history["val_perplexity"].where(history["val_perplexity"].isna(), math.inf)
    assert figures.save_figures(Results(plan, trials, history), tmp_path)


def test_an_unknown_vocabulary_only_drops_the_reference_line():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3)}, seeds=[0])
    trials, history = make_sweep(plan)
    assert "V = 1,000" in texts(losses.perplexity_curves(Results(plan, trials, history)))
    unknown = trials.drop(columns=["model_vocab_size", "vocab_size"])
    assert "V =" not in texts(losses.perplexity_curves(Results(plan, unknown, history)))


def test_learning_rate_axis_is_logarithmic_and_weight_decay_with_zero_has_a_place_a_value():
    plan = make_plan(lr_warmup_space())
    assert parameters.final_loss(Results(plan, *make_sweep(plan))).axes[0].get_xscale() == "log"
    plan = make_plan({"weight_decay": choice(0.0, 0.01, 0.1, 1.0)})
    axes = parameters.final_loss(Results(plan, *make_sweep(plan))).axes[0]
    assert axes.get_xscale() == "linear"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.01", "0.1", "1"]


def test_schedules_mark_the_end_of_the_warmup_at_its_peak():
    plan = make_plan({"warmup_ratio": choice(0.05, 0.1)}, seeds=[0])
    axes = schedules(Results(plan, *make_sweep(plan))).axes[0]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [
        7 * 1024,
        13 * 1024,
    ]  # ceil(0.05 * 128), ceil(0.1 * 128)
    assert [float(dot.get_ydata()[0]) for dot in dots] == [1e-3, 1e-3]


@pytest.mark.filterwarnings("error")
def test_a_schedule_that_ends_at_zero_is_drawn_to_its_last_rate_on_a_log_axis():
    plan = make_plan({"learning_rate": choice(1e-4, 1e-3, 1e-2)}, seeds=[0])
    trials, history = make_sweep(plan)
    history.loc[history["step"] == NUM_STEPS, "train_learning_rate"] = 0.0
    axes = schedules(Results(plan, trials, history)).axes[0]
    lines = [line for line in axes.get_lines() if line.get_marker() != "o"]
    assert len(lines) == 3
    assert min(float(np.min(line.get_ydata())) for line in lines) > 0
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() > 0.1  # where their lines end, not in a heap at the bottom


def test_direct_labels_never_touch():
    heights = np.sort(np.random.default_rng(0).random(8)) ** 3
    placed = canvas._apart(heights, 0.06)
    assert np.diff(placed).min() >= 0.06 - 1e-9
    assert placed.min() >= 0
    assert placed.max() <= 1
    np.testing.assert_allclose(canvas._apart(np.array([0.1, 0.5]), 0.06), [0.1, 0.5])


# --- What a search sampled


SAMPLED = RANDOM | {"warmup_ratio": value_range(0.0, 0.3), "gradient_accumulation_steps": choice(1, 2, 4)}


def sampled_results(num_trials=28, states=None, search="tpe"):
    plan = replace(make_plan(SAMPLED, num_trials=num_trials, seeds=[0]), search=search)
    return Results(plan, *make_sweep(plan, states=states))


def test_a_sampled_sweep_scatters_its_settings_and_a_grid_has_cells():
    drawn, grid = figures.figures_of(sampled_results().plan), figures.figures_of(make_plan(SMALL))
    assert {"slices", "pairs"} <= set(drawn)
    assert not {"isolation", "heat_maps"} & set(drawn)
    assert {"isolation", "heat_maps"} <= set(grid)
    assert not {"slices", "pairs"} & set(grid)


@pytest.mark.parametrize("num_trials", [1, 2, 5, 9])
@pytest.mark.filterwarnings("error")
def test_few_trials_of_a_search_have_no_panel_and_no_row_each(num_trials, tmp_path):
    results = sampled_results(num_trials)
    figures.save_figures(results, tmp_path)
    assert [axes.get_title(loc="left") for axes in losses.loss_curves(results).axes if axes.get_title(loc="left")] == [
        f"gradient accumulation steps {k}" for k in sorted(set(results.runs["gradient_accumulation_steps"]))
    ] * (results.runs["gradient_accumulation_steps"].nunique() > 1)
    rows = results.gaps[results.gaps["parameter"] == "weight_decay"]
    assert len(rows) <= (4 if num_trials >= 8 else 2)
    assert rows["num_runs"].sum() == num_trials


def offsets(axes):
    return sum(len(one.get_offsets()) for one in axes.collections if hasattr(one, "get_offsets"))


def test_slices_have_a_point_a_setting_a_log_axis_for_a_log_range_and_the_worst_at_the_top():
    results = sampled_results(states={(3, 0): "DIVERGED"})
    panels = sampled.slices(results).axes
    by_field = {axes.get_xlabel().partition("\n")[0].partition(" (")[0]: axes for axes in panels}
    assert by_field["learning rate"].get_xscale() == "log"
    assert by_field["weight decay"].get_xscale() == "linear"
    for axes in panels:
        assert offsets(axes) == 27
        assert len([line for line in axes.get_lines() if line.get_marker() == "X"]) == 1
    best = results.board.iloc[0]
    ring = next(line for line in by_field["learning rate"].get_lines() if line.get_markerfacecolor() == "none")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (best["learning_rate"], best["objective"])


def test_two_sampled_fields_are_a_scatter_of_all_settings_on_both_their_axes():
    figure = sampled.pairs(sampled_results())
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == 3
    for axes in panels:
        assert offsets(axes) == 28
        scales_of = {axes.get_xlabel(): axes.get_xscale(), axes.get_ylabel(): axes.get_yscale()}
        assert scales_of.get("learning rate", "log") == "log"
        assert scales_of.get("weight decay", "linear") == "linear"


def test_of_many_sampled_schedules_those_of_the_best_median_and_worst_setting_are_drawn():
    results = sampled_results()
    figure = schedules(results)
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2]
    done = results.board
    expected = {round(float(done.iloc[place]["learning_rate"]), 12) for place in (0, len(done) // 2, -1)}
    assert {round(float(max(line.get_ydata())), 12) for line in drawn} == expected
    assert [text.get_text() for text in figure.axes[0].texts].count("best") == 1
    assert "28 different ones" in texts(figure)
    grid = make_plan(lr_warmup_space(), seeds=[0])
    assert len(lines(schedules(Results(grid, *make_sweep(grid))).axes[0])) == 16
