"""What a sweep would run and what that costs. Writes nothing to a store."""

from collections.abc import Iterable
from typing import Literal

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.live import duration
from sweeps.plan import Plan, Trial, disk_bytes, num_epochs, num_parameters
from sweeps.screen import fitting
from sweeps.space import Value
from tinylm_core.config import RunConfig
from tinylm_core.schedule import warmup_steps

MOST_ROWS = 40
SPARE_COLUMNS = ("tokens a step", "effective batch", "warmup steps")  # of a narrow terminal, in this order


def print_plan(plan: Plan, num_workers: int, where: str | None) -> None:
    """Settings, steps, warmup steps, effective batch, epochs, parameters, tokens, time and disk."""
    console = Console(highlight=False)
    trials = plan.known_trials()
    config = trials[0].runs[0].config if trials else plan.trial(0, _first_setting(plan)).runs[0].config
    corpus = plan.corpus_of(config)
    parameters = num_parameters(config, corpus.vocab_size)
    num_runs = plan.num_trials * plan.sweep.seeds
    tokens = sum(run.config.train_tokens for trial in trials for run in trial.runs) or num_runs * config.train_tokens
    known = known_identities(plan, where)
    reused = sum(run.identity in known for trial in trials for run in trial.runs)
    new = [run.config for trial in trials for run in trial.runs if run.identity not in known]
    work = sum(plan.cost(each).of_all(each) for each in (new if trials else [config] * num_runs))

    console.print(Text(f"{plan.experiment.name}: {plan.experiment.question}", style="bold"))
    for label, text in [
        ("search", f"{plan.sweep.search}, {plan.num_trials} trials x {plan.sweep.seeds} seeds = {num_runs} runs"),
        ("definition", f"{plan.sweep.definition}" + (f", {reused} of its runs are there already" if reused else "")),
        ("data", f"{config.data}, {len(corpus.train):,} train and {len(corpus.val):,} validation tokens"),
        ("model", f"{parameters:,} parameters, {4 * parameters / 1e6:.1f} MB of weights"),
        ("decay groups", decay_groups_line(config, corpus.vocab_size)),
        (
            "budget",
            f"{config.train_tokens:,} tokens a run = {num_epochs(config, corpus):.2f} epochs; {tokens:,} in all",
        ),
        ("time", time_line(plan, config, work, num_workers)),
        ("disk", f"about {num_runs * disk_bytes(config, corpus.vocab_size) / 1e6:,.0f} MB"),
        *(("note", note) for note in plan.notes),
    ]:
        console.print(Text(f"  {label:13}{text}"), soft_wrap=True)
    console.print(settings_table(trials or [plan.trial(0, _first_setting(plan))], console.width))
    if len(trials) > MOST_ROWS:
        console.print(f"… and {len(trials) - MOST_ROWS} more settings")
    if not trials and plan.sweep.space:
        console.print(Text("The search chooses the settings; the first choice or lower end of each is shown."))


def settings_table(trials: Iterable[Trial], width: int) -> Table:
    """One row a setting; in a narrow terminal with less of what all have in common."""
    rows = [
        {
            "trial": f"t{trial.number:03d}",
            "setting": trial.label,
            "steps": f"{config.num_steps:,}",
            "warmup steps": f"{warmup_steps(config):,}",
            "effective batch": f"{config.batch_size * config.gradient_accumulation_steps} sequences",
            "tokens a step": f"{config.tokens_per_step:,}",
        }
        for trial in list(trials)[:MOST_ROWS]
        for config in [trial.runs[0].config]
    ]
    widths = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in rows[0]}
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, columns in fitting(widths, width, spare=SPARE_COLUMNS, long="setting").items():
        justify: Literal["left", "right"] = "left" if name in ("trial", "setting") else "right"
        table.add_column(name, justify=justify, no_wrap=True, width=columns)
    for row in rows:
        table.add_row(*(Text(row[str(column.header)]) for column in table.columns))
    return table


def decay_groups_line(config: RunConfig, vocab_size: int) -> str:
    """How many parameters decay and how many don't."""
    import torch

    from tinylm_core.model import TinyGPT
    from tinylm_core.optimizer import decay_groups

    with torch.device("meta"):
        model = TinyGPT(config, vocab_size)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    groups = decay_groups(model, config)
    return "; ".join(
        f"{group.replace('_', ' ')}: {len(names)} tensors, {sum(sizes[name] for name in names):,} parameters"
        for group, names in groups.items()
    )


def time_line(plan: Plan, config: RunConfig, work: float, num_workers: int) -> str:
    """The time that work, as `Plan.cost` counts it, takes at the pace of a few steps of a config measured now."""
    from tinylm_core.speed import tokens_per_second

    pace = tokens_per_second(config, plan.corpus_of(config), plan.machine.device, threads=1)
    seconds = work / plan.cost(config).token / (pace * num_workers)
    return f"about {duration(seconds)} with {num_workers} workers at {pace:,.0f} tokens/s each (measured now)"


def known_identities(plan: Plan, where: str | None) -> set[str]:
    """Identities of the runs with a result that a store holds already; none where there is no store yet."""
    from sweeps.store import open_store, schema

    try:
        store = open_store(where)
    except ValueError as error:
        if "no store at" not in str(error):
            click.echo(str(error), err=True)
        return set()
    if plan.experiment.name not in store.sweeps():
        return set()
    return {row.identity for row in store.runs(plan.experiment.name) if row.identity and row.state in schema.RESULTS}


def _first_setting(plan: Plan) -> dict[str, Value]:
    return {name: dimension.at(0.0) for name, dimension in plan.sweep.space.items()}
