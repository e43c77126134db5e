"""What a command prints of a sweep that has ended, is reported or compared: answer and tables. Computes none of it."""

import re
from collections.abc import Iterable, Mapping, Sequence

import click
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.analysis.comparison import hold_together, verdict
from sweeps.answer import tables
from sweeps.answer.compare import cell_table, read_side, unlike, write_page
from sweeps.answer.report import Report, in_words, links
from sweeps.answer.sentences import answer
from sweeps.spec.naming import counted
from sweeps.store.read import Store
from sweeps.terminal.events import SweepDone, say_event
from sweeps.terminal.table import WIDEST_SETTING, alike_in_all, fitted_table

MOST_LINES = 40  # of diagnoses; the page has them all
VERDICT = "against the best"  # the column of a leaderboard
# Left out of a narrow terminal, in this order; the page has them all.
SPARE_COLUMNS = ("tokens to", "trial", "seeds", "runs", "perplexity", "train loss", VERDICT, "#")


def print_summary(store: Store, report: Report) -> None:
    """The report in the terminal. Where it is longer than that is high, the best setting is said again at its end."""
    console = Console(highlight=False)
    if not console.is_terminal:
        print_whole(console, store, report)
        return
    with console.capture() as whole:
        print_whole(console, store, report)
    click.echo(whole.get(), nl=False)
    if len(whole.get().splitlines()) >= console.height:
        console.print()
        console.print(Text(answer(report.results)[0], style="bold"))


def print_whole(console: Console, store: Store, report: Report) -> None:
    """The answer, two tables, what is to be said of single runs, and where to go on."""
    results = report.results
    console.print()
    for sentence in answer(results):
        console.print(Text(sentence))
    board = tables.leaderboard_table(results).drop(columns=["run IDs", "tokens/s"])  # in the page
    for title, frame in {"Leaderboard": board, "Train against validation": tables.gap_table(results)}.items():
        if not frame.empty:
            console.print()
            console.print(frame_table(title, frame, console.width))
            if frame is board and (more := len(results.board) - len(board)):
                console.print(f"… and {counted(more, 'setting')} more: leaderboard.csv, beside the report")
    console.print()
    for line in diagnosis_lines(results.diagnoses):
        console.print(Text(line), soft_wrap=not console.is_terminal)  # what reads lines gets whole ones
    console.print()
    for what, where in (in_words(links(store, report)) | {"Report": str(report.page)}).items():
        console.print(Text(f"{what}: ", style="bold"), end="")
        console.print(Text(where), soft_wrap=True)


def print_answer(report: Report) -> None:
    """The sentences and where the report is."""
    for sentence in answer(report.results):
        click.echo(sentence)
    click.echo(f"Report: {report.page}")


def say_answer(store: Store, report: Report) -> None:
    """The answer as a line of JSON."""
    results = report.results
    best = results.board.iloc[0] if results.has_best else None
    settings = {trial.number: trial.setting for trial in results.plan.trials}
    say_event(
        SweepDone(
            answer=answer(results),
            best_setting=None if best is None else settings[int(best["trial"])],
            best_objective=None if best is None else float(best["objective"]),
            best_run=None if best is None else next(iter(report.best_runs()), None),
            report=str(report.page),
            links=links(store, report),
        )
    )


def diagnosis_lines(findings: pd.DataFrame) -> Iterable[str]:
    """One line a run: its findings, worst first; runs without any are counted, and what all have is said once."""
    healthy = findings[findings["finding"] == "healthy"]
    num_runs = findings["run_id"].nunique()
    if num_runs - len(healthy) > MOST_LINES:
        for finding, rows in findings.groupby("finding", sort=False):
            yield f"{finding}: {counted(rows['run_id'].nunique(), 'run')}"
        return
    in_all = findings.groupby("finding")["run_id"].transform("nunique") == num_runs
    if num_runs > 1 and len(healthy) < num_runs:
        for finding in findings.loc[in_all, "finding"].unique():
            yield f"{finding}: all {num_runs} runs"
        findings = findings[~in_all]
    for _, rows in findings.drop(healthy.index).groupby(["trial", "seed"], sort=True):
        said = "; ".join((rows["finding"] + ": " + rows["detail"]).str.removesuffix(": "))
        first = rows.iloc[0]
        yield f"t{first['trial']:03d} {first['label']} seed={first['seed']}: {said}"
    if len(healthy):
        details = " ".join(f", {detail}" for detail in healthy["detail"].unique() if detail)
        yield f"{counted(len(healthy), 'run')} {'is' if len(healthy) == 1 else 'are'} healthy{details}"


def print_comparison(store: Store, name: str | None, a: str, b: str) -> None:
    """Print which of A and B is better, and write the same as a page. ValueError where nothing can be paired."""
    side_a, side_b = read_side(store, name, a), read_side(store, name, b)
    shared = set(side_a.runs["run_id"]) & set(side_b.runs["run_id"])  # a definition and a larger one
    runs_a, runs_b = (side.runs[~side.runs["run_id"].isin(shared)] for side in (side_a, side_b))
    if shared and (runs_a.empty or runs_b.empty):
        less, more = (a, b) if runs_a.empty else (b, a)
        raise ValueError(f"every run of {less} is one of {more} too, so there is nothing to compare")
    comparison = hold_together(runs_a, runs_b)
    sentences, table = verdict(comparison, a, b), cell_table(comparison, a, b)
    if differing := unlike(side_a.base, side_b.base):
        sentences.insert(0, differing)
    if shared:
        sentences.append(f"Left out: {counted(len(shared), 'run')} that both have.")
    console = Console(highlight=False)
    for sentence in sentences:
        console.print(Text(sentence))
    console.print()
    console.print(frame_table("Setting by setting", table, console.width))
    page = write_page(store.layout.reports, a, b, sentences, table)
    console.print(Text(f"\nReport: {page}"), soft_wrap=True)


def frame_table(title: str, frame: pd.DataFrame, width: int) -> Table:
    """Return a table of as many columns of a frame of text as fit; those that say least go first, no number is cut.

    What a column that had to go says in all rows alike is said once, beside the title.
    """
    frame = frame.astype(str).rename(columns={"validation loss": "val loss"})
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    long = next((name for name in ("setting", "parameter") if name in columns), next(iter(columns)))
    point = "gap" if long == "setting" else "val loss"  # what a table without it still answers
    starts = [*SPARE_COLUMNS, point]
    return fitted_table(
        columns,
        width,
        spare=[name for start in starts for name in columns if name.startswith(start) and name != long],
        long=long,
        widest=WIDEST_SETTING,
        to_the_right=[name for name, texts in columns.items() if all(re.match("[-\u2013\\d]", text) for text in texts)],
        alike={name: text for name, text in _alike(columns).items() if name not in (long, point)},
        title=title,
    )


def _alike(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The best setting's verdict is "best" whatever the others' is, which may be one."""
    others = {name: texts[1:] for name, texts in columns.items() if name == VERDICT}
    return alike_in_all(columns) | alike_in_all(others)
