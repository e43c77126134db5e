"""Train a run again from its record in the store and compare every step.

    python -m sweeps.reproduce RUN_ID

Exit code 0: bit-identical (or within --rtol); 1: different; 2: can't be run here.
"""

import json
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeps.spec.naming import counted
from sweeps.terminal.command import DONE, DONE_WITH_FAILURES, FiniteRange, help_of, run_command, store_option
from tinylm_core.records import RESULTS

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.driver.rerun import Repeat
    from sweeps.spec.config_type import Config
    from sweeps.store.schema import RunRow


@click.command(help=help_of(__doc__))
@click.argument("run_id")
@click.option(
    "--rtol",
    metavar="R",
    type=FiniteRange(0),
    default=0.0,
    show_default=True,
    help="Relative difference allowed, for other hardware.",
)
@click.option(
    "--file",
    metavar="PATH",
    help="The file of a trainer of your own. Default: the recorded one, where the store is a folder and the file has "
    "not changed.",
)
@store_option
def reproduce(run_id: str, rtol: float, file: str | None, store: str | None) -> int:
    # torch, pandas and MLflow, which --help need not wait for
    from sweeps.driver.conditions import here_and_there, own_trainer, recorded_config, with_same_data
    from sweeps.driver.rerun import start_again, train_again
    from sweeps.outbox.errors import WAIT_SECONDS
    from sweeps.outbox.work import QUIET_SECONDS, drain, locked_work
    from sweeps.spec.config_type import dumped
    from sweeps.store import open_store, schema
    from sweeps.store.damage import check_intact
    from sweeps.workers.local import LocalWorkers
    from sweeps.workers.protocol import Job

    opened = open_store(store)
    row = opened.find_run(run_id)
    if row.role != "run":
        raise ValueError(f"run {row.run_id} ({row.name}) is a {row.role} and can't be reproduced")
    if file is not None and schema.TRAINER not in row.tags:
        raise ValueError(f"--file: run {row.run_id} ({row.name}) has no trainer of its own")
    trainer = own_trainer(opened, row, file, agreed) if schema.TRAINER in row.tags else None
    if row.config is None and trainer is None:
        raise ValueError(f"run {row.run_id} ({row.name}) has a config that this version can't read")
    name = opened.sweep_of(row)
    workdir = opened.layout.work_of(name).reproduction
    with locked_work(opened, name) as outbox, tempfile.TemporaryDirectory() as folder:
        shutil.rmtree(workdir, ignore_errors=True)  # of one that was killed
        row = opened.find_run(row.run_id)  # as the drained outbox leaves it
        recorded = opened.history(run_ids=[row.run_id])
        if recorded.empty:
            raise ValueError(f"run {row.run_id} ({row.name}) has no recorded step to compare with")
        check_intact(opened, name, recorded)
        if trainer is not None:
            config: Config = recorded_config(opened, row, trainer.config_class)
        else:
            config = with_same_data(opened, row, Path(folder))
        device, differences = here_and_there(opened, row, trainer)
        click.echo(f"reproducing {row.name} ({row.run_id}), {row.state}")
        for line in differences:
            click.echo(f"  differs: {line}")
        if not differences:
            click.echo("  same conditions as recorded")
        threads = int(row.tags.get(schema.THREADS, 1))
        its_code = trainer.file if trainer else None
        job = Job(uuid.uuid4().hex, json.dumps(dumped(config)), workdir, device, threads, its_code)
        live = start_again(outbox, opened.layout, row, job, config, its_code)
        last_step = None if row.state in RESULTS else int(recorded["step"].max())
        try:
            repeat = train_again(live, LocalWorkers([job.device]), job, last_step=last_step)
        finally:  # Ctrl-C too
            outbox.drain(QUIET_SECONDS)
        drain(outbox, WAIT_SECONDS)
        (again,) = [run.run_id for run in opened.runs(name, "reproduction") if run.tags[schema.CREATION] == job.key]
    code = tell(row, recorded, repeat, rtol)
    if trainer is None and repeat.metrics and repeat.metrics.weights_sha256:
        click.echo(f"Its weights: python -m sweeps.sample {again}{opened.option}")
    return code


def agreed(file: str) -> bool:
    """Whether somebody at the terminal agrees to run a file that a server names."""
    return sys.stdin.isatty() and click.confirm(f"Run {file}, which the server names?", err=True)


def tell(row: "RunRow", recorded: "pd.DataFrame", repeat: "Repeat", rtol: float) -> int:
    """Print the verdict; returns the exit code."""
    from sweeps.analysis.reproduction import as_far_as_recorded, compare, evaluations_not_recorded
    from sweeps.store import schema

    ended = row.state in RESULTS
    repeated = repeat.history
    verdict = compare(recorded, as_far_as_recorded(repeated, recorded), rtol)
    problems = []
    if repeat.error and row.state != "FAILED":
        problems.append(f"it failed: {repeat.error}")
    if ended and repeat.metrics and repeat.metrics.state != row.state:
        problems.append(f"it ended {repeat.metrics.state}, and is recorded as {row.state}")
    if ended and (more := evaluations_not_recorded(repeated, recorded)):
        problems.append(f"{len(more)} evaluations came that are not recorded, first after step {more[0]}")
    if verdict.missing_steps:
        problems.append(
            f"{len(verdict.missing_steps)} recorded steps did not come again, first {verdict.missing_steps[0]}"
        )
    if verdict.first_step is not None:
        problems.append(
            f"largest difference {verdict.largest_difference:.3g} ({verdict.where}), first at step {verdict.first_step}"
        )
    recorded_weights = row.tags.get(schema.WEIGHTS)  # none, where a run failed or was interrupted
    weights = repeat.metrics.weights_sha256 if repeat.metrics and recorded_weights else None
    same_weights = weights == recorded_weights or weights is None
    if rtol == 0 and not same_weights and not problems:
        problems.append("every recorded number is the same, and the final weights are not")
    if problems:
        click.echo("DIFFERENT: " + "; ".join(problems))
        return DONE_WITH_FAILURES
    counts = f"{counted(verdict.num_steps, 'step')}, {counted(verdict.num_evals, 'evaluation')}"
    exact = verdict.largest_difference == 0 and same_weights
    ending = " and the final weights" if weights and same_weights else ""
    if exact:
        click.echo(f"bit-identical over {counts}{ending}")
    else:
        click.echo(f"within rtol={rtol:g} over {counts}; largest difference {verdict.largest_difference:.3g}")
    return DONE


if __name__ == "__main__":
    run_command(reproduce)
