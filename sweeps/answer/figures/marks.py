"""What says that a run diverged, failed, runs or is missing: a marker in a figure, a note in its heading."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sweeps.answer.figures import canvas
from sweeps.answer.figures.canvas import INK
from sweeps.answer.figures.scales import ColourScale

MARKERS = {"DIVERGED": "X", "FAILED": "s", "INTERRUPTED": "s", "RUNNING": ">"}
SIGNS = {"DIVERGED": "✖", "FAILED": "■", "INTERRUPTED": "■", "RUNNING": "▶"}


def mark(axes: Axes, x: float, y: float, state: str, colour: str) -> None:
    """A state's marker."""
    style: dict[str, Any] = {
        "markersize": 7,
        "markeredgecolor": INK,
        "markeredgewidth": 0.6,
        "clip_on": False,
        "zorder": 5,
    }
    axes.plot(x, y, MARKERS[state], color=colour, **style)


def spread(values: pd.Series) -> NDArray[np.float64]:
    """Shares from -0.6 to 0.6, evenly over the rows of equal value."""
    rank, count = values.groupby(values).cumcount(), values.map(values.value_counts())
    return np.asarray(0.6 * (2 * (rank + 0.5) / count - 1), dtype=np.float64)


def markers(runs: pd.DataFrame) -> list[str]:
    """Notes on the markers that are there."""
    texts = {"DIVERGED": "✖ diverged", "RUNNING": "▶ still running"}
    notes = [text for state, text in texts.items() if (runs["state"] == state).any()]
    return notes + ["■ failed or interrupted"] * bool(runs["state"].isin(["FAILED", "INTERRUPTED"]).any())


def absent(runs: pd.DataFrame) -> list[str]:
    """A note on runs that are not there yet."""
    missing = int((runs["state"] == "MISSING").sum())
    return [f"{missing} of {len(runs)} runs not started"] if missing else []


def counted_diverged(runs: pd.DataFrame, worst_loss: float) -> list[str]:
    """A note on diverged runs that count in means, as ln(vocabulary)."""
    number = int((runs["state"] == "DIVERGED").sum())
    return [f"{number} diverged: counted as ln V = {worst_loss:.2f}"] if number else []


def outcomes(runs: pd.DataFrame) -> str:
    """How many runs are in which state."""
    counts = runs["state"].replace("MISSING", "not started").value_counts()
    return f"Of {len(runs)}: {', '.join(f'{count} {str(state).lower()}' for state, count in counts.items())}."


def colour_note(scale: ColourScale) -> list[str]:
    """What colour means."""
    return [f"colour: {canvas.words(scale.field)}"] if scale.field and len(scale.domain) > 1 else []
