"""Synthetic sweeps with planted truth: plan, trials and history as the store would give them, without training."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweeps.analysis.results import Results
from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.spec.command import Command
from sweeps.spec.naming import short
from sweeps.spec.space import Choice, Range, Space, Value
from tinylm_core import RunConfig

VOCAB_SIZE = 1000
WORST = math.log(VOCAB_SIZE)
TOKENS_PER_STEP = 8 * 128
NUM_STEPS = 128
NUM_EVALS = 8
EVAL_ERROR = 0.012
NOISE = 0.02  # of a seed and of a run, in nats
BASE = RunConfig(learning_rate=1e-3, train_tokens=NUM_STEPS * TOKENS_PER_STEP, num_evals=NUM_EVALS)
MEASURED = {"objective", "train_loss", "train_learning_rate", "train_grad_norm", "train_tokens"} | {
    "train_tokens_per_second",
    "val_loss",
    "val_loss_standard_error",
    "val_perplexity",
    "eval_train_loss",
    "eval_train_loss_standard_error",
    "eval_gap",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "model_vocab_size",
}
SHORT = {"learning_rate": "lr", "warmup_ratio": "warmup", "weight_decay": "wd", "schedule": "schedule"}

Effect = Callable[[Mapping[str, Any]], float]


def lr_effect(setting: Mapping[str, Any]) -> float:
    """A parabola in log rate around 1e-3, with a small price for no warmup."""
    rate = math.log10(setting.get("learning_rate", 1e-3))
    return 0.45 * (rate + 3) ** 2 + 0.05 * (setting.get("warmup_ratio") == 0)


def choice(*values: Value) -> Choice:
    return Choice(*values)


def value_range(low: float, high: float, points: int | None = None, *, log: bool = False) -> Range:
    return Range(low, high, points, log)


def lr_warmup_space() -> Space:
    return {"learning_rate": choice(1e-4, 3e-4, 1e-3, 3e-3), "warmup_ratio": choice(0.0, 0.05, 0.1, 0.2)}


def make_plan(
    space: Space, *, seeds: Sequence[int] = (0, 1), num_trials: int | None = None, matched: bool = True
) -> PlanRecord:
    """A grid over the choices; with `num_trials`, that many points drawn at random."""
    rng = np.random.default_rng(7)
    if num_trials is None:
        settings = [
            dict(zip(space, values, strict=True)) for values in itertools.product(*map(_points, space.values()))
        ]
    else:
        settings = [{field: _draw(one, rng) for field, one in space.items()} for _ in range(num_trials)]
    return PlanRecord(
        name="lr_warmup",
        definition="0123456789abcdef",
        question="What happens without warmup?",
        search="grid" if num_trials is None else "random",
        space=dict(space),
        seeds=tuple(seeds),
        num_trials=len(settings),
        matched=matched,
        command=Command("lr_warmup"),
        base=BASE.model_dump(),
        trials=tuple(
            TrialRecord(
                number=number,
                setting=setting,
                label=" ".join(f"{SHORT.get(field, field)}={short(value)}" for field, value in setting.items()),
                runs={seed: f"identity-{number}-{seed}" for seed in seeds},
            )
            for number, setting in enumerate(settings)
        ),
    )


def _points(one: Choice | Range) -> list[Any]:
    if isinstance(one, Choice):
        return list(one.grid())
    space = np.geomspace if one.log else np.linspace
    return [float(value) for value in space(one.low, one.high, one.points)]


def _draw(one: Choice | Range, rng: np.random.Generator) -> Any:
    if isinstance(one, Choice):
        return one.grid()[rng.integers(len(one.grid()))]
    if one.log:
        return float(np.exp(rng.uniform(np.log(one.low), np.log(one.high))))
    return float(rng.uniform(one.low, one.high))


def make_sweep(
    plan: PlanRecord,
    *,
    effect: Effect = lr_effect,
    noise: float = 0.004,
    gap: float = 0.15,
    states: Mapping[tuple[int, int], str] | None = None,
    overfitting: Sequence[int] = (),
    spiking: Sequence[int] = (),
    clipped: Sequence[int] = (),
    with_history: bool = True,
    rng_seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and history of a plan. `states` names the (trial, seed) that end otherwise than COMPLETE; MISSING ones
    have no row. `overfitting`, `spiking` and `clipped` name trials."""
    rng = np.random.default_rng(rng_seed)
    seed_shift = {seed: rng.normal(0, noise) for seed in plan.seeds}
    rows, histories = [], []
    for trial in plan.trials:
        for seed in trial.runs:
            state = (states or {}).get((trial.number, seed), "COMPLETE")
            if state == "MISSING":
                continue
            final = 3.6 + effect(trial.setting) + seed_shift[seed] + rng.normal(0, noise)
            row = _row(trial, seed, state, final, gap + rng.normal(0, noise))
            if with_history or trial.number in overfitting:
                history = _history(row, rng, spiking=trial.number in spiking, clipped=trial.number in clipped)
                if trial.number in overfitting:
                    row = _overfit(row, history)
                histories.append(history)
            rows.append(row)
    columns = list(_row(plan.trials[0], 0, "COMPLETE", 4.0, gap))
    history_columns = list(_history(_row(plan.trials[0], 0, "COMPLETE", 4.0, gap), rng))
    trials = pd.DataFrame(rows, columns=columns)
    history = pd.concat(histories, ignore_index=True) if histories else pd.DataFrame(columns=history_columns)
    return as_stored(trials), as_stored(history)


def as_stored(frame: pd.DataFrame) -> pd.DataFrame:
    """With the nullable column types that `frames` gives: Int64, boolean, string; measurements stay float64."""
    typed = frame.convert_dtypes()
    floats = [
        name
        for name, dtype in typed.dtypes.items()
        if dtype == "Float64" or name in MEASURED or str(name).startswith(("final_", "best_"))
    ]
    return typed.astype(dict.fromkeys(floats, "float64"))


def _row(trial: TrialRecord, seed: int, state: str, final: float, gap: float) -> dict[str, Any]:
    complete = state == "COMPLETE"
    nan = float("nan")
    number = trial.number
    accumulation = int(trial.setting.get("gradient_accumulation_steps", 1))
    base = {
        "learning_rate": 1e-3,
        "warmup_ratio": 0.1,
        "schedule": "cosine",
        "min_lr_ratio": 0.1,
        "decay_ratio": 0.2,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "batch_size": 8,
        "max_seq_len": 128,
        "gradient_accumulation_steps": 1,
        "train_tokens": NUM_STEPS * TOKENS_PER_STEP,
        "num_steps": NUM_STEPS // accumulation,
        "tokens_per_step": TOKENS_PER_STEP * accumulation,
        "num_evals": NUM_EVALS,
        "vocab_size": VOCAB_SIZE,
        "dropout": 0.1,
    }
    losses = {"val_loss": final, "train_loss": final - gap, "gap": gap, "val_perplexity": math.exp(final)}
    return {
        "run_id": f"{number * 1009 + seed * 7 + 0xABCDEF:032x}",
        "run_name": f"t{number:03d} {trial.label} seed={seed}",
        "trial": number,
        "setting": trial.label,
        "state": state,
        **base,
        **trial.setting,
        "seed": seed,
        **{f"{when}_{key}": value if complete else nan for when in ("final", "best") for key, value in losses.items()},
        "objective": {"COMPLETE": min(final, WORST), "DIVERGED": WORST}.get(state, nan),
        "final_tokens_per_second": 21_000.0 + 100 * number if complete else nan,
        "duration_seconds": 12.5,
        "model_vocab_size": float(VOCAB_SIZE) if complete else nan,
        "num_parameters": 1_234_567,
        "weights_sha256": f"{number:064x}" if complete else None,
        "_planted": final,
    }


def _history(
    row: Mapping[str, Any], rng: np.random.Generator, *, spiking: bool = False, clipped: bool = False
) -> pd.DataFrame:
    last = {"COMPLETE": NUM_STEPS, "DIVERGED": 37 + row["trial"] % 40}.get(row["state"], NUM_STEPS // 2)
    accumulation = row["gradient_accumulation_steps"]
    num_steps = NUM_STEPS // accumulation
    step = np.arange(last // accumulation + 1)
    progress = step / num_steps
    fall = np.exp(-5 * progress * (1 + 0.35 * np.clip(math.log10(row["learning_rate"]) + 3, -1, 1)))
    curve = row["_planted"] + (WORST - row["_planted"]) * fall * (1 - progress)
    gap = row["final_gap"] if row["state"] == "COMPLETE" else 0.15
    evaluated = step % (num_steps // NUM_EVALS) == 0
    train = curve - gap * progress + rng.normal(0, 0.05, len(step))
    if spiking:
        train[70:73] += [1.5, 0.8, 0.4]
    norm = np.abs(rng.normal(1.6 if clipped else 0.5, 0.15, len(step)))
    rate = _rate(row, step)
    val, eval_train = curve + 0, curve - gap * progress

    def only_steps(values: Any) -> Any:
        return np.where(step > 0, values, np.nan)

    def only_evals(values: Any) -> Any:
        return np.where(evaluated, values, np.nan)

    return pd.DataFrame(
        {
            "run_id": row["run_id"],
            "trial": row["trial"],
            "seed": row["seed"],
            "step": step,
            "train_loss": only_steps(train),
            "train_learning_rate": only_steps(rate),
            "train_grad_norm": only_steps(norm),
            "train_tokens": only_steps(step * TOKENS_PER_STEP * accumulation),
            "train_tokens_per_second": only_steps(21_000.0),
            "train_skipped": False,
            "val_loss": only_evals(val),
            "val_loss_standard_error": only_evals(EVAL_ERROR),
            "val_perplexity": only_evals(np.exp(val)),
            "eval_train_loss": only_evals(eval_train),
            "eval_train_loss_standard_error": only_evals(EVAL_ERROR),
            "eval_gap": only_evals(val - eval_train),
        }
    )


def _rate(row: Mapping[str, Any], step: np.ndarray) -> np.ndarray:
    num_steps = NUM_STEPS // row["gradient_accumulation_steps"]
    warmup = math.ceil(row["warmup_ratio"] * num_steps)
    after = (step - warmup) / max(1, num_steps - warmup)
    floor = row["min_lr_ratio"]
    cosine = floor + (1 - floor) * (1 + np.cos(np.pi * after)) / 2
    if row["schedule"] == "linear":
        cosine = 1 - (1 - floor) * after
    return row["learning_rate"] * np.where(step <= warmup, step / max(1, warmup), cosine)


def _overfit(row: dict[str, Any], history: pd.DataFrame) -> dict[str, Any]:
    """Validation rises by 0.3 nats over the second half of the run while train keeps falling."""
    half = NUM_STEPS // 2
    at_half = float(history.loc[history["step"] == half, "val_loss"].iloc[0])
    late = history["step"] > half
    rise = 0.3 * (history["step"] - half) / half
    history.loc[late, "val_loss"] = (at_half + rise).where(history["val_loss"].notna())
    history.loc[late, "eval_train_loss"] = (at_half - 0.15 - rise).where(history["val_loss"].notna())
    history["val_perplexity"] = np.exp(history["val_loss"])
    history["eval_gap"] = history["val_loss"] - history["eval_train_loss"]
    last = history.iloc[-1]
    val, train = float(last["val_loss"]), float(last["eval_train_loss"])
    finals = {"val_loss": val, "train_loss": train, "gap": val - train, "val_perplexity": math.exp(val)}
    return row | {f"final_{key}": value for key, value in finals.items()} | {"objective": min(val, WORST)}


def results_of(plan, *, seed, effect, noise=NOISE, states=None):
    """What a report reads of such a sweep, its curves left out."""
    trials, history = make_sweep(plan, effect=effect, noise=noise, with_history=False, rng_seed=seed, states=states)
    return Results(plan, trials, history)
