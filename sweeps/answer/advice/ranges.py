"""What the best quarter of a sampled sweep's settings advises of its ranges: to extend one, or to narrow some.

Pure functions over `Results`; what they find is `best_quarter`'s, and nothing is said that it does not tell.
"""

import math
from collections.abc import Iterator, Sequence

from sweeps.analysis.best_quarter import best_quarter, values_said
from sweeps.analysis.results import Results
from sweeps.analysis.settings import is_gathered, is_sampled
from sweeps.answer.advice.commands import Advice, extended
from sweeps.spec.space import Range


def extensions(results: Results) -> Iterator[Advice]:
    """A field whose best quarter lies at an end of what was searched, where it takes something beyond."""
    for one in results.concentrations:
        beyond = extended(results.plan, one.field, one.end) if one.distinguished and one.end else None
        if beyond is not None:
            side = {"low": "lower", "high": "upper"}[one.end]
            yield Advice(
                f"{_the_quarter(results)} have {values_said(one)}, at the {side} end of what was searched, so the "
                "optimum may lie beyond it.",
                beyond,
            )


def narrowings(results: Results) -> Iterator[Advice]:
    """The ranges that the best quarter takes up a small part of, in one command, and those that nothing is told of."""
    found = results.concentrations
    narrower = {
        one.field: f"{low:.12g}:{high:.12g}" + ":log" * dimension.log
        for one in found
        if one.narrowed is not None and isinstance(dimension := results.plan.space[one.field], Range)
        for low, high in [_rounded(dimension, one.narrowed)]
        if low < high
    }
    if narrower:
        where = [values_said(one) for one in found if one.field in narrower]
        yield Advice(
            f"{_the_quarter(results)} have {' and '.join(where)}, {_how_close(results)}: a narrower range, with some "
            "room around them, searches that part more finely.",
            results.plan.command.with_flags(sweep=narrower),
        )
    untold = [one.field for one in found if not one.distinguished and is_sampled(results.plan, one.field)]
    if untold:
        yield Advice(
            f"Where the best lie speaks for no other range of {', '.join(untold)}: {_lower(_the_quarter(results))} lie "
            "no closer together there than chance would put as many."
        )


def _how_close(results: Results) -> str:
    """TPE gathers its trials around what was good, in fields that do nothing too."""
    if is_gathered(results.plan):
        return "where TPE has gathered its trials too"
    return "closer together than chance would put as many"


def _the_quarter(results: Results) -> str:
    ranked = int(results.board["rank"].notna().sum())
    return f"The best quarter of the trials ({len(best_quarter(results.board))} of {ranked})"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _rounded(searched: Range, ends: Sequence[float]) -> tuple[float, float]:
    """To two digits, and outwards to whole numbers where the range is of these; never beyond the range."""
    low, high = searched.low, searched.high
    if searched.is_integer:
        return max(low, math.floor(ends[0])), min(high, math.ceil(ends[1]))
    return max(low, float(f"{ends[0]:.2g}")), min(high, float(f"{ends[1]:.2g}"))
