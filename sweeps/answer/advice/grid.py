"""What a sweep of listed values advises of them: to go on beyond an end, or in finer steps near the best rate.

Pure functions over `Results`; its twin for ranges that a search draws from is `sampled_advice`.
"""

import math
from collections.abc import Iterator

import numpy as np

from sweeps.analysis.effects import isolated
from sweeps.analysis.noise import SIGNIFICANCE
from sweeps.analysis.ranking import p_values_against_first
from sweeps.analysis.rates import RATE, valley
from sweeps.analysis.results import Results
from sweeps.analysis.settings import (
    comparable_objectives,
    ends_of,
    is_log,
    is_number,
    is_sampled,
    ordered_values,
    where_varied,
)
from sweeps.answer.advice.commands import Advice, extended
from sweeps.spec.command import Command
from sweeps.spec.fields import LENGTH_FIELDS
from sweeps.spec.naming import short

NEAR_EDGE = 0.05  # of a range: a best setting this close to an end is at the end
COARSE = 0.02  # nats that a step away from the best rate costs, at least, for a finer one to be worth a run


def edges(results: Results) -> tuple[list[Advice], list[Advice]]:
    """The best value of a swept number is the lowest or highest that was tried, and beyond it is more.

    Those that are told from the value next to them, and those that noise may have put there.
    """
    told: list[Advice] = []
    untold: list[Advice] = []
    for field in results.plan.swept:
        end = None if field in LENGTH_FIELDS else _best_end(results, field)  # of more tokens there is no best
        if end is None:
            continue
        best = short(results.board.iloc[0][field])
        where = {"low": "lowest", "high": "highest"}[end]
        text = f"The best {field}, {best}, is the {where} that was tried,"
        beyond = extended(results.plan, field, end)
        if beyond is None:
            beyond = _smaller_batch(results, field)
            if beyond is None:
                continue
            text = f"The best {field}, {best}, is the least there is; a smaller batch takes another batch_size,"
        if _is_told_from_inside(results, field):
            told.append(Advice(f"{text} so the optimum may lie beyond it.", beyond))
        else:
            untold.append(Advice(f"{text} though noise may have put it there.", beyond))
    return told, untold


def stable_to_the_end(results: Results) -> Iterator[Advice]:
    """The highest rate is nearly as good as the best, which is another one, so higher ones may be as well."""
    board = results.board
    if RATE not in results.plan.swept or _best_end(results, RATE) is not None:
        return
    values = ordered_values(results.plan, RATE)
    if results.plan.search != "grid" or (results.runs["state"] == "DIVERGED").any():
        return
    # A rate that is nearly as good: one so noisy that nothing can be told of it is near enough to where training fails.
    near = board["objective"] - board.iloc[0]["objective"] <= results.residual
    at_end = board[(board[RATE] == values[-1]) & board["rank"].notna() & near]
    if at_end["tied_with_best"].fillna(False).any():
        beyond = extended(results.plan, RATE, "high")
        if beyond:
            yield Advice(
                f"The highest learning rate that was tried, {short(values[-1])}, can't be told from the best, so "
                "higher ones may do as well.",
                beyond,
            )


def coarse(results: Results) -> Iterator[Advice]:
    """The best rate stands alone: a step to either side, the rest tuned again there, is told to be worse, by much."""
    if RATE not in results.plan.swept or results.plan.search != "grid":
        return
    values = [float(value) for value in ordered_values(results.plan, RATE)]
    tuned = isolated(results.plan, results.board, RATE)
    if len(tuned) != len(values):
        return
    loss = tuned["objective"].astype(float).to_numpy()
    place = int(loss.argmin())
    if not 0 < place < len(values) - 1:
        return
    loss_RS = comparable_objectives(results.runs, tuned["trial"])
    low, high = valley(np.array(values), loss_RS, place, results.noise_of(tuned["trial"]))
    cost = min(loss[place - 1], loss[place + 1]) - loss[place]
    if [low, high] != [values[place - 1], values[place + 1]] or cost < COARSE:
        return
    between = [math.sqrt(values[place] * values[place + side]) for side in (-1, 1)]
    listed = ",".join(f"{value:.12g}" for value in sorted([*values, *(float(f"{v:.2g}") for v in between)]))
    yield Advice(
        f"The steps of learning_rate are coarse near its optimum, which lies between {short(low)} and "
        f"{short(high)}: a step away costs {cost:.3f} nats.",
        results.plan.command.with_flags(sweep={RATE: listed}),
    )


def _smaller_batch(results: Results, field: str) -> Command | None:
    """Where not to accumulate is best: the command with half the micro-batch."""
    plan = results.plan
    if field != "gradient_accumulation_steps" or plan.trainer is not None or "batch_size" in plan.swept:
        return None
    half = int(plan.base["batch_size"]) // 2
    return plan.command.with_flags(set={"batch_size": half}) if half else None


def _best_end(results: Results, field: str) -> str | None:
    values = ordered_values(results.plan, field)
    if not is_number(values) or len(values) < 2 or where_varied(results.plan, results.board.head(1), field).empty:
        return None
    best = float(results.board.iloc[0][field])
    low, high = ends_of(results.plan, field)
    if not is_sampled(results.plan, field):
        return "low" if best <= low else "high" if best >= high else None
    place, start, end = (math.log(v) if is_log(results.plan, field) else float(v) for v in (best, low, high))
    near = NEAR_EDGE * (end - start)
    if place - start <= near:
        return "low"
    return "high" if end - place <= near else None


def _is_told_from_inside(results: Results, field: str) -> bool:
    """Whether the best setting differs from the best one at the value next to it, tested alone by seeds."""
    by_value = isolated(results.plan, results.board, field)
    if len(by_value) < 2:
        return False
    best = int(by_value["objective"].astype(float).argmin())
    trials = [int(by_value["trial"].iloc[place]) for place in (best, 1 if best == 0 else best - 1)]
    p_values = p_values_against_first(comparable_objectives(results.runs, trials), results.noise_of(trials))
    return bool(p_values[1] < SIGNIFICANCE)
