"""What a command that goes on would cost: its runs that a definition lacks, and how long one of them takes.

Pure functions over `Results`; run nothing. `--dry-run` of the same command is exact: it knows other definitions' runs.
"""

from statistics import fmean

from sweeps.analysis.commands import flags_of, is_confirmed
from sweeps.analysis.results import Results
from sweeps.analysis.settings import FINISHED, SAMPLING
from sweeps.assignments import assigned, dimensions
from sweeps.configs import changed
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
        tokens = _new_runs(results, command)
    except ValueError:  # configs of another version, or a command that this one refuses
        return ""
    if not tokens:
        return ""
    done = results.complete.astype({"duration_seconds": float, "num_steps": float, "tokens_per_step": float})
    seconds = (done["duration_seconds"] / (done["num_steps"] * done["tokens_per_step"])).median() * fmean(tokens)
    length = f" of about {duration(seconds)}{' each' * (len(tokens) > 1)}" if seconds > 0 else ""
    return f"{counted(len(tokens), 'new run')}{length}"


def _new_runs(results: Results, command: str) -> list[int]:
    """The training tokens of each run that the definition lacks; none where that is not known."""
    plan, flags = results.plan, flags_of(command)
    seeds = int(flags.get("--seeds", [len(plan["seeds"])])[-1])
    base = RunConfig.model_validate(plan["base"])
    num_done = int(results.runs["state"].isin(FINISHED).sum())
    if "--confirm" in flags:
        elsewhere = base.replace(assigned(RunConfig, flags.get("--at", ())))
        asked_for = int(flags["--confirm"][-1])
        there = num_done if is_confirmed(plan) else asked_for * len(plan["seeds"])
        return [elsewhere.train_tokens] * (asked_for * seeds - there * (elsewhere == base))
    if plan["search"] == "points":  # what was searched for confirmed ones is another definition
        return []
    is_sampled = plan["search"] in SAMPLING
    sweep = Sweep(
        base=base,
        space={name: dimension_from_json(content) for name, content in plan["space"].items()},
        search=plan["search"],
        seeds=len(plan["seeds"]),
        num_trials=plan["num_trials"] + plan.get("num_repeated", 0) if is_sampled else None,
    )
    asked = sweep.override(
        settings=assigned(RunConfig, flags.get("--set", ())),
        dimensions=dimensions(RunConfig, flags.get("--sweep", ())),
        seeds=seeds,
    )
    assert isinstance(asked.base, RunConfig)
    if is_sampled:  # another space is searched anew
        there = num_done if asked.definition == sweep.definition else 0
        return [asked.base.train_tokens] * (asked.num_proposed * seeds - there)
    settings = counted_settings(asked)
    if len(settings) * seeds > MOST_COUNTED:
        return []
    done = _finished(results, base)
    configs = (asked.base.replace(setting | {"seed": seed}) for setting in settings for seed in asked.seed_values)
    return [config.train_tokens for config in configs if config not in done]


def _finished(results: Results, base: RunConfig) -> set[RunConfig]:
    settings = {trial["trial"]: trial["setting"] for trial in results.plan["trials"]}
    done = results.runs[results.runs["state"].isin(FINISHED)]
    return {
        changed(base, settings[trial] | {"seed": int(seed)})
        for trial, seed in zip(done["trial"], done["seed"], strict=True)
    }
