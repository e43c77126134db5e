"""`--confirm K`: the experiment narrowed to the K best settings of a definition, for more seeds or another base."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from sweeps.analysis.ranking import leaderboard
from sweeps.analysis.settings import distinct, planned_runs
from sweeps.plan.plan import trainer_of
from sweeps.plan.record import PlanRecord
from sweeps.spec.catalog import Experiment
from sweeps.spec.config_type import loaded
from sweeps.spec.flags import assigned
from sweeps.spec.searches import COUNTED
from sweeps.spec.sweep import Sweep, counted_settings
from sweeps.store.read import Store
from tinylm_core.machine import Machine


def confirmed(
    experiment: Experiment, store: Store, num_settings: int, machine: Machine, at: Sequence[str] = ()
) -> tuple[Experiment, str]:
    """The experiment narrowed to the best settings of a definition with this base, space and search; and of which.

    Whatever seeds that had: the one that was run last of those that are finished, else of all. `at` changes the base
    that the settings are then trained with: FIELD=VALUE, of fields that are not swept. ValueError where there is no
    such definition, or it has fewer settings with all their seeds.
    """
    elsewhere = assigned(type(experiment.sweep.base), at, "--at")
    if swept := sorted(elsewhere.keys() & experiment.sweep.space.keys()):
        raise ValueError(f"--at {swept[0]}: it is swept, so the settings to confirm have values of their own")
    sweep, _ = trainer_of(experiment, machine).fitting(experiment.sweep)
    name = experiment.name
    known = (one.plan for one in store.definitions(name))
    plans = [plan for plan in known if plan is not None and _is_same_search(plan, sweep)]
    if not plans:
        raise ValueError(
            f"--confirm: {name} with these settings has not been run in {store.where} yet; --at FIELD=VALUE changes "
            "what the best of those that were run are trained with"
        )
    boards = ((plan, _board(store, name, plan)) for plan in map(distinct, plans))
    newest = next(boards)
    plan, board = next((one for one in (newest, *boards) if one[1]["rank"].notna().all()), newest)
    if sweep.search not in COUNTED and (made := len(plan.trials) + plan.num_repeated) < sweep.num_proposed:
        raise ValueError(
            f"--confirm: {made} of {sweep.num_proposed} trials of {name} have been made; run it without --confirm, or "
            f"confirm those with --num-trials {made}"
        )
    ranked = board.loc[board["rank"].notna() & (board["state"] == "complete"), "trial"]
    if len(ranked) < num_settings:
        raise ValueError(
            f"--confirm {num_settings}: only {len(ranked)} of {len(board)} settings of {name} are complete with all "
            "their seeds"
        )
    by_number = {trial.number: trial.setting for trial in plan.trials}
    points = tuple(by_number[trial] for trial in ranked.head(num_settings))
    of_best = replace(sweep, search="points", points=points, num_trials=None, total_tokens=None)
    flags = (("--confirm", str(num_settings)), *(("--at", text) for text in at))
    unfinished = int(board["rank"].isna().sum())
    chosen = f"the best {num_settings} of {len(board) - unfinished} settings of definition {plan.definition}"
    note = f"--confirm: {chosen}" + f", of which {unfinished} more are unfinished" * (unfinished > 0)
    best = replace(experiment, sweep=of_best.override(settings=elsewhere), flags=(*experiment.flags, *flags))
    return best, note


def _board(store: Store, name: str, plan: PlanRecord) -> pd.DataFrame:
    return leaderboard(planned_runs(plan, store.trials(name, plan.definition)), plan.swept)


def _is_same_search(plan: PlanRecord, sweep: Sweep) -> bool:
    try:
        base = loaded(type(sweep.base), plan.base)
    except ValueError:  # of a version with other fields
        return False
    same = base == sweep.base and plan.space == sweep.space and plan.swept == tuple(sweep.space)
    if sweep.search == "points":  # else the best of them, confirmed, would be the same search
        same &= [trial.setting for trial in plan.trials] == counted_settings(sweep)
    same &= plan.allowed == sweep.constraint and plan.trainer == sweep.version
    return same and plan.search == sweep.search and plan.search_seed == sweep.search_seed
