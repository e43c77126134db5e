"""What a command that goes on would cost: its runs that a definition lacks, and how long one of them takes.

Pure functions over `Results`; run nothing. `--dry-run` of the same command is exact: it knows other definitions' runs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from statistics import fmean, median

from sweeps.analysis.results import Results
from sweeps.plan.record import PlanRecord
from sweeps.spec.command import Command
from sweeps.spec.fields import PACE_FIELDS
from sweeps.spec.flags import assigned, dimensions
from sweeps.spec.naming import counted, duration
from sweeps.spec.searches import SAMPLING
from sweeps.spec.sweep import Sweep, counted_settings
from tinylm_core.config import RunConfig
from tinylm_core.records import RESULTS

MOST_COUNTED = 5000  # runs: of more their number is not worked out


def cost(results: Results, command: Command) -> str:
    """`16 new runs of about 20 s each`, by what like runs have taken so far; "" where that can't be known from here.

    As for a trainer of one's own, whose config is not at hand, or where a function says which settings are allowed.
    """
    plan = results.plan
    if plan.trainer is not None or plan.allowed or command.is_call:
        return ""
    try:
        done = _finished(results)
        new = [config for config in _asked(results, command) if config not in done]
    except ValueError:  # configs of another version, or a command that this one refuses
        return ""
    if not new:
        return ""
    paces: dict[tuple[object, ...], list[float]] = {}
    for config, pace in done.items():
        paces.setdefault(_kind(config), []).append(pace)
    seconds = fmean(median(paces.get(_kind(config), [math.nan])) * config.train_tokens for config in new)
    length = f" of about {duration(seconds)}{' each' * (len(new) > 1)}" if seconds > 0 else ""
    return f"{counted(len(new), 'new run')}{length}"


def _kind(config: RunConfig) -> tuple[object, ...]:
    return tuple(getattr(config, field) for field in PACE_FIELDS)


def _finished(results: Results) -> dict[RunConfig, float]:
    """The runs with a result, and the seconds that a token has taken in each."""
    base, settings = RunConfig.model_validate(results.plan.base), _settings(results.plan)
    done = results.runs[results.runs["state"].isin(RESULTS)]
    columns = (done[name] for name in ("trial", "seed", "duration_seconds", "num_steps", "tokens_per_step"))
    return {
        base.replace(settings[trial] | {"seed": int(seed)}): float(seconds) / (int(steps) * int(tokens))
        for trial, seed, seconds, steps, tokens in zip(*columns, strict=True)
    }


def _settings(plan: PlanRecord) -> dict[int, dict[str, object]]:
    return {trial.number: dict(trial.setting) for trial in plan.trials}


def _asked(results: Results, command: Command) -> Iterator[RunConfig]:
    """The runs of a command's plan; of what a search has yet to propose the base stands for each."""
    plan = results.plan
    seeds = int(next(reversed(command.values("--seeds")), len(plan.seeds)))
    base = RunConfig.model_validate(plan.base)
    if command.is_confirmation:
        base = base.replace(assigned(RunConfig, command.values("--at")))
        best = results.board["trial"].head(int(command.values("--confirm")[-1]))
        return _runs(base, [_settings(plan)[trial] for trial in best], seeds)
    if plan.search == "points":  # what was searched for confirmed ones is another definition
        return iter(())
    is_sampled = plan.search in SAMPLING
    sweep = Sweep(
        base=base,
        space=plan.space,
        search=plan.search,
        seeds=len(plan.seeds),
        num_trials=plan.num_trials + plan.num_repeated if is_sampled else None,
    )
    asked = sweep.override(
        settings=assigned(RunConfig, command.values("--set")),
        dimensions=dimensions(RunConfig, command.values("--sweep")),
        seeds=seeds,
    )
    assert isinstance(asked.base, RunConfig)
    if is_sampled:  # another space is searched anew
        known = list(_settings(plan).values()) if asked.definition == sweep.definition else []
        to_come = _runs(asked.base, [{}] * (asked.num_proposed - len(known)), seeds)
        return chain(_runs(asked.base, known, seeds), to_come)
    settings = counted_settings(asked)
    return _runs(asked.base, settings, seeds) if len(settings) * seeds <= MOST_COUNTED else iter(())


def _runs(base: RunConfig, settings: Iterable[Mapping[str, object]], num_seeds: int) -> Iterator[RunConfig]:
    seeds = range(base.seed, base.seed + num_seeds)
    return (base.replace({**setting, "seed": seed}) for setting in settings for seed in seeds)
