"""The best settings of a sweep, for more seeds or another base: what `--confirm K` makes of an experiment."""

from collections.abc import Sequence
from dataclasses import replace

from sweeps.analysis.ranking import leaderboard
from sweeps.analysis.settings import Plan, distinct, planned_runs
from sweeps.assignments import assigned
from sweeps.catalog import Experiment
from sweeps.configs import loaded
from sweeps.store.read import Store
from sweeps.sweep import Sweep, counted_settings
from sweeps.trainers import trainer_of
from tinylm_core.machine import Machine


def confirmed(
    experiment: Experiment, store: Store, num_settings: int, machine: Machine, at: Sequence[str] = ()
) -> Experiment:
    """The experiment narrowed to the best settings of the definition that was run last with this base, space, search.

    Whatever seeds that had. `at` changes the base that they are then trained with: FIELD=VALUE, of fields that are not
    swept. ValueError where there is no such definition, or it has fewer settings with all their seeds.
    """
    elsewhere = assigned(type(experiment.sweep.base), at)
    if swept := sorted(elsewhere.keys() & experiment.sweep.space.keys()):
        raise ValueError(f"--at {swept[0]}: it is swept, so the settings to confirm have values of their own")
    sweep, _ = trainer_of(experiment, machine).fitting(experiment.sweep)
    name = experiment.name
    definitions = store.definitions(name) if name in store.sweeps() else []
    plans = [known.plan for known in definitions if known.plan is not None and _is_same_search(known.plan, sweep)]
    if not plans:
        raise ValueError(f"--confirm: {name} with these settings has not been run in {store.where} yet")
    plan = distinct(plans[0])
    trials = store.trials(name, plan["definition"])
    board = leaderboard(planned_runs(plan, trials), plan["swept"])
    ranked = board.loc[board["rank"].notna() & (board["state"] == "complete"), "trial"]
    if len(ranked) < num_settings:
        raise ValueError(
            f"--confirm {num_settings}: only {len(ranked)} of {len(board)} settings of {name} are complete with all "
            "their seeds"
        )
    by_number = {trial["trial"]: trial["setting"] for trial in plan["trials"]}
    points = tuple(by_number[trial] for trial in ranked.head(num_settings))
    of_best = replace(sweep, search="points", points=points, num_trials=None, total_tokens=None)
    flags = ["--confirm", str(num_settings), *(word for text in at for word in ("--at", text))]
    return replace(experiment, sweep=of_best.override(settings=elsewhere), flags=(*experiment.flags, *flags))


def _is_same_search(plan: Plan, sweep: Sweep) -> bool:
    try:
        base = loaded(type(sweep.base), plan["base"])
    except ValueError:  # of a version with other fields
        return False
    space = {name: dimension.to_json() for name, dimension in sweep.space.items()}
    same = base == sweep.base and plan["space"] == space and list(plan["space"]) == list(space)
    if sweep.search == "points":  # else the best of them, confirmed, would be the same search
        same &= [trial["setting"] for trial in plan["trials"]] == counted_settings(sweep)
    same &= plan.get("allowed") == sweep.constraint and plan.get("trainer") == sweep.version
    return same and plan["search"] == sweep.search and plan["search_seed"] == sweep.search_seed
