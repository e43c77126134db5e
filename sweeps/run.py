"""Run a sweep, or go on with it.

    python -m sweeps.run lr_warmup
    python -m sweeps.run lr_warmup --set d_model=64 --seeds 3
    python -m sweeps.run lr_warmup --sweep learning_rate=1e-4:1e-2:5:log
    python -m sweeps.run path/to/my_sweep.py --dry-run

Ctrl-C pauses; the same command goes on. Results are in MLflow and in STORE/reports/NAME.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import click

from sweeps.command import COME_BACK_LATER, DONE, DONE_WITH_FAILURES, OneOf, run_command, store_option
from sweeps.places import on_ray, on_this_machine
from sweeps.signals import Paused, Signals

if TYPE_CHECKING:
    from sweeps.driver import View
    from sweeps.ledger import Ledger
    from sweeps.live import Output
    from sweeps.plan import Plan, Trial
    from sweeps.store.read import Store
    from sweeps.workers import Workers

LOAD_REPORT_SECONDS = 5.0  # into a sweep: what it begins with has been loaded by then


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("name", required=False)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change the base; pins a swept field. Default: as in the experiment's file; so for --sweep, --search, "
    "--num-trials and --seeds.",
)
@click.option("--sweep", "dimensions", multiple=True, metavar="FIELD=v1,v2|low:high:points:log", help="Sweep a field.")
@click.option("--search", type=OneOf(["grid", "random", "sobol", "tpe"]), help="How the space is searched.")
@click.option("--num-trials", metavar="N", type=click.IntRange(1), help="How many trials; a grid counts its cells.")
@click.option("--seeds", metavar="N", type=click.IntRange(1), help="Seeds a trial trains with.")
@click.option(
    "--confirm",
    type=click.IntRange(1),
    metavar="K",
    help="Run the best K settings so far, with --seeds N, or --at another base. Default: all settings.",
)
@click.option(
    "--at",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Confirm them with another base: --at train_tokens=1000000. Default: the base that they were found with.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Runs at a time. Default: one a core, or by --runs-per-gpu."
)
@click.option(
    "--runs-per-gpu", metavar="N", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time a GPU."
)
@click.option(
    "--engine",
    type=OneOf(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where runs execute: processes here, or tasks of a Ray cluster.",
)
@click.option(
    "--address", metavar="auto|HOST:PORT|ray://…", help="Of the Ray cluster. Default: a Ray of its own, here."
)
@click.option(
    "--cpus-per-run", metavar="N", type=click.IntRange(1), help="CPUs, and threads, of a run on Ray. Default: 1."
)
@click.option(
    "--checkpoint-seconds",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="Seconds between a run's checkpoints.",
)
@click.option(
    "--max-failures",
    metavar="N",
    type=click.IntRange(1),
    help="Stop after so many failed runs. Default: a quarter of all, at least 3.",
)
@click.option(
    "--max-hours",
    metavar="HOURS",
    type=click.FloatRange(0, min_open=True),
    help="Pause after so many hours, report what there is, and end with exit code 75. Default: no end.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=600,
    show_default=True,
    help="Seconds to wait for an MLflow server or disk.",
)
@store_option
@click.option("--quiet", is_flag=True, help="Print only what is waited for, and the answer.")
@click.option("--json", "json_", is_flag=True, help="Print a line of JSON for each event, for programs.")
@click.option("--dry-run", is_flag=True, help="Say what would be run and what it costs; write nothing.")
@click.option("--list", "list_", is_flag=True, help="List the experiments that are included.")
def run(
    name: str | None,
    settings: tuple[str, ...],
    dimensions: tuple[str, ...],
    search: str | None,
    num_trials: int | None,
    seeds: int | None,
    confirm: int | None,
    at: tuple[str, ...],
    workers: int | None,
    runs_per_gpu: int,
    engine: str,
    address: str | None,
    cpus_per_run: int | None,
    checkpoint_seconds: float,
    max_failures: int | None,
    max_hours: float | None,
    wait: float,
    store: str | None,
    quiet: bool,
    json_: bool,
    dry_run: bool,
    list_: bool,
) -> int:
    end = math.inf if max_hours is None else time.monotonic() + max_hours * 3600

    from sweeps.catalog import list_experiments

    if list_ or name is None:
        for known, question in list_experiments().items():
            click.echo(f"{known:18} {question}")
        if not list_:
            click.echo("\npython -m sweeps.run NAME")
        return DONE

    from sweeps.catalog import load_experiment, overridden

    if at and confirm is None:
        raise ValueError("--at is of --confirm K; --set changes the base of all settings")
    experiment = overridden(load_experiment(name), settings, dimensions, search, num_trials, seeds)

    from sweeps.plan import make_plan
    from sweeps.store import open_store

    if engine == "ray":
        where = on_ray(address, workers, cpus_per_run or 1, runs_per_gpu, checkpoint_seconds)
    elif address or cpus_per_run:
        raise ValueError("--address and --cpus-per-run are of --engine ray")
    else:
        has_own_trainer = experiment.sweep.run is not None
        where = on_this_machine(
            workers, runs_per_gpu, checkpoint_seconds, has_own_trainer=has_own_trainer, only_looks=dry_run
        )
    output: Output = "json" if json_ else "quiet" if quiet else "people"
    again = f"the same command goes on: {command_line()}"
    try:
        with Signals(ends_after=True) as signals, where as place:
            if confirm is not None:
                from sweeps.confirm import confirmed

                experiment, which = confirmed(experiment, open_store(store), confirm, place.machine, at)
                tell_notes([which], output)
            if dry_run:
                from sweeps.dry_run import print_plan

                print_plan(make_plan(experiment, place.machine), place.num_slots, store)
                return DONE
            plan = make_plan(experiment, place.machine)
            tell_notes(plan.notes, output)
            opened = open_store(store, create=True)
            if signals.received:
                raise Paused  # once more: where one comes within a callback, the interpreter goes on
            workers_there = place.make_workers(plan.trainer.corpus_of)
            return sweep(plan, workers_there, opened, signals, again, max_failures, wait, output, end)
    except Paused:
        click.echo(f"paused; {again}", err=json_)
        return 128 + signals.received


def sweep(
    plan: "Plan",
    workers: "Workers",
    store: "Store",
    signals: Signals,
    again: str,
    max_failures: int | None,
    wait: float,
    output: "Output",
    end: float = math.inf,
) -> int:
    """Run what is missing of a plan until `time.monotonic()` is `end`, report and print; returns the exit code.

    Paused where a signal came. `again` says how somebody goes on with a sweep that has stopped before it was done.
    """
    from sweeps.execute import execute
    from sweeps.live import view_for
    from sweeps.work import drain, locked_work

    def make_view(trials: "list[Trial]", ledger: "Ledger") -> "View":
        tell_notes(ledger.notes_on(trials), output)
        return view_for(plan, trials, ledger, outbox, workers.waits_for, output)

    def say(what: str) -> None:
        click.echo(what, err=output == "json")

    name = plan.experiment.name
    with locked_work(store, name, wait=wait) as outbox:
        with report_loaded_meanwhile(plan):
            outcome = execute(
                plan,
                workers,
                store,
                outbox,
                make_view,
                signals.asked_to_stop,
                uninterrupted=signals.deferred,
                max_failures=max_failures,
                wait=wait,
                is_out_of_time=lambda: time.monotonic() >= end,
            )
        if signals.received:
            raise Paused
        if outcome.paused and not outcome.out_of_time:
            tell_failures(store, name, outcome.failed)
            say(f"stopped after {len(outcome.failed)} failed runs; {again}")
            return DONE_WITH_FAILURES
        if outcome.out_of_time and not outcome.has_results:
            tell_failures(store, name, outcome.failed)
            say(f"out of time; {again}")
            return COME_BACK_LATER
        from sweeps.answer import publish_answer  # pandas and SciPy, which no run need wait for
        from sweeps.report import make_report, publish
        from sweeps.retention import drop_weights
        from sweeps.summary import print_answer, print_summary, say_answer

        if not outcome.out_of_time:
            drop_weights(plan, store, outbox)
        report = make_report(store, name, plan.sweep.definition)
        publish(outbox, report)
        publish_answer(outbox, store, report)
        drain(outbox, wait)
    match output:
        case "people":
            print_summary(store, report)
        case "quiet":
            print_answer(report)
        case "json" if not outcome.out_of_time:
            say_answer(store, report)
    tell_failures(store, name, outcome.failed)
    if outcome.out_of_time:
        say(f"out of time; {again}")
        return COME_BACK_LATER
    return DONE_WITH_FAILURES if outcome.failed else DONE


@contextmanager
def report_loaded_meanwhile(plan: "Plan") -> Iterator[None]:
    """Load what a report needs, pandas, SciPy and matplotlib, beside the runs, so that it follows the last at once."""
    modules = ["sweeps.answer", "sweeps.page", "sweeps.figures", "sweeps.summary"]
    modules += ["sklearn.ensemble"] * (len(plan.sweep.space) > 1)  # of Optuna's importances

    def load() -> None:
        for module in modules:
            import_module(module)

    timer = threading.Timer(LOAD_REPORT_SECONDS, load)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tell_notes(notes: list[str], output: "Output") -> None:
    """What there is to know of a plan, a line each."""
    for note in notes:
        click.echo(note, err=output != "people")


def tell_failures(store: "Store", sweep_name: str, failed: dict[str, str]) -> None:
    """A line for each run that failed, and where the whole of it stands."""
    if not failed:
        return
    rows = sorted(store.runs(sweep_name), key=lambda row: str(row.start_time))
    run_ids = {row.name: row.run_id for row in rows if row.state == "FAILED"}
    for name, error in failed.items():
        click.echo(f"FAILED {name}: {error}", err=True)
        if run_id := run_ids.get(name):  # which the tracker may not have heard of yet
            folder = store.artifacts_of(run_id)
            where = f"in MLflow among the artifacts of run {run_id}" if folder is None else folder
            click.echo(f"  traceback.txt, and what it printed: {where}", err=True)


def command_line() -> str:
    """The command that was given, for going on."""
    import shlex
    import sys

    return f"python -m sweeps.run {shlex.join(sys.argv[1:])}"


if __name__ == "__main__":
    run_command(run)
