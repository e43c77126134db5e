"""Commands that go on from the one that made a definition: with other flags, or beyond the end of what was swept.

Pure functions over a plan; run nothing.
"""

import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sweeps.analysis.settings import Plan, is_log, ordered_values
from sweeps.spec.fields import BUDGET_FIELDS
from sweeps.spec.searches import SAMPLING
from tinylm_core.config import RunConfig, budget_unit, nearest_budget

WIDE_STEP = 2.5
WIDEST_STEP = 4.0  # of two further listed values: from 1e-3 and 1e-2 on not to 1
FURTHER = 3.0  # at most so many times as far goes what extends a sampled sweep, or a third of a linear range
SHORTER = (1, 1 / 2, 1 / 4)  # of that, where a field doesn't take it


@dataclass(frozen=True)
class Advice:
    """What is the matter, as a sentence, and the command that mends it ("" where none does)."""

    text: str
    command: str = ""


def command_with(command: str, **flags: object) -> str:
    """A `sweeps.run` command with more flags; one that stands there already is replaced.

    `sweep`, `set` and `at` are dicts of fields, any other flag has its value. With one of the first two another space
    is run, of which nothing can be confirmed yet: --confirm goes, and --at becomes --set. "" where no command does it.
    """
    if not command.startswith("python "):  # of a notebook, whose sweep is changed where it stands, and confirms nothing
        if flags.keys() & {"confirm", "at"}:
            return ""
        given = [text for flag, value in flags.items() for text in _flag_words(flag, value)]
        return f"{command} with {' '.join(given)}"
    words = shlex.split(command)
    pinned = {**_dict(flags.get("sweep")), **_dict(flags.get("set"))}
    replaced = {"--set": pinned, "--sweep": pinned, "--at": _dict(flags.get("at"))}
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in replaced:
            assignment = next(rest)
            if assignment.partition("=")[0] not in pinned | replaced[word]:
                kept += ["--set" if word == "--at" and pinned else word, assignment]
        elif (word == "--confirm" and pinned) or (word.startswith("--") and word[2:].replace("-", "_") in flags):
            next(rest)
        else:
            kept.append(word)
    for flag, value in flags.items():
        kept += _flag_words(flag, value)
    return shlex.join(kept)


def flags_of(command: str) -> dict[str, list[str]]:
    """What a `sweeps.run` command, whose flags all have a value, gives each."""
    words = shlex.split(command)
    flags: dict[str, list[str]] = {}
    for flag, value in pairwise(words):
        if flag.startswith("--"):
            flags.setdefault(flag, []).append(value)
    return flags


def is_confirmed(plan: Plan) -> bool:
    """Whether its settings are the best of another definition."""
    return "--confirm" in flags_of(plan["command"])


def _flag_words(flag: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [word for field, text in value.items() for word in (f"--{flag}", f"{field}={text}")]
    return [f"--{flag.replace('_', '-')}", str(value)]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def extended(plan: Plan, field: str, end: str) -> str | None:
    """The command that sweeps a number beyond its "low" or "high" end; None where the field takes nothing there.

    Of a range that is sampled that end is moved, by a factor of three or a third of the range at most. Of listed values
    all stay, so that their runs are used again, and two more follow in the same steps, by a factor of four at most;
    where a search samples them, one, by a factor of three at most.
    """
    if plan["search"] == "points" and not is_confirmed(plan):  # what is listed in a file is extended there
        return None
    values = ordered_values(plan, field)
    whole = all(isinstance(value, int) for value in values)
    space = plan["space"][field]
    if space["kind"] == "range" and plan["search"] != "grid":
        low, high, log = space["low"], space["high"], space["log"]
        sign = -1 if end == "low" else 1
        reaches = (share * sign for share in SHORTER)
        edge = low if end == "low" else high
        tried = [edge * FURTHER**reach if log else edge + reach * (high - low) / 3 for reach in reaches]
        allowed = (_allowed(plan, field, value, 2, whole=whole) for value in tried)
        moved = next((value for value in allowed if value is not None and sign * (value - edge) > 0), None)
        if moved is None:
            return None
        ends = (moved, high) if end == "low" else (low, moved)
        return command_with(plan["command"], sweep={field: ":".join([*map(_literal, ends), *["log"] * log])})
    edge, inner = (values[0], values[1]) if end == "low" else (values[-1], values[-2])
    by_factor = is_log(plan, field) or min(values) > 0
    step = edge / inner if by_factor else edge - inner
    digits = 1 if by_factor and max(step, 1 / step) >= WIDE_STEP else 2  # 3e-4 below 1e-3, and not 3.3e-4
    if by_factor:
        most = FURTHER if plan["search"] in SAMPLING else WIDEST_STEP
        step = min(max(step, 1 / most), most)
    elif plan["search"] in SAMPLING:
        width = abs(values[-1] - values[0]) / 3
        step = min(max(step, -width), width)
    beyond_it = [edge * step, edge * step**2] if by_factor else [edge + step, edge + 2 * step]
    beyond_it = beyond_it[:1] if plan["search"] in SAMPLING else beyond_it
    allowed = (_allowed(plan, field, value, digits, whole=whole) for value in beyond_it)
    new = [value for value in dict.fromkeys(allowed) if value is not None and value not in values]
    if not new:
        return None
    flags: dict[str, object] = {"sweep": {field: ",".join(map(_literal, sorted([*values, *new])))}}
    return command_with(plan["command"], **flags | _budget(plan, field, [*values, *new]))


def _budget(plan: Plan, field: str, values: list[Any]) -> dict[str, object]:
    """`--set train_tokens` to the nearest that all settings share, where these values of a field need another."""
    if field not in BUDGET_FIELDS or field == "train_tokens" or plan.get("trainer") is not None:
        return {}
    base = RunConfig.model_validate(plan["base"])
    tokens_per_step, num_evals = budget_unit(base.replace({field: value}) for value in values)
    nearest = nearest_budget(base.train_tokens, tokens_per_step * num_evals)
    return {} if nearest == base.train_tokens else {"set": {"train_tokens": nearest}}


def _allowed(plan: Plan, field: str, value: float, digits: int, *, whole: bool) -> float | int | None:
    """The value, to so many digits where it is no whole number, where the field takes it; else None."""
    rounded = round(value) if whole else float(f"{value:.{digits}g}")
    if plan.get("trainer") is not None:  # which knows what it takes: what all of a scale have in common
        return rounded if rounded > 0 else None
    try:
        RunConfig().replace({field: rounded})
    except ValueError:
        return None
    return rounded


def _literal(value: float) -> str:
    return f"{value:.12g}"
