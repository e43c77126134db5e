"""Write a sweep's report from the store alone, half-finished sweeps included.

    python -m sweeps.report lr_warmup
    python -m sweeps.report --compare lr_warmup post_norm_warmup
    python -m sweeps.report lr_warmup --compare DEFINITION DEFINITION

Leaves index.html, report.md, tables as CSV and figures in STORE/reports/NAME, and the same on the summary run.
--compare holds two sweeps, or two definitions or commits of one, side by side: cells paired by setting and seed.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeps.command import DONE, run_command, store_option

if TYPE_CHECKING:
    from sweeps.analysis.results import Results
    from sweeps.store.read import Store


COMPARED_RUNS = 10  # in a link; MLflow's page draws a line for each
NEEDED = ("name", "definition", "question", "command", "search", "space", "swept", "base", "seeds", "matched", "trials")
ENDED = ("COMPLETE", "DIVERGED", "FAILED")
LEAST_FOR_IMPORTANCE = 4  # settings


@dataclass(frozen=True)
class Report:
    """A report that was written, and what it was written from."""

    page: Path
    results: "Results"

    def best_runs(self, *states: str) -> list[str]:
        """The IDs of the runs with an objective, the lowest first; with `states` only of those in one of them."""
        trials = self.results.trials.dropna(subset=["objective"])
        trials = trials[trials["state"].isin(states)] if states else trials
        return [str(run_id) for run_id in trials.sort_values(["objective", "trial", "seed"])["run_id"]]


def make_report(store: "Store", name: str, definition: str | None = None) -> Report:
    """Read a sweep from the store and write its report into the store's folder. ValueError before any run has ended."""
    from sweeps.page import write_report

    results = read_results(store, name, definition)
    if not results.runs["state"].isin(ENDED).any():
        raise ValueError(
            f"no run of {name} has finished yet ({len(results.trials)} have begun); go on: {results.plan['command']}; "
            f"other definitions: python -m sweeps.ls {name}{store.option}"
        )
    report = Report(store.folder / "reports" / name / "index.html", results)
    write_report(report.results, report.page.parent, links(store, report))
    return report


def read_results(store: "Store", name: str, definition: str | None = None) -> "Results":
    """A definition's plan and rows, by default of the one that was run last. ValueError where it has none."""
    from sweeps.analysis.results import Results
    from sweeps.analysis.settings import distinct

    plan = store.plan(name, definition)
    if lacking := [key for key in NEEDED if key not in plan]:
        raise ValueError(f"the plan of {name} in {store.where} lacks {', '.join(lacking)}: another version wrote it")
    if plan["command"].startswith("python "):
        plan = plan | {"command": plan["command"] + store.option}
    kept = distinct(plan)
    trials = store.trials(name, plan["definition"])
    trials = trials[trials["trial"].isin([trial["trial"] for trial in kept["trials"]])].reset_index(drop=True)
    return Results(kept, trials, store.history(name, plan["definition"]), _importances)


def _importances(results: "Results") -> dict[str, float]:
    """Optuna's, over the settings that have a mean."""
    done = results.board[results.board["objective"].notna()]
    if len(results.plan["swept"]) < 2 or len(done) < LEAST_FOR_IMPORTANCE:
        return {}
    from sweeps.search import importances

    settings = {trial["trial"]: trial["setting"] for trial in results.plan["trials"]}
    return importances(
        results.plan["space"], [settings[trial] for trial in done["trial"]], [float(v) for v in done["objective"]]
    )


def links(store: "Store", report: Report) -> dict[str, str]:
    """Where to go from a report: commands and pages."""
    name = str(report.results.plan["name"])
    best = report.best_runs()[:COMPARED_RUNS]
    pages = store.ui_links(name, best)
    found = {}
    if store.is_local:
        found["Open MLflow on the store"] = server_command(store)
    found |= {"Curves in MLflow": pages.runs, "The best runs compared in MLflow": pages.compare}
    if best:
        found["Reproduce the best run"] = f"python -m sweeps.reproduce {best[0]}{store.option}"
    if best and report.results.plan.get("trainer") is None:
        found["Text from the best run"] = f'python -m sweeps.sample {best[0]} --prompt "The "{store.option}'
    definition = str(report.results.plan["definition"])
    earlier = f" --definition {definition}" * (store.definitions(name)[0].definition != definition)
    return found | {"This report again": f"python -m sweeps.report {name}{earlier}{store.option}"}


def server_command(store: "Store") -> str:
    """What opens MLflow's pages on a local store: in the project's own checkout its make does."""
    from sweeps.catalog import experiments_folder

    if Path("Makefile").is_file() and experiments_folder().parent == Path.cwd():
        return "make ui" + (f" STORE={store.where}" if store.option else "")
    database = shlex.quote(f"sqlite:///{store.folder}/mlflow.db")
    server = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1"  # without job runners
    return f"{server} --host 127.0.0.1 --port 5000 --backend-store-uri {database}"


def publish(outbox: Any, report: Report) -> None:
    """Put a report's files on its definition's summary run."""
    from sweeps.ledger import publish_files, summary_key

    key = summary_key(str(report.results.plan["name"]), str(report.results.plan["definition"]))
    publish_files(outbox, key, report.page.parent, "report")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("name", required=False)
@click.option("--compare", nargs=2, metavar="A B", help="Hold two sweeps, or two definitions or commits, side by side.")
@click.option("--definition", metavar="ID", help="A definition of the sweep; the default is the one that was run last.")
@store_option
def report(name: str | None, compare: tuple[str, str] | None, definition: str | None, store: str | None) -> int:
    from sweeps.answer import publish_answer
    from sweeps.catalog import sweep_name
    from sweeps.lock import LockHeldError
    from sweeps.outbox import RefusedError
    from sweeps.store import open_store
    from sweeps.work import WAIT_SECONDS, drain, locked_work

    opened = open_store(store)
    known_sweeps = opened.sweeps()
    if compare:
        from sweeps.side_by_side import print_comparison

        print_comparison(opened, None if name is None else sweep_name(name, known_sweeps), *compare)
        return DONE
    if name is None:
        raise ValueError(f"name a sweep; {opened.where} has {', '.join(known_sweeps) or 'none yet'}")
    name = sweep_name(name, known_sweeps)
    known = [d.definition for d in opened.definitions(name)]
    try:
        with locked_work(opened, name) as outbox:
            made = make_report(opened, name, definition)
            publish(outbox, made)
            publish_answer(outbox, opened, made)
            drain(outbox, WAIT_SECONDS)
    except (LockHeldError, RefusedError) as why:
        click.echo(f"{why}; this is the report of what is there so far, and it is not put on the summary run")
        made = make_report(opened, name, definition)
    from sweeps.summary import print_summary

    print_summary(opened, made)
    if known and made.results.plan["definition"] != known[0]:
        click.echo("this is an earlier definition: the commands above run its file as it is now")
    others = [d for d in known if d != made.results.plan["definition"]]
    if others:
        click.echo(f"other definitions of {name}: python -m sweeps.ls {name}{opened.option} (here --definition ID)")
    return DONE


if __name__ == "__main__":
    run_command(report)
