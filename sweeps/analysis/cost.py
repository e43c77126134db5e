"""What a command that goes on would cost: the runs that are not there yet, and how long one of them takes.

Pure functions over `Results`; run nothing. `--dry-run` of the same command is exact, and reads the text.
"""

import shlex
from itertools import pairwise

from sweeps.analysis.results import Results
from sweeps.analysis.settings import FINISHED, SAMPLING
from sweeps.assignments import assigned, dimensions
from sweeps.configs import changed, train_tokens
from sweeps.quantities import counted, duration
from sweeps.space import dimension_from_json
from sweeps.sweep import Sweep, counted_settings
from tinylm_core.config import RunConfig

MOST_COUNTED = 5000  # runs: of more their number is not worked out


def cost(results: Results, command: str) -> str:
    """`16 new runs of about 20 s each`, by what runs have taken so far; "" where that can't be known from here.

    As for a trainer of one's own, whose config is not at hand, or where a function says which settings are allowed.
    """
    plan = results.plan
    if plan.get("trainer") is not None or plan.get("allowed") or not command.startswith("python "):
        return ""
    try:
        found = _new_runs(results, command)
    except ValueError:  # of a version whose configs had other fields
        return ""
    if not found or not found[0]:
        return ""
    number, tokens = found
    taken = results.complete["duration_seconds"].astype(float) / (
        results.complete["num_steps"].astype(float) * results.complete["tokens_per_step"].astype(float)
    )
    seconds = float(taken.median()) * tokens
    length = f" of about {duration(seconds)}{' each' * (number > 1)}" if seconds > 0 else ""
    return f"{counted(number, 'new run')}{length}"


def _new_runs(results: Results, command: str) -> tuple[int, int] | None:
    """How many, and the tokens of one."""
    plan, flags = results.plan, _flags(command)
    seeds = int(flags.get("--seeds", [len(plan["seeds"])])[-1])
    base = RunConfig.model_validate(plan["base"])
    if "--confirm" in flags:
        elsewhere = base.replace(assigned(RunConfig, flags.get("--at", ())))
        there = len(plan["seeds"]) if elsewhere == base else 0
        return int(flags["--confirm"][-1]) * max(0, seeds - there), elsewhere.train_tokens
    if plan["search"] == "points":  # confirmed ones: what was searched for them is another definition
        return None
    is_sampled = plan["search"] in SAMPLING
    sweep = Sweep(
        base=base,
        space={name: dimension_from_json(content) for name, content in plan["space"].items()},
        search=plan["search"],
        seeds=len(plan["seeds"]),
        num_trials=plan["num_trials"] if is_sampled else None,
    )
    asked = sweep.override(
        settings=assigned(RunConfig, flags.get("--set", ())),
        dimensions=dimensions(RunConfig, flags.get("--sweep", ())),
        seeds=seeds,
    )
    tokens = train_tokens(asked.base)
    if is_sampled:  # another space is searched anew
        there = int(results.runs["state"].isin(FINISHED).sum()) if asked.definition == sweep.definition else 0
        return asked.num_proposed * seeds - there, tokens
    settings = counted_settings(asked)
    if len(settings) * seeds > MOST_COUNTED:
        return None
    done = _finished(results, base)
    configs = (changed(asked.base, setting | {"seed": seed}) for setting in settings for seed in asked.seed_values)
    return sum(config not in done for config in configs), tokens


def _finished(results: Results, base: RunConfig) -> set[RunConfig]:
    settings = {trial["trial"]: trial["setting"] for trial in results.plan["trials"]}
    done = results.runs[results.runs["state"].isin(FINISHED)]
    return {
        changed(base, settings[trial] | {"seed": int(seed)})
        for trial, seed in zip(done["trial"], done["seed"], strict=True)
    }


def _flags(command: str) -> dict[str, list[str]]:
    """What a `sweeps.run` command, whose flags all have a value, gives each."""
    words = shlex.split(command)
    flags: dict[str, list[str]] = {}
    for flag, value in pairwise(words):
        if flag.startswith("--"):
            flags.setdefault(flag, []).append(value)
    return flags
