"""A sweep from a notebook or a program: the same as `python -m sweeps.run`, with the results as frames."""

import signal
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sweeps.spec.sweep import Sweep

if TYPE_CHECKING:
    from sweeps.analysis.results import Results

RESUME_HINT = "the same call goes on"


def run_sweep(
    sweep: Sweep,
    name: str,
    *,
    question: str = "",
    store: str | Path | None = None,
    workers: int | None = None,
    output: Literal["people", "quiet", "json"] = "people",
) -> "Results":
    """Run what is missing of a sweep, show how far it is, write its report, and return its results.

    `name` is what the store keeps it under; the same name and sweep go on where an earlier call stopped, an interrupted
    cell included. `store`, `workers` and `output` are those of `python -m sweeps.run`. The results' `trials` has a row
    a run, `history` a row a step and evaluation, `board` a row a setting; losses are in nats per token. ValueError for
    what can't be run; Ctrl-C pauses the sweep and is a KeyboardInterrupt then. Runs are trained in processes of their
    own, so a program calls this under `if __name__ == "__main__":`.
    """
    # A program's workers import what it imports, and need none of this.
    from sweeps.answer.report import read_results
    from sweeps.driver.execute import NO_LIMITS
    from sweeps.plan.plan import make_plan
    from sweeps.session import run_session
    from sweeps.spec.catalog import Experiment
    from sweeps.spec.naming import check_name
    from sweeps.store import open_store
    from sweeps.terminal.signals import Paused, Signals
    from sweeps.workers.engines import on_this_machine

    check_name(name)
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which MLflow loads and we don't use
    experiment = Experiment(name, file=None, docstring=question or name, sweep=sweep)
    has_own_trainer = sweep.run is not None
    with on_this_machine(workers, runs_per_gpu=1, checkpoint_seconds=30, has_own_trainer=has_own_trainer) as engine:
        plan = make_plan(experiment, engine.machine)
        opened = open_store(store, create=True)
        try:
            with Signals(ends_after=False) as signals:
                workers_there = engine.make_workers(plan.trainer.corpus_of)
                run_session(
                    plan,
                    workers_there,
                    opened,
                    limits=NO_LIMITS,
                    signals=signals,
                    output=output,
                    resume_hint=RESUME_HINT,
                )
        except Paused:
            click.echo(f"paused; {RESUME_HINT}", err=output == "json")
            signal.raise_signal(signals.received)  # once more, for the caller
            raise  # who ignores it
    return read_results(opened, name, plan.sweep.definition)
