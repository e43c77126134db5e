"""What is advised, and the command that sweeps a field beyond the end of what was tried.

Pure functions over a plan; run nothing.
"""

from dataclasses import dataclass
from typing import Any

from sweeps.analysis.settings import is_log, ordered_values
from sweeps.plan.record import PlanRecord
from sweeps.spec.command import Command
from sweeps.spec.fields import BUDGET_FIELDS
from sweeps.spec.searches import SAMPLING
from sweeps.spec.space import Range
from tinylm_core.config import RunConfig, budget_unit, nearest_budget

WIDE_STEP = 2.5
WIDEST_STEP = 4.0  # of two further listed values: from 1e-3 and 1e-2 on not to 1
FURTHER = 3.0  # at most so many times as far goes what extends a sampled sweep, or a third of a linear range
SHORTER = (1, 1 / 2, 1 / 4)  # of that, where a field doesn't take it


@dataclass(frozen=True)
class Advice:
    """What is the matter, as a sentence, and the command that mends it (None where none does)."""

    text: str
    command: Command | None = None


def extended(plan: PlanRecord, field: str, end: str) -> Command | None:
    """The command that sweeps a number beyond its "low" or "high" end; None where the field takes nothing there.

    Of a range that is sampled that end is moved, by a factor of three or a third of the range at most. Of listed values
    all stay, so that their runs are used again, and two more follow in the same steps, by a factor of four at most;
    where a search samples them, one, by a factor of three at most.
    """
    if plan.search == "points" and not plan.command.is_confirmation:  # what is listed in a file is extended there
        return None
    values = ordered_values(plan, field)
    whole = all(isinstance(value, int) for value in values)
    dimension = plan.space[field]
    if isinstance(dimension, Range) and plan.search != "grid":
        low, high, log = dimension.low, dimension.high, dimension.log
        sign = -1 if end == "low" else 1
        reaches = (share * sign for share in SHORTER)
        edge = low if end == "low" else high
        tried = [edge * FURTHER**reach if log else edge + reach * (high - low) / 3 for reach in reaches]
        allowed = (_allowed(plan, field, value, 2, whole=whole) for value in tried)
        moved = next((value for value in allowed if value is not None and sign * (value - edge) > 0), None)
        if moved is None:
            return None
        ends = (moved, high) if end == "low" else (low, moved)
        return plan.command.with_flags(sweep={field: ":".join([*map(_literal, ends), *["log"] * log])})
    edge, inner = (values[0], values[1]) if end == "low" else (values[-1], values[-2])
    by_factor = is_log(plan, field) or min(values) > 0
    step = edge / inner if by_factor else edge - inner
    digits = 1 if by_factor and max(step, 1 / step) >= WIDE_STEP else 2  # 3e-4 below 1e-3, and not 3.3e-4
    if by_factor:
        most = FURTHER if plan.search in SAMPLING else WIDEST_STEP
        step = min(max(step, 1 / most), most)
    elif plan.search in SAMPLING:
        width = abs(values[-1] - values[0]) / 3
        step = min(max(step, -width), width)
    beyond_it = [edge * step, edge * step**2] if by_factor else [edge + step, edge + 2 * step]
    beyond_it = beyond_it[:1] if plan.search in SAMPLING else beyond_it
    allowed = (_allowed(plan, field, value, digits, whole=whole) for value in beyond_it)
    new = [value for value in dict.fromkeys(allowed) if value is not None and value not in values]
    if not new:
        return None
    flags: dict[str, object] = {"sweep": {field: ",".join(map(_literal, sorted([*values, *new])))}}
    return plan.command.with_flags(**flags | _budget(plan, field, [*values, *new]))


def _budget(plan: PlanRecord, field: str, values: list[Any]) -> dict[str, object]:
    """`--set train_tokens` to the nearest that all settings share, where these values of a field need another."""
    if field not in BUDGET_FIELDS or field == "train_tokens" or plan.trainer is not None:
        return {}
    base = RunConfig.model_validate(plan.base)
    tokens_per_step, num_evals = budget_unit(base.replace({field: value}) for value in values)
    nearest = nearest_budget(base.train_tokens, tokens_per_step * num_evals)
    return {} if nearest == base.train_tokens else {"set": {"train_tokens": nearest}}


def _allowed(plan: PlanRecord, field: str, value: float, digits: int, *, whole: bool) -> float | int | None:
    """The value, to so many digits where it is no whole number, where the field takes it; else None."""
    rounded = round(value) if whole else float(f"{value:.{digits}g}")
    if plan.trainer is not None:  # which knows what it takes: what all of a scale have in common
        return rounded if rounded > 0 else None
    try:
        RunConfig().replace({field: rounded})
    except ValueError:
        return None
    return rounded


def _literal(value: float) -> str:
    return f"{value:.12g}"
