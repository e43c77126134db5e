"""What a sweep would run and what that costs. Writes nothing to a store, and trains only to measure a pace."""

from collections.abc import Iterable, Sequence
from statistics import median

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.driver.earlier_starts import earlier_results, earlier_trials, notes_on_texts, notes_on_trainer
from sweeps.plan.plan import Plan, Trial
from sweeps.spec.config_type import Config
from sweeps.spec.naming import counted, duration
from sweeps.spec.searches import MOST_REFUSED
from sweeps.spec.settings import sampled_settings, setting_at
from sweeps.spec.space import Value
from sweeps.store import open_store
from sweeps.store.read import Store
from sweeps.store.schema import TOKENS_PER_SECOND, RunRow
from sweeps.terminal.table import WIDEST_SETTING, alike_in_all, fitted_table

MOST_ROWS = 40
SPARE_COLUMNS = ("tokens a step", "effective batch", "warmup steps")  # of a narrow terminal, in this order


def print_plan(plan: Plan, num_workers: int, where: str | None) -> None:
    """Settings, steps, warmup steps, effective batch, epochs, parameters, tokens, time and disk."""
    console = Console(highlight=False)
    store = opened(where)
    if store:
        store.check_not_deleted(plan.experiment.name)
    trials, done = plan.known_trials(), earlier_results(store, plan) if store else []
    asked = earlier_trials(store, plan) if store and not trials else []
    points = [plan.trial(number, dict(point)) for number, point in enumerate(plan.sweep.points[: plan.num_trials])]
    listed = trials or asked or points
    first = (listed or [plan.trial(0, _first_setting(plan))])[0].runs[0]
    num_runs = plan.num_trials * plan.sweep.seeds
    tokens = sum(run.num_tokens for trial in trials for run in trial.runs) or num_runs * first.num_tokens
    known = {row.identity for row in done}
    planned = {run.identity for trial in listed for run in trial.runs}
    if plan.trainer.file:
        notes = plan.notes + notes_on_trainer(plan.trainer.file, (row for row in done if row.identity in planned))
    else:
        notes = plan.notes + notes_on_texts(plan, [first, *(run for trial in listed for run in trial.runs)], done)
    paid = f" of {plan.sweep.total_tokens:,}" if plan.sweep.total_tokens else ""
    reused = sum(run.identity in known for trial in listed for run in trial.runs)
    new = [run.config for trial in trials for run in trial.runs if run.identity not in known]
    to_run = new if trials else [first.config] * (num_runs - reused)
    work = sum(plan.trainer.cost(each).of_all(each) for each in to_run)
    megabytes = sum(map(plan.trainer.disk_bytes, to_run)) / 1e6
    trials_and_seeds = f"{counted(plan.num_trials, 'trial')} x {counted(plan.sweep.seeds, 'seed')}"
    console.print(Text(f"{plan.experiment.name}: {plan.experiment.question}", style="bold"))
    for label, text in [
        ("search", f"{plan.sweep.search}, {trials_and_seeds} = {counted(num_runs, 'run')}"),
        ("definition", f"{plan.sweep.definition}" + (f", {reused} of its runs are there already" if reused else "")),
        *plan.trainer.facts(first.config),
        ("tokens", f"{tokens:,}{paid} in all"),
        ("time", time_line(plan, first.config, work, num_workers, done) if to_run else "none: all of it is done"),
        ("disk", f"about {megabytes:,.0f} MB" if to_run else "nothing more"),
        *(("note", note) for note in notes),
    ]:
        console.print(Text(f"  {label:13}{text}"), soft_wrap=True)
    console.print(settings_table(plan, listed or [plan.trial(0, _first_setting(plan))], console.width))
    if len(listed) > MOST_ROWS:
        console.print(f"… and {len(listed) - MOST_ROWS} more settings")
    if listed and len(listed) < plan.num_trials:
        were = "were proposed already" if asked else "are tried first"
        console.print(Text(f"These {were}; the search chooses the other {plan.num_trials - len(listed)}."))
    elif not listed and plan.sweep.space:
        shown = "one that is allowed" if plan.sweep.allowed else "the first choice or lower end of each"
        console.print(Text(f"The search chooses the settings; {shown} is shown."))


def settings_table(plan: Plan, trials: Iterable[Trial], width: int) -> Table:
    """One row a setting; in a narrow terminal what all have in common is said once, above."""
    rows = [
        {
            "trial": f"t{trial.number:03d}",
            "setting": trial.label,
            "steps": f"{config.num_steps:,}",
            **plan.trainer.details(config),
            "tokens a step": f"{config.tokens_per_step:,}",
        }
        for trial in list(trials)[:MOST_ROWS]
        for config in [trial.runs[0].config]
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return fitted_table(
        columns,
        width,
        spare=SPARE_COLUMNS,
        long="setting",
        widest=WIDEST_SETTING,
        to_the_right=columns.keys() - {"trial", "setting"},
        alike={name: text for name, text in alike_in_all(columns).items() if name != "setting"},
    )


def time_line(plan: Plan, config: Config, work: float, num_workers: int, done: Sequence[RunRow]) -> str:
    """The time that work, as the trainer's `cost` counts it, takes at the pace of a few steps measured now.

    Of a trainer that can't be measured so, at the median pace of the runs that are done.
    """
    pace, how = plan.trainer.pace(config), "measured now"
    if pace is None:
        paces = [one for row in done if (one := pace_of(row)) is not None]
        if not paces:
            return f"not known before the first run; {counted(num_workers, 'worker')}"
        pace, how = median(paces), f"from {counted(len(paces), 'earlier run')}"
    seconds = work / plan.trainer.cost(config).token / (pace * num_workers)
    return f"about {duration(seconds)} with {counted(num_workers, 'worker')} at {pace:,.0f} tokens/s each ({how})"


def pace_of(row: RunRow) -> float | None:
    """Tokens a second of a run over its whole duration, evaluations included, or as its trainer says; or None."""
    tokens = row.metrics.get("train/tokens", 0.0)
    if row.start_time is not None and row.end_time is not None and tokens > 0:
        seconds = (row.end_time - row.start_time).total_seconds()
        if seconds > 0:
            return tokens / seconds
    return row.metrics.get(TOKENS_PER_SECOND) or None


def opened(where: str | None) -> Store | None:
    """The store; None where there is none yet."""
    try:
        return open_store(where)
    except ValueError as error:
        if "no store at" not in str(error):
            click.echo(str(error), err=True)
        return None


def _first_setting(plan: Plan) -> dict[str, Value]:
    """The first choice or lower end of each field, or else a setting that the sweep allows."""
    space, base = plan.sweep.space, plan.sweep.base
    first = setting_at(space, base, [0.0] * len(space))
    return next(filter(plan.sweep.allows, [first, *sampled_settings(space, base, MOST_REFUSED)]))
