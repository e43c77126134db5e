"""What a report is made of: a definition of a sweep, read from the store, and the results computed from it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps.analysis.results import Results
from sweeps.analysis.settings import distinct
from sweeps.answer.page import write_report
from sweeps.search.importance import importances
from sweeps.spec.catalog import experiments_folder
from sweeps.store.damage import check_intact
from sweeps.store.read import Store
from sweeps.store.ui import UI_PORT, local_ui_port

ENDED = ("COMPLETE", "DIVERGED", "FAILED")
# What a person reads of a link; the keys are for programs.
LINKS = {
    "mlflow": f"Open MLflow on the store ({UI_PORT}=N for another port)",
    "curves": "Curves in MLflow",
    "best_runs": "The best runs in MLflow",
    "reproduce": "Reproduce the best run",
    "sample": "Text from the best run",
    "model": "The best run as a model",
    "report": "This report again",
}
LEAST_FOR_IMPORTANCE = 4  # settings


@dataclass(frozen=True)
class Report:
    """A report that was written, and what it was written from."""

    page: Path
    results: Results

    def best_runs(self, *states: str) -> list[str]:
        """The IDs of the runs with an objective, the lowest first; with `states` only of those in one of them."""
        trials = self.results.trials.dropna(subset=["objective"])
        trials = trials[trials["state"].isin(states)] if states else trials
        return [str(run_id) for run_id in trials.sort_values(["objective", "trial", "seed"])["run_id"]]


def make_report(store: Store, name: str, definition: str | None = None) -> Report:
    """Read a sweep from the store and write its report into the store's folder. ValueError before any run has ended."""
    results = read_results(store, name, definition)
    if not results.runs["state"].isin(ENDED).any():
        raise ValueError(
            f"no run of {name} has finished yet ({len(results.trials)} have begun); go on: {results.plan.command}; "
            f"other definitions: python -m sweeps.ls {name}{store.option}"
        )
    report = Report(store.layout.report_of(name) / "index.html", results)
    write_report(report.results, report.page.parent, in_words(links(store, report)))
    return report


def read_results(store: Store, name: str, definition: str | None = None) -> Results:
    """A definition's plan and rows, by default of the one that was run last. ValueError where it has none."""
    plan = store.plan(name, definition)
    kept = distinct(replace(plan, command=plan.command.on(store.where if store.option else None)))
    trials = store.trials(name, plan.definition)
    trials = trials[trials["trial"].isin([trial.number for trial in kept.trials])].reset_index(drop=True)
    history = store.history(name, plan.definition)
    check_intact(store, name, history)
    return Results(kept, trials, history, _importances)


def _importances(results: Results) -> dict[str, float]:
    """Optuna's, over the settings that have a mean."""
    done = results.board[results.board["objective"].notna()]
    if len(results.plan.swept) < 2 or len(done) < LEAST_FOR_IMPORTANCE:
        return {}
    settings = {trial.number: trial.setting for trial in results.plan.trials}
    return importances(
        results.plan.space, [settings[trial] for trial in done["trial"]], [float(v) for v in done["objective"]]
    )


def links(store: Store, report: Report) -> dict[str, str]:
    """Where to go from a report: commands and pages, by the keys of `LINKS`."""
    name, definition = report.results.plan.name, report.results.plan.definition
    best = report.best_runs() if report.results.has_best else []
    pages = store.ui_links(name, definition)
    found = {}
    if store.is_local:
        found["mlflow"] = server_command(store)
    found["curves"] = pages.runs
    if best:
        if pages.best is not None:
            found["best_runs"] = pages.best
        found["reproduce"] = f"python -m sweeps.reproduce {best[0]}{store.option}"
    if best and report.results.plan.trainer is None:
        found["sample"] = f"python -m sweeps.sample {best[0]}{store.option}"
    earlier = f" --definition {definition}" * (store.definitions(name)[0].definition != definition)
    return found | {"report": f"python -m sweeps.report {name}{earlier}{store.option}"}


def in_words(found: Mapping[str, str]) -> dict[str, str]:
    """Links by what a person reads of them."""
    return {LINKS[key]: where for key, where in found.items()}


def server_command(store: Store) -> str:
    """What opens MLflow's pages on a local store: in the project's own checkout its make does."""
    if Path("Makefile").is_file() and experiments_folder().parent == Path.cwd():
        return "make ui" + (f" STORE={shlex.quote(store.where)}" if store.option else "")
    database = shlex.quote(f"sqlite:///{store.layout.database}")
    server = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1"  # without job runners
    return f"{server} --host 127.0.0.1 --port {local_ui_port()} --backend-store-uri {database}"
