"""Write a sweep's report from the store alone, half-finished sweeps included.

    python -m sweeps.report lr_warmup

Leaves index.html, report.md, tables as CSV and figures in STORE/reports/NAME, and the same on the summary run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.command import run_command, store_option

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.store.read import Store


COMPARED_RUNS = 10  # in a link; MLflow's page draws a line for each


@dataclass(frozen=True)
class Report:
    """A report that was written, and what it was written from."""

    page: Path
    plan: dict[str, Any]
    trials: "pd.DataFrame"
    history: "pd.DataFrame"

    @property
    def best_run(self) -> str | None:
        """The run ID with the lowest objective."""
        ended = self.trials.dropna(subset=["objective"])
        return None if ended.empty else str(ended.sort_values(["objective", "trial", "seed"])["run_id"].iloc[0])


def make_report(store: "Store", name: str, definition: str | None = None) -> Report:
    """Read a sweep from the store and write its report into the store's folder."""
    from sweeps.page import write_report

    plan = store.plan(name, definition)
    trials = store.trials(name, plan["definition"])
    history = store.history(name, plan["definition"])
    report = Report(store.folder / "reports" / name / "index.html", plan, trials, history)
    write_report(plan, trials, history, report.page.parent, links(store, report))
    return report


def links(store: "Store", report: Report) -> dict[str, str]:
    """Where to go from a report: commands and pages."""
    name = str(report.plan["name"])
    best = report.trials.dropna(subset=["objective"]).sort_values(["objective", "trial", "seed"]).head(COMPARED_RUNS)
    pages = store.ui_links(name, list(best["run_id"]))
    found = {}
    if store.is_local:
        found["Open MLflow on the store"] = "make ui" + (f" STORE={store.where}" if store.option else "")
    found |= {"Curves in MLflow": pages.runs, "The best runs compared in MLflow": pages.compare}
    if report.best_run:
        found["Reproduce the best run"] = f"python -m sweeps.reproduce {report.best_run}{store.option}"
        found["Text from the best run"] = f'python -m sweeps.sample {report.best_run} --prompt "The "{store.option}'
    return found | {"This report again": f"python -m sweeps.report {name}{store.option}"}


def publish(outbox: Any, report: Report) -> None:
    """Put a report's files on its definition's summary run."""
    from sweeps.ledger import publish_files, summary_key

    key = summary_key(str(report.plan["name"]), str(report.plan["definition"]))
    publish_files(outbox, key, report.page.parent, "report")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("name")
@click.option("--definition", metavar="ID", help="An earlier definition of the sweep; the latest is the default.")
@store_option
def report(name: str, definition: str | None, store: str | None) -> int:
    from sweeps.catalog import sweep_name
    from sweeps.lock import LockHeldError
    from sweeps.store import open_store
    from sweeps.work import WAIT_SECONDS, drain, locked_work

    opened = open_store(store)
    name = sweep_name(name, opened.sweeps())
    known = [d.definition for d in opened.definitions(name)]
    try:
        with locked_work(opened, name) as outbox:
            made = make_report(opened, name, definition)
            publish(outbox, made)
            drain(outbox, WAIT_SECONDS)
    except LockHeldError as held:
        click.echo(f"{held}; this is the report of what is there so far, and it is not put on the summary run")
        made = make_report(opened, name, definition)
    from sweeps.summary import print_summary

    print_summary(opened, made)
    others = [d for d in known if d != made.plan["definition"]]
    if others:
        click.echo(f"other definitions of {name}: {', '.join(others)} (--definition ID)")
    return 0


if __name__ == "__main__":
    run_command(report)
