"""The search-space doctor: what stands between a sweep and its answer, each with the command that mends it.

Pure functions over `Results`. Commands go on from the one that made the definition, so what is there is used again.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sweeps.analysis import ranking
from sweeps.analysis.effects import isolated
from sweeps.analysis.rates import RATE
from sweeps.analysis.results import Results
from sweeps.analysis.settings import FINISHED, is_log, is_number, objectives, ordered_values
from sweeps.space import short
from tinylm_core.config import RunConfig, check_budget

WIDE_STEP = 2.5
NEAR_EDGE = 0.05  # of a range: a best setting this close to an end is at the end
MOST_WORTHWHILE_SEEDS = 20  # to tell two settings apart; with more the difference is too small to matter
MOST_CONFIRMED = 4
COARSE = 0.02  # nats that a step away from the best rate costs, at least, for a finer one to be worth a run
FINISHED_ENOUGH = 2  # settings, for anything to be said of a space
OTHER_SEEDS = 3


@dataclass(frozen=True)
class Advice:
    """What is the matter, as a sentence, and the command that mends it ("" where none does)."""

    text: str
    command: str = ""


def advise(results: Results) -> list[Advice]:
    """What to do next, the most pressing first; empty where the sweep answers its question."""
    finished = results.runs["state"].isin(FINISHED)
    if not finished.any():
        return [*_unfinished(results)]
    if (results.runs.loc[finished, "state"] == "DIVERGED").all():
        return [*_unfinished(results), *_all_diverged(results)]
    found = [*_unfinished(results), *_not_matched(results)]
    if results.board["objective"].notna().sum() >= FINISHED_ENOUGH:
        found += [*_edges(results), *_stable_to_the_end(results), *_seeds(results), *_coarse(results)]
    return [*found, *_still_falling(results), *_overfitting(results), *_clipped(results)]


def command_with(command: str, **flags: object) -> str:
    """A `sweeps.run` command with more flags; one that stands there already is replaced.

    `sweep` and `set` are dicts of fields, any other flag has its value. With either of them another space is run, of
    which nothing can be confirmed yet: --confirm goes.
    """
    if not command.startswith("python "):  # of a notebook, whose sweep is changed where it stands
        given = [text for flag, value in flags.items() for text in _flag_words(flag, value)]
        return f"{command} with {' '.join(given)}"
    words = shlex.split(command)
    pinned = {**_dict(flags.get("sweep")), **_dict(flags.get("set"))}
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("--set", "--sweep"):
            assignment = next(rest)
            if assignment.partition("=")[0] not in pinned:
                kept += [word, assignment]
        elif (word == "--confirm" and pinned) or (word.startswith("--") and word[2:].replace("-", "_") in flags):
            next(rest)
        else:
            kept.append(word)
    for flag, value in flags.items():
        kept += _flag_words(flag, value)
    return shlex.join(kept)


def _flag_words(flag: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [word for field, text in value.items() for word in (f"--{flag}", f"{field}={text}")]
    return [f"--{flag.replace('_', '-')}", str(value)]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unfinished(results: Results) -> Iterator[Advice]:
    states = results.runs["state"]
    command = str(results.plan["command"])
    failed, missing = int((states == "FAILED").sum()), int((~states.isin([*FINISHED, "FAILED"])).sum())
    if failed:
        yield Advice(f"{failed} of {len(states)} runs failed; the same command makes them again.", command)
    elif missing:
        yield Advice(f"{missing} of {len(states)} runs are still to come; the same command goes on.", command)


def _all_diverged(results: Results) -> Iterator[Advice]:
    rates = [float(rate) for rate in results.started[RATE]]
    lower = [float(f"{min(rates) * factor:.2g}") for factor in (0.01, 0.03, 0.1, 0.3)]
    yield Advice(
        "Every run diverged, so the learning rate is too high, or the data or the model is at fault.",
        command_with(results.plan["command"], sweep={RATE: ",".join(f"{rate:g}" for rate in lower)}),
    )


def _not_matched(results: Results) -> Iterator[Advice]:
    if results.plan["matched"]:
        return
    base = results.plan["base"]
    matching = {"data", "tokenizer", "vocab_size", "max_seq_len", "stride", "val_ratio", "max_tokens", "batch_size"}
    matching |= {"train_tokens", "num_evals", "eval_tokens"}
    fields = [field for field in results.plan["swept"] if field in matching]
    pinned = {field: base[field] for field in fields if base.get(field) is not None}
    command = command_with(results.plan["command"], set=pinned) if pinned else ""
    yield Advice(
        f"Settings with different {', '.join(fields)} don't see the same tokens in the same order, so their losses "
        "differ for that reason too; hold it to compare the rest.",
        command,
    )


def _edges(results: Results) -> Iterator[Advice]:
    """The best value of a swept number is the lowest or highest that was tried, and beyond it is more."""
    for field in results.plan["swept"]:
        end = _best_end(results, field)
        if end is None:
            continue
        beyond = _extension(results, field, end)
        if beyond is None:
            continue
        best = short(results.board.iloc[0][field])
        sure = _is_told_from_inside(results, field)
        where = {"low": "lowest", "high": "highest"}[end]
        text = (
            f"The best {field}, {best}, is the {where} that was tried, so the optimum may lie beyond it."
            if sure
            else f"The best {field}, {best}, is the {where} that was tried, though noise may have put it there."
        )
        yield Advice(text, beyond)


def _best_end(results: Results, field: str) -> str | None:
    values = ordered_values(results.plan, field)
    if not is_number(values) or len(values) < 2:
        return None
    best = float(results.board.iloc[0][field])
    space = results.plan["space"][field]
    low, high = (space["low"], space["high"]) if space["kind"] == "range" else (values[0], values[-1])
    place, start, end = (math.log(v) if is_log(results.plan, field) else float(v) for v in (best, low, high))
    listed = space["kind"] == "choice" or results.plan["search"] == "grid"
    near = 0.0 if listed else NEAR_EDGE * (end - start)
    if place - start <= near:
        return "low"
    return "high" if end - place <= near else None


def _is_told_from_inside(results: Results, field: str) -> bool:
    """Whether the best setting differs from the best one at the value next to it, tested alone by seeds."""
    by_value = isolated(results.plan, results.board, field)
    if len(by_value) < 2:
        return False
    best = int(by_value["objective"].astype(float).argmin())
    inner = by_value.iloc[1 if best == 0 else best - 1]
    labels = [by_value.iloc[best]["label"], inner["label"]]
    trials = [results.board.loc[results.board["label"] == label, "trial"].iloc[0] for label in labels]
    objective_TS = objectives(results.runs, trials)
    return bool(_p_value(results, objective_TS) < ranking.SIGNIFICANCE)


def _p_value(results: Results, objective_TS: np.ndarray) -> float:
    """That two settings differ: paired by seed, with the sweep's residual noise."""
    difference = objective_TS[0] - objective_TS[1]
    difference = difference[np.isfinite(difference)]
    order = results.board["trial"]
    whole = objectives(results.runs, order)[ranking.all_complete(results.runs, order)]
    variance, degrees = ranking.pooled_noise(whole)
    if not degrees or not len(difference) or variance == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(difference.mean()) / math.sqrt(2 * variance / len(difference)), degrees))


def _extension(results: Results, field: str, end: str) -> str | None:
    """The command that goes on beyond an end; None where nothing is allowed there."""
    values = [float(value) for value in ordered_values(results.plan, field)]
    log = is_log(results.plan, field) or min(values) > 0
    edge, inner = (values[0], values[1]) if end == "low" else (values[-1], values[-2])
    space = results.plan["space"][field]
    whole = all(isinstance(value, int) for value in ordered_values(results.plan, field))
    if space["kind"] == "range" and results.plan["search"] != "grid":
        low, high = float(space["low"]), float(space["high"])
        log = bool(space["log"])
        wider = (low / 3, high) if log and end == "low" else (low, high * 3) if log else None
        if wider is None:
            wider = (low - (high - low) / 2, high) if end == "low" else (low, high + (high - low) / 2)
        moved = _allowed(field, wider[0] if end == "low" else wider[1], 2, whole=whole)
        if moved is None:
            return None
        low, high = (moved, high) if end == "low" else (low, moved)
        text = ":".join([_literal(low, whole=whole), _literal(high, whole=whole), *(["log"] if log else [])])
        return command_with(results.plan["command"], sweep={field: text})
    step = edge / inner if log else edge - inner
    beyond = [edge * step, edge * step**2] if log else [edge + step, edge + 2 * step]
    digits = 1 if log and max(step, 1 / step) >= WIDE_STEP else 2  # 3e-4 below 1e-3, and not 3.3e-4
    new = [value for value in (_allowed(field, value, digits, whole=whole) for value in beyond) if value is not None]
    new = [value for value in dict.fromkeys(new) if value not in values]
    if not new:
        return None
    listed = ",".join(_literal(value, whole=whole) for value in sorted([*values, *new]))
    return _within_budget(results, field, [int(value) if whole else value for value in new], listed)


def _within_budget(results: Results, field: str, new: Sequence[float], listed: str) -> str:
    """The command, with the nearest `train_tokens` that all settings share where the new values need another."""
    base = RunConfig.model_validate(results.plan["base"])
    values = [*ordered_values(results.plan, field), *new]
    pinned: dict[str, object] = {}
    try:
        check_budget([base.replace({field: value}) for value in values])
    except ValueError as error:
        nearest = str(error).rpartition("train_tokens=")[2]
        if nearest.isdecimal():
            pinned["train_tokens"] = nearest
    flags: dict[str, object] = {"sweep": {field: listed}} | ({"set": pinned} if pinned else {})
    return command_with(results.plan["command"], **flags)


def _allowed(field: str, value: float, digits: int, *, whole: bool) -> float | None:
    """The value to so many digits where the field takes it, else None."""
    rounded = float(f"{value:.{digits}g}")
    if whole:
        rounded = round(rounded)
    try:
        RunConfig().replace({field: int(rounded) if whole else rounded})
    except ValueError:
        return None
    return rounded


def _literal(value: float, *, whole: bool) -> str:
    return str(int(value)) if whole else f"{value:.12g}"


def _stable_to_the_end(results: Results) -> Iterator[Advice]:
    """No rate that is too high was tried: the highest can't be told from the best, though it is not the best."""
    board = results.board
    if RATE not in results.plan["swept"] or _best_end(results, RATE) is not None:
        return
    values = ordered_values(results.plan, RATE)
    if results.plan["search"] != "grid" or (results.runs["state"] == "DIVERGED").any():
        return
    # A rate that is nearly as good: one so noisy that nothing can be told of it is near enough to where training fails.
    near = board["objective"] - board.iloc[0]["objective"] <= 2 * results.residual
    at_end = board[(board[RATE] == values[-1]) & board["rank"].notna() & near]
    if at_end["tied_with_best"].fillna(False).any():
        beyond = _extension(results, RATE, "high")
        if beyond:
            yield Advice(
                f"No learning rate that is too high was tried: the highest, {short(values[-1])}, can't be told from "
                "the best.",
                beyond,
            )


def _seeds(results: Results) -> Iterator[Advice]:
    plan, board = results.plan, results.board
    ranked = board[board["rank"].notna()]
    num_seeds = len(plan["seeds"])
    if len(ranked) < 2 or (ranked["state"] == "diverged").all():
        return
    if num_seeds == 1:
        yield Advice(
            "With one seed nothing can be told from noise.",
            command_with(plan["command"], seeds=OTHER_SEEDS),
        )
        return
    tied = ranked.iloc[1:]
    tied = tied[tied["tied_with_best"].fillna(False).astype(bool)]
    if tied.empty or math.isnan(results.residual):
        return
    lead = float(tied.iloc[0]["objective"] - ranked.iloc[0]["objective"])
    needed = ranking.seeds_to_tell(lead, results.residual, len(tied))
    others = f"{tied.iloc[0]['label']}" + (f" and {len(tied) - 1} more" if len(tied) > 1 else "")
    if needed is None or needed > MOST_WORTHWHILE_SEEDS:
        many = f"about {needed}" if needed else f"over {ranking.MOST_SEEDS}"
        yield Advice(
            f"{others} can't be told from the best; that would take {many} seeds for a difference of {lead:.4f} nats, "
            "so take whichever is cheaper."
        )
        return
    confirmed = min(1 + len(tied), MOST_CONFIRMED)
    seeds = max(needed, num_seeds + 1)
    yield Advice(
        f"{others} can't be told from the best with {num_seeds} seeds; about {seeds} would tell the first two apart.",
        command_with(plan["command"], confirm=confirmed, seeds=seeds),
    )


def _coarse(results: Results) -> Iterator[Advice]:
    """The best rate stands alone: a step to either side costs more than noise, and the optimum is known better."""
    if results.rates.empty or results.plan["search"] != "grid":
        return
    row = results.rates.iloc[0]
    values = [float(value) for value in ordered_values(results.plan, RATE)]
    if math.isnan(row["optimum_low"]) or row["best_rate"] not in values:
        return
    place = values.index(row["best_rate"])
    if not 0 < place < len(values) - 1:
        return
    by_value = isolated(results.plan, results.board, RATE)["objective"].astype(float).to_numpy()
    if len(by_value) != len(values):
        return
    cost = min(by_value[place - 1], by_value[place + 1]) - by_value[place]
    step = min(values[place] / values[place - 1], values[place + 1] / values[place])
    if cost < max(COARSE, 2 * results.residual) or not 1 < row["optimum_high"] / row["optimum_low"] < step:
        return
    between = [math.sqrt(values[place] * values[place + side]) for side in (-1, 1)]
    listed = ",".join(f"{value:.12g}" for value in sorted([*values, *(float(f"{v:.2g}") for v in between)]))
    yield Advice(
        f"The steps of learning_rate are coarse near its optimum (a parabola puts it at {short(row['optimum'])}, "
        f"{short(row['optimum_low'])} to {short(row['optimum_high'])}): a step away costs {cost:.3f} nats.",
        command_with(results.plan["command"], sweep={RATE: listed}),
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
    command = command_with(results.plan["command"], set={"train_tokens": 2 * int(results.plan["base"]["train_tokens"])})
    yield Advice(
        "The best setting was still improving when its tokens ran out: with more, a lower loss, and maybe another "
        "best setting.",
        command,
    )


def _overfitting(results: Results) -> Iterator[Advice]:
    if not _best_has(results, "overfitting"):
        return
    best = results.overfitting[results.overfitting["trial"] == results.board.iloc[0]["trial"]]
    if best.empty:
        return
    tokens, rise = int(best["best_tokens"].iloc[0]), float(best["rise"].iloc[0])
    run = results.started[results.started["trial"] == results.board.iloc[0]["trial"]].iloc[0]
    unit = int(run["train_tokens"]) // int(run["num_evals"])
    fewer = max(unit, round(tokens / unit) * unit)
    yield Advice(
        f"The best setting overfits: its validation loss is lowest at {tokens:,} tokens and {rise:.3f} nats higher at "
        "the end. Train less, use more text, or regularize.",
        command_with(
            results.plan["command"],
            set={"train_tokens": fewer, "num_evals": max(1, fewer // unit)},
        ),
    )


def _clipped(results: Results) -> Iterator[Advice]:
    if _share(results, "mostly clipped") <= 0.5:
        return
    norms = results.history.loc[results.history["train_grad_norm"].notna(), "train_grad_norm"].astype(float)
    limits = pd.to_numeric(results.complete["max_grad_norm"].astype(str), errors="coerce").dropna()
    if norms.empty or limits.empty or "max_grad_norm" in results.plan["swept"]:
        return
    limit = float(limits.median())
    values = sorted({limit, float(f"{norms.median():.1g}"), float(f"{norms.quantile(0.9):.1g}")} - {0.0})
    yield Advice(
        f"In most runs more than half of the steps are clipped (gradient norm: median {norms.median():.2f}, limit "
        f"{limit:g}), so the limit works as a second learning rate; sweep it, or be aware of it.",
        command_with(results.plan["command"], sweep={"max_grad_norm": ",".join(f"{value:g}" for value in values)})
        if len(values) > 1
        else "",
    )
