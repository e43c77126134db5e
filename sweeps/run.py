"""Run a sweep, or go on with it.

    python -m sweeps.run lr_warmup
    python -m sweeps.run lr_warmup --set d_model=64 --seeds 3
    python -m sweeps.run lr_warmup --sweep learning_rate=1e-4:1e-2:5:log
    python -m sweeps.run path/to/my_sweep.py --dry-run

Ctrl-C pauses; the same command goes on. Results are in MLflow and in STORE/reports/NAME.
"""

import math
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from sweeps.outbox.errors import WAIT_SECONDS
from sweeps.spec.searches import SAMPLING
from sweeps.terminal.command import DONE, FiniteRange, OneOf, help_of, run_command, store_option
from sweeps.terminal.signals import Paused, Signals
from sweeps.workers.engines import on_ray, on_this_machine

if TYPE_CHECKING:
    from sweeps.terminal.views import Output


@click.command(help=help_of(__doc__))
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
@click.option("--search", type=OneOf(["grid", *SAMPLING]), help="How the space is searched.")
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
    type=FiniteRange(0),
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
    type=FiniteRange(0, min_open=True),
    help="Pause after so many hours, report what there is, and end with exit code 75. Default: no end.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=FiniteRange(0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds to wait for an MLflow server or disk.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Follow another driver of the sweep on a server at once. Default: once it gives no sign of life for a minute.",
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
    take_over: bool,
    store: str | None,
    quiet: bool,
    json_: bool,
    dry_run: bool,
    list_: bool,
) -> int:
    end = math.inf if max_hours is None else time.monotonic() + max_hours * 3600

    # pydantic and what runs need, which --help and --list need not wait for
    from sweeps.spec.catalog import list_experiments

    if list_ or name is None:
        for known, question in list_experiments().items():
            click.echo(f"{known:18} {question}")
        if not list_:
            click.echo("\npython -m sweeps.run NAME")
        return DONE

    from sweeps.spec.catalog import load_experiment
    from sweeps.spec.flags import overridden

    if at and confirm is None:
        raise ValueError("--at is of --confirm K; --set changes the base of all settings")
    experiment = overridden(load_experiment(name), settings, dimensions, search, num_trials, seeds)

    from sweeps.driver.execute import Limits
    from sweeps.plan.plan import make_plan
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
    resume_hint = f"the same command goes on: {command_line()}"
    try:
        with Signals(ends_after=True) as signals, where as running_on:
            from sweeps.session import run_session, tell_notes  # while the workers' server loads torch

            if confirm is not None:
                from sweeps.driver.confirm import confirmed

                experiment, which = confirmed(experiment, open_store(store), confirm, running_on.machine, at)
                tell_notes([which], output)
            if dry_run:
                from sweeps.terminal.dry_run import print_plan

                print_plan(make_plan(experiment, running_on.machine), running_on.num_slots, store)
                return DONE
            plan = make_plan(experiment, running_on.machine)
            tell_notes(plan.notes, output)
            opened = open_store(store, create=True, wait=wait)
            if signals.received:
                raise Paused  # once more: where one comes within a callback, the interpreter goes on
            workers_there = running_on.make_workers(plan.trainer.corpus_of)
            limits = Limits(wait, max_failures, end)
            return run_session(
                plan,
                workers_there,
                opened,
                limits=limits,
                signals=signals,
                output=output,
                resume_hint=resume_hint,
                takes_over=take_over,
            )
    except Paused:
        click.echo(f"paused; {resume_hint}", err=json_)
        return 128 + signals.received


def command_line() -> str:
    """The command that was given, for going on."""
    return f"python -m sweeps.run {shlex.join(sys.argv[1:])}"


if __name__ == "__main__":
    run_command(run)
