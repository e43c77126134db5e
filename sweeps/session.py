"""One start of a sweep, from its plan to what is printed of it: what `sweeps.run` and a program's `run_sweep` share.

A report needs pandas, SciPy and matplotlib, which no run need wait for: they are loaded within functions.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sweeps.driver.execute import Limits, execute
from sweeps.driver.ledger import Ledger
from sweeps.driver.loop import View
from sweeps.driver.retention import drop_weights
from sweeps.outbox.work import drain, locked_work
from sweeps.plan.plan import Plan, Trial
from sweeps.store.read import Store
from sweeps.terminal.command import COME_BACK_LATER, DONE, DONE_WITH_FAILURES
from sweeps.terminal.live_view import view_for
from sweeps.terminal.signals import Paused, Signals
from sweeps.terminal.views import Output
from sweeps.workers.protocol import Workers

LOAD_REPORT_SECONDS = 5.0  # into a sweep: what it begins with has been loaded by then


def run_session(
    plan: Plan,
    workers: Workers,
    store: Store,
    *,
    limits: Limits,
    signals: Signals,
    output: Output,
    resume_hint: str,
    takes_over: bool = False,
) -> int:
    """Run what is missing of a plan, report and print; returns the exit code. Paused where a signal came.

    `resume_hint` says how somebody goes on with a sweep that has stopped before it was done; with `takes_over` another
    driver of it, on a server, is followed at once.
    """

    def make_view(trials: list[Trial], ledger: Ledger) -> View:
        tell_notes(ledger.notes_on(trials), output)
        return view_for(plan, trials, ledger, outbox, workers.waits_for, output)

    def say(what: str) -> None:
        click.echo(what, err=output == "json")

    name = plan.experiment.name
    with locked_work(store, name, wait=limits.wait, begins=True, takes_over=takes_over) as outbox:
        with _report_loaded_meanwhile(plan):
            outcome = execute(
                plan,
                workers,
                store,
                outbox,
                make_view,
                signals.asked_to_stop,
                limits=limits,
                uninterrupted=signals.deferred,
            )
        if signals.received:
            raise Paused
        if outcome.paused and not outcome.out_of_time:
            _tell_failures(store, name, outcome.failed)
            say(f"stopped after {len(outcome.failed)} failed runs; {resume_hint}")
            return DONE_WITH_FAILURES
        if outcome.out_of_time and not outcome.has_results:
            _tell_failures(store, name, outcome.failed)
            say(f"out of time; {resume_hint}")
            return COME_BACK_LATER
        from sweeps.answer.publish import publish, publish_answer
        from sweeps.answer.report import make_report
        from sweeps.terminal.summary import print_answer, print_summary, say_answer

        if not outcome.out_of_time:
            drop_weights(plan, store, outbox)
        report = make_report(store, name, plan.sweep.definition)
        publish(outbox, store, report)
        publish_answer(outbox, store, report)
        drain(outbox, limits.wait)
    match output:
        case "people":
            print_summary(store, report)
        case "quiet":
            print_answer(report)
        case "json" if not outcome.out_of_time:
            say_answer(store, report)
    _tell_failures(store, name, outcome.failed)
    if outcome.out_of_time:
        say(f"out of time; {resume_hint}")
        return COME_BACK_LATER
    return DONE_WITH_FAILURES if outcome.failed else DONE


@contextmanager
def _report_loaded_meanwhile(plan: Plan) -> Iterator[None]:
    """Load what a report needs, pandas, SciPy and matplotlib, beside the runs, so that it follows the last at once."""

    def load() -> None:
        import sweeps.answer.page
        import sweeps.answer.publish
        import sweeps.terminal.summary  # noqa: F401

        if len(plan.sweep.space) > 1:
            import sklearn.ensemble  # noqa: F401  # of Optuna's importances

    timer = threading.Timer(LOAD_REPORT_SECONDS, load)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tell_notes(notes: list[str], output: Output) -> None:
    """What there is to know of a plan, a line each."""
    for note in notes:
        click.echo(note, err=output != "people")


def _tell_failures(store: Store, sweep_name: str, failed: dict[str, str]) -> None:
    """A line for each run that failed, and where the whole of it stands."""
    if not failed:
        return
    rows = sorted(store.runs(sweep_name), key=lambda row: str(row.start_time))
    run_ids = {row.name: row.run_id for row in rows if row.state == "FAILED"}
    for name, error in failed.items():
        click.echo(f"FAILED {name}: {error}", err=True)
        if run_id := run_ids.get(name):  # which the tracker may not have heard of yet
            folder = store.artifacts.folder(run_id)
            where = f"in MLflow among the artifacts of run {run_id}" if folder is None else folder
            click.echo(f"  traceback.txt, and what it printed: {where}", err=True)
