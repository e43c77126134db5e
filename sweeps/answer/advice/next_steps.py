"""The search-space doctor: what stands between a sweep and its answer, each with the command that mends it.

Pure functions over `Results`. Commands go on from the one that made the definition, so what is there is used again.
"""

import math
from collections.abc import Iterator

import pandas as pd

from sweeps.analysis import noise, ranking
from sweeps.analysis.rates import RATE
from sweeps.analysis.results import Results
from sweeps.analysis.settings import incomparable, ordered_values
from sweeps.answer.advice.commands import Advice
from sweeps.answer.advice.grid import coarse, edges, stable_to_the_end
from sweeps.answer.advice.ranges import extensions, narrowings
from sweeps.plan.record import PlanRecord
from sweeps.spec.command import Command
from sweeps.spec.fields import LENGTH_FIELDS, MATCHING_FIELDS
from sweeps.spec.searches import SAMPLING
from tinylm_core.records import RESULTS

MOST_WORTHWHILE_SEEDS = 20  # to tell two settings apart; with more the difference is too small to matter
MOST_CONFIRMED = 4
FINISHED_ENOUGH = 2  # settings, for anything to be said of a space
OTHER_SEEDS = 3


def advise(results: Results) -> list[Advice]:
    """What to do next, the most pressing first; empty where the sweep answers its question."""
    finished = results.runs["state"].isin(RESULTS)
    if not finished.any():
        return [*_unfinished(results)]
    if (results.runs.loc[finished, "state"] == "DIVERGED").all():
        return [*_unfinished(results), *_all_diverged(results)]
    if results.is_chance and results.was_better:
        return [*_unfinished(results), *_overfitting(results)]
    if results.is_chance:
        why = "the learning rate is far off, or the data or the model is at fault"
        return [*_unfinished(results), Advice(f"No run does better than chance, so {why}.")]
    found = [*_unfinished(results), *_not_matched(results)]
    if incomparable(results.plan):
        return found
    if results.board["objective"].notna().sum() >= FINISHED_ENOUGH:
        sampled = results.plan.search in SAMPLING
        sure, unsure = ([*extensions(results)], []) if sampled else edges(results)
        found += [*sure, *stable_to_the_end(results), *_seeds(results), *unsure, *coarse(results)]
        found += narrowings(results) if sampled else []
    return [*found, *_still_falling(results), *_overfitting(results), *_clipped(results)]


def _unfinished(results: Results) -> Iterator[Advice]:
    states = results.runs["state"]
    command = results.plan.command
    failed, planned = int((states == "FAILED").sum()), results.num_planned
    missing = planned - int(states.isin([*RESULTS, "FAILED"]).sum())
    if failed:
        yield Advice(f"{failed} of {planned} runs failed; the same command makes them again.", command)
    elif missing:
        yield Advice(f"{missing} of {planned} runs are still to come; the same command goes on.", command)


def _all_diverged(results: Results) -> Iterator[Advice]:
    command = None
    if RATE in results.started:
        lowest = min(float(rate) for rate in results.started[RATE])
        lower = [float(f"{lowest * factor:.2g}") for factor in (0.01, 0.03, 0.1, 0.3)]
        command = results.plan.command.with_flags(sweep={RATE: ",".join(f"{rate:g}" for rate in lower)})
    yield Advice("Every run diverged, so the learning rate is too high, or the data or the model is at fault.", command)


def _not_matched(results: Results) -> Iterator[Advice]:
    if results.plan.matched:
        return
    if results.plan.trainer is not None:
        yield Advice("Settings train on different numbers of tokens, so their losses differ for that reason too.")
        return
    swept = [field for field in results.plan.swept if len(ordered_values(results.plan, field)) > 1]
    fields = [field for field in swept if field in MATCHING_FIELDS]
    text = f"Settings with different {', '.join(fields)} don't see the same tokens in the same order, so their losses "
    text += "differ for that reason too"
    if fields == ["batch_size"] and (command := _by_accumulation(results)):
        yield Advice(f"{text}; gradient accumulation makes the same effective batches of the same tokens.", command)
    elif len(fields) < len(swept):
        best = results.board.iloc[0]
        pinned = {field: best[field] for field in fields if not pd.isna(best[field])}
        yield Advice(
            f"{text}; hold {'it' if len(fields) == 1 else 'them'} to compare the rest.",
            results.plan.command.with_flags(set=pinned) if pinned else None,
        )
    else:
        yield Advice(f"{text}.")


def _by_accumulation(results: Results) -> Command | None:
    """The command that sweeps the effective batches of a swept batch_size in micro-batches of the smallest; or None."""
    smallest, *larger = ordered_values(results.plan, "batch_size")
    field = "gradient_accumulation_steps"
    if field in results.plan.swept or any(size % smallest for size in larger):
        return None
    steps = [results.plan.base[field] * size // smallest for size in (smallest, *larger)]
    changed = {"set": {"batch_size": smallest}, "sweep": {field: ",".join(map(str, steps))}}
    return results.plan.command.with_flags(**changed)


def _seeds(results: Results) -> Iterator[Advice]:
    plan, board = results.plan, results.board
    ranked = board[board["rank"].notna()]
    num_seeds = len(plan.seeds)
    if len(ranked) < 2 or (ranked["state"] == "diverged").all():
        return
    if num_seeds == 1:
        complete = int((ranked["state"] == "complete").sum())
        # A search with more seeds is another one: its best settings are run again instead.
        flags = {"confirm": min(complete, MOST_CONFIRMED)} if plan.search in SAMPLING else {}
        yield Advice(
            "With one seed nothing can be told from noise.",
            plan.command.with_flags(**flags, seeds=OTHER_SEEDS),
        )
        return
    tied = ranked.iloc[1:]
    tied = tied[tied["tied_with_best"].fillna(False).astype(bool)]
    noisy = noise.noisy_settings(results.runs)
    if int(ranked.iloc[0]["trial"]) not in noisy:  # more seeds would show again that training fails there with some
        tied = tied[~tied["trial"].isin(noisy)]
    if tied.empty or math.isnan(results.residual):
        return
    lead = float(tied.iloc[0]["objective"] - ranked.iloc[0]["objective"])
    pair = [int(row["trial"]) for row in (ranked.iloc[0], tied.iloc[0])]
    deviation = math.sqrt(results.noise_of(pair).variance.mean())
    needed = ranking.seeds_to_tell(lead, deviation, len(tied))
    others = f"{tied.iloc[0]['label']}" + (f" and {len(tied) - 1} more" if len(tied) > 1 else "")
    if needed is None or needed > MOST_WORTHWHILE_SEEDS:
        many = f"about {needed}" if needed else f"over {ranking.MOST_SEEDS}"
        last = float(tied.iloc[-1]["objective"] - ranked.iloc[0]["objective"])
        which = f"; the last of them is {last:.4f} behind" if len(tied) > 1 else ""
        yield Advice(
            f"{others} can't be told from the best; if the difference to the first is really {lead:.4f} nats, that "
            f"would take {many} seeds, so take whichever is cheaper{which}."
        )
        return
    # In the order of the search that they come from confirmed ones may stand otherwise: all of them stay.
    flags = {} if plan.command.is_confirmation else {"confirm": min(1 + len(tied), MOST_CONFIRMED)}
    seeds = max(needed, num_seeds + 1)
    yield Advice(
        f"{others} can't be told from the best with {num_seeds} seeds; if the first two really differ by {lead:.4f} "
        f"nats, about {seeds} would tell them apart, four times in five.",
        plan.command.with_flags(**flags, seeds=seeds),
    )


def _share(results: Results, finding: str) -> float:
    complete = len(results.complete)
    return (results.diagnoses["finding"] == finding).sum() / complete if complete else 0.0


def _best_has(results: Results, finding: str) -> bool:
    found = results.diagnoses[results.diagnoses["finding"] == finding]
    best = results.board.iloc[0]
    return bool(len(found[found["trial"] == best["trial"]]) > best["num_seeds_done"] / 2)


def _still_falling(results: Results) -> Iterator[Advice]:
    if not _best_has(results, "still falling"):
        return
    text = "The best setting was still improving when its tokens ran out: with more, a lower loss, and maybe another "
    yield Advice(f"{text}best setting.", _longer(results))


def _longer(results: Results) -> Command | None:
    """The command that trains twice as long: the best settings, or where there is but one, or tokens are swept, all."""
    plan, complete = results.plan, int((results.board["state"] == "complete").sum())
    budget = next((field for field in LENGTH_FIELDS if field in plan.base), None)
    if budget is None:
        return None
    if budget in plan.swept:
        return plan.command.with_flags(set={budget: 2 * int(results.board.iloc[0][budget])})
    longer: dict[str, object] = {budget: 2 * int(plan.base[budget])}
    if plan.command.is_confirmation or len(results.board) == 1 or not complete:
        return _with_base(plan, longer)
    return plan.command.with_flags(confirm=min(complete, MOST_CONFIRMED), at=longer)


def _with_base(plan: PlanRecord, changes: dict[str, object]) -> Command | None:
    """The command with another base: of settings that are confirmed, only of these."""
    return plan.command.with_flags(**{"at" if plan.command.is_confirmation else "set": changes})


def _overfitting(results: Results) -> Iterator[Advice]:
    if not _best_has(results, "overfitting"):
        return
    best = results.overfitting[results.overfitting["trial"] == results.board.iloc[0]["trial"]]
    if best.empty:
        return
    tokens, rise = int(best["best_tokens"].iloc[0]), float(best["rise"].iloc[0])
    run = results.started[results.started["trial"] == results.board.iloc[0]["trial"]].iloc[0]
    command = None
    if "train_tokens" in run and "num_evals" in run:
        unit = int(run["train_tokens"]) // int(run["num_evals"])
        fewer = max(unit, round(tokens / unit) * unit)
        command = _with_base(results.plan, {"train_tokens": fewer, "num_evals": max(1, fewer // unit)})
    yield Advice(
        f"The best setting overfits: its validation loss is lowest at {tokens:,} tokens and {rise:.3f} nats higher at "
        "the end. Train less, use more text, or regularize.",
        command,
    )


def _clipped(results: Results) -> Iterator[Advice]:
    if _share(results, "mostly clipped") <= 0.5 or "max_grad_norm" not in results.complete:
        return
    norms = results.history.loc[results.history["train_grad_norm"].notna(), "train_grad_norm"].astype(float)
    limits = pd.to_numeric(results.complete["max_grad_norm"].astype(str), errors="coerce").dropna()
    if norms.empty or limits.empty or "max_grad_norm" in results.plan.swept:
        return
    limit = float(limits.median())
    values = sorted({limit, float(f"{norms.median():.1g}"), float(f"{norms.quantile(0.9):.1g}")} - {0.0})
    yield Advice(
        f"In most runs more than half of the steps are clipped (gradient norm: median {norms.median():.2f}, limit "
        f"{limit:g}), so the limit works as a second learning rate; sweep it, or be aware of it.",
        results.plan.command.with_flags(sweep={"max_grad_norm": ",".join(f"{value:g}" for value in values)})
        if len(values) > 1
        else None,
    )
