"""The figures of a sweep: `Results` in, matplotlib figures out.

One value of a swept parameter has one colour in all of them; each says in its heading what colour, line and marker
mean. What diverged, failed or hasn't run is marked or counted, never left out.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sweeps.analysis.rates import RATE
from sweeps.analysis.results import Results
from sweeps.analysis.settings import is_sampled, unconditional
from sweeps.answer.figures import canvas
from sweeps.answer.figures.losses import loss_curves, perplexity_curves
from sweeps.answer.figures.parameters import final_loss, gap_panels, heat_maps, isolation
from sweeps.answer.figures.rates import rate_panels
from sweeps.answer.figures.sampled import pairs, slices
from sweeps.answer.figures.scales import num_values
from sweeps.answer.figures.schedules import schedules
from sweeps.plan.record import PlanRecord

FIGURES: dict[str, tuple[Callable[[Results], Figure], str]] = {
    "gap": (gap_panels, "How far validation loss ends above train loss, by each swept parameter."),
    "loss": (loss_curves, "Validation and train loss over training tokens, both measured with dropout off."),
    "schedule": (
        schedules,
        "The learning rate of every step, a line a distinct schedule; of many, three.",
    ),
    "perplexity": (perplexity_curves, "Validation perplexity over training tokens, on a log axis."),
    "final_loss": (final_loss, "Final validation loss of every run against the parameter that spans most."),
    "rates": (rate_panels, "Final validation loss against the learning rate, over all values of the other parameters."),
    "isolation": (isolation, "The best setting at each value of a parameter, whatever the others are."),
    "slices": (slices, "Final validation loss of every setting against each parameter."),
    "heat_maps": (heat_maps, "Mean final validation loss at each pair of values."),
    "pairs": (pairs, "Every setting at its values of two parameters, coloured by its final validation loss."),
}
"""By name, how it is drawn and what it shows."""


def figures_of(plan: PlanRecord) -> list[str]:
    """The names of the figures that say something of a sweep over these fields."""
    swept = [field for field in plan.swept if num_values(plan, field) > 1]
    everywhere = [field for field in unconditional(plan) if field in swept]
    left_out = {"final_loss" if RATE in everywhere else "rates"}
    if not swept:
        left_out |= {"gap", "isolation", "final_loss"}
    # Means and best settings at a value are of values that come again; what a range was sampled at is scattered.
    sampled = any(is_sampled(plan, field) for field in plan.swept)
    left_out |= {"isolation", "heat_maps"} if sampled else {"slices", "pairs"}
    if len(swept) < 2:
        left_out |= {"isolation", "slices"}
    if len(everywhere) < 2:
        left_out |= {"heat_maps", "pairs"}
    return [name for name in FIGURES if name not in left_out]


def save_figures(results: Results, folder: Path) -> list[str]:
    """Writes the sweep's figures as NAME.png (150 dpi) and NAME.svg into the folder; returns the names.

    Where matplotlib can't draw one, values that are too far apart, say, the picture says so in its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = figures_of(results.plan)
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the tables beside the picture have it.
        warnings.filterwarnings("ignore", message="(?s)Glyph .* missing from font")
        for name in names:
            try:
                _save(FIGURES[name][0](results), folder / name)
            except Exception as error:  # the answer is not to be lost for a picture
                what = " ".join(f"{type(error).__name__}: {error}".split())
                _save(canvas.message(f"This figure can't be drawn of these values. {what[:100]}"), folder / name)
    return names


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context(canvas.STYLE):
        figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
        figure.set_layout_engine("none")  # it stays as it was laid out
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
