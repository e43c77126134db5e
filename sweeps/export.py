"""Write a sweep as an Optuna study, for Optuna Dashboard and Optuna's own analyses.

    python -m sweeps.export lr_warmup --optuna sqlite:///study.db

A trial is a setting: its value is the mean objective over the seeds, its intermediate values the mean validation loss
by tokens, its attributes the runs. Written again, the study is replaced. To look at it: pip install optuna-dashboard;
optuna-dashboard sqlite:///study.db
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from sweeps.spec.naming import counted
from sweeps.terminal.command import DONE, help_of, run_command, store_option
from tinylm_core.records import RESULTS

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.plan.record import PlanRecord, TrialRecord
    from sweeps.search.export import StudyTrial
    from sweeps.store.read import Store


@click.command(help=help_of(__doc__))
@click.argument("name")
@click.option("--optuna", "url", required=True, metavar="URL", help="The database to write to: sqlite:///study.db")
@click.option("--definition", metavar="ID", help="A definition of the sweep; the default is the one that was run last.")
@store_option
def export(name: str, url: str, definition: str | None, store: str | None) -> int:
    # pandas and Optuna, which --help need not wait for
    from sweeps.outbox.errors import RefusedError
    from sweeps.outbox.lock import LockHeldError
    from sweeps.outbox.work import locked_work
    from sweeps.search.export import MARK, write_study
    from sweeps.store import open_store
    from sweeps.store.secrets import without_secrets

    opened = open_store(store)
    name = opened.named(name)
    plan = opened.plan(name, definition)
    try:
        with locked_work(opened, name):
            plan = opened.plan(name, definition)
    except (LockHeldError, RefusedError) as why:
        click.echo(f"{why}; this is what is there so far")
    trials = list(study_trials(opened, plan))
    attributes = {MARK: plan.definition, "question": plan.question, "command": str(plan.command)}
    replaced = write_study(url, name, plan.space, trials, attributes)
    where = without_secrets(url)
    if replaced is not None:
        click.echo(f"in place of the study {name} of definition {replaced}, which was there")
    click.echo(f"{counted(len(trials), 'trial')} of {name} are in {where}: optuna-dashboard {where}")
    others = [d.definition for d in opened.definitions(name) if d.definition != plan.definition]
    if others:
        click.echo(f"other definitions of {name}: {', '.join(others)} (--definition ID)")
    return DONE


def study_trials(store: "Store", plan: "PlanRecord") -> "Iterator[StudyTrial]":
    """The trials of a plan in their order, as Optuna sees them."""
    runs = store.trials(plan.name, plan.definition)
    curves = validation_losses(store, runs)
    by_trial = dict(list(runs.groupby("trial")))
    for trial in sorted(plan.trials, key=lambda trial: trial.number):
        yield study_trial(trial, by_trial.get(trial.number, runs.iloc[:0]), curves)


def study_trial(trial: "TrialRecord", runs: "pd.DataFrame", curves: Mapping[str, Mapping[int, float]]) -> "StudyTrial":
    """One trial from its runs: complete with the value of all seeds, failed with one, running where some are missing.

    A diverged run has a value, its worst.
    """
    from sweeps.search.export import StudyTrial

    state = "COMPLETE" if len(runs) == len(trial.runs) and runs["state"].isin(RESULTS).all() else "RUNNING"
    if runs.empty:
        state = "WAITING"
    elif (runs["state"] == "FAILED").any():
        state = "FAIL"
    attributes: dict[str, Any] = {"label": trial.label}
    for run in runs.to_dict("records"):
        attributes[f"run_id seed={run['seed']}"] = run["run_id"]
        attributes[f"state seed={run['seed']}"] = run["state"]
        if run["state"] in RESULTS:
            attributes[f"objective seed={run['seed']}"] = run["objective"]
    ends = runs["end_time"].dropna()
    return StudyTrial(
        setting=trial.setting,
        state=state,  # type: ignore[arg-type]  # one of the four above
        objective=float(runs["objective"].mean()) if state == "COMPLETE" else None,
        intermediate=mean_curve([curves.get(run_id, {}) for run_id in runs["run_id"]]),
        attributes=attributes,
        start=None if runs.empty else runs["start_time"].min().to_pydatetime(),
        end=None if ends.empty else ends.max().to_pydatetime(),
    )


def validation_losses(store: "Store", runs: "pd.DataFrame") -> dict[str, dict[int, float]]:
    """Run ID → tokens trained on → validation loss: settings with other batches have other steps, the same tokens."""
    tokens_of = dict(
        zip(runs["run_id"], runs["tokens_per_step"].fillna(1), strict=True)
    )  # 1 of a config that isn't ours
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for run_id, _, step, _, value in store.points(list(runs["run_id"]), "val/loss"):
        if value is not None:
            curves[run_id][int(step * tokens_of[run_id])] = value
    return curves


def mean_curve(curves: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """The mean over seeds, as far as all of them are."""
    curves = list(curves)
    shared = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return {tokens: fmean(curve[tokens] for curve in curves) for tokens in sorted(shared)}


if __name__ == "__main__":
    run_command(export)
