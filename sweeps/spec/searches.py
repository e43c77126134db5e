"""Names of the searches, and which count their own trials, propose settings, or learn. `search/` has their code."""

from typing import Literal, get_args

Search = Literal["grid", "random", "sobol", "tpe", "points"]
SEARCHES: tuple[Search, ...] = get_args(Search)
COUNTED: tuple[Search, ...] = ("grid", "points")  # their space or list says how many trials there are
SAMPLING = tuple(name for name in SEARCHES if name not in COUNTED)  # these propose settings, as many as are asked for
LEARNING: tuple[Search, ...] = ("tpe",)  # a proposal of these depends on the values of earlier trials (law 10)

TPE_STARTUP_TRIALS = 10  # drawn at random, before there is something to learn from
MOST_REFUSED = 1000  # settings in a row; a constraint that refuses more leaves too little to search


def counts_itself(search: str) -> str:
    """Why a search that is COUNTED takes no number of trials."""
    return "a grid has as many trials as cells" if search == "grid" else "there are as many trials as points"
