"""What a command prints when a sweep has ended or is reported: the answer, two tables, what to do next."""

from collections.abc import Iterable
from typing import Literal

import click
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps import tables
from sweeps.analysis.words import answer
from sweeps.live import say_json
from sweeps.quantities import counted
from sweeps.report import Report, links
from sweeps.screen import WIDEST_SETTING, Row, alike_in_all, fitting, said_once
from sweeps.store.read import Store

# Left out of a narrow terminal, in this order; the page has them all.
SPARE_COLUMNS = ("tokens to", "trial", "seeds", "runs", "perplexity", "train loss", "against the best", "#")
MOST_LINES = 40  # of diagnoses; the page has them all


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
            console.print(fitting_table(title, frame, console.width))
            if frame is board and (more := len(results.board) - len(board)):
                console.print(f"… and {counted(more, 'setting')} more: leaderboard.csv, beside the report")
    console.print()
    for line in diagnosis_lines(results.diagnoses):
        console.print(Text(line), soft_wrap=not console.is_terminal)  # what reads lines gets whole ones
    console.print()
    for what, where in (links(store, report) | {"Report": str(report.page)}).items():
        console.print(Text(f"{what}: ", style="bold"), end="")
        console.print(Text(where), soft_wrap=True)


def print_answer(report: Report) -> None:
    """The sentences and where the report is."""
    for sentence in answer(report.results):
        click.echo(sentence)
    click.echo(f"Report: {report.page}")


def say_answer(store: Store, report: Report) -> None:
    """The answer as a line of JSON."""
    best = report.results.board.iloc[0]
    say_json(
        "done",
        answer=answer(report.results),
        best_setting=best["label"],
        best_objective=None if pd.isna(best["objective"]) else float(best["objective"]),
        best_run=next(iter(report.best_runs()), None),
        report=str(report.page),
        links=links(store, report),
    )


def fitting_table(title: str, frame: pd.DataFrame, width: int) -> Table:
    """As many columns of a frame of text as fit; those that say least go first, and no number is cut.

    What a column that had to go says in all rows alike is said once, beside the title.
    """
    frame = frame.astype(str).rename(columns={"validation loss": "val loss"})
    long = next((name for name in ("setting", "parameter") if name in frame), str(frame.columns[0]))
    point = "gap" if long == "setting" else "val loss"  # what a table without it still answers
    starts = [*SPARE_COLUMNS, point]
    spare = [str(name) for start in starts for name in frame.columns if str(name).startswith(start)]
    widths = {str(name): max(len(str(name)), *frame[name].str.len()) for name in frame.columns}
    rows = [{str(name): str(text) for name, text in row.items()} for row in frame.to_dict("records")]
    same = {name: text for name, text in _alike(rows).items() if name not in (long, point)}
    spare = [name for name in spare if name != long]
    fit = fitting(widths, width, spare=spare, long=long, widest=WIDEST_SETTING, alike=list(same))
    once = said_once(same, fit)
    title = f"{title} ({once})" if once else title
    made = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    for name, columns in fit.items():
        justify: Literal["left", "right"] = "right" if frame[name].str.match("[-\u2013\\d]").all() else "left"
        made.add_column(name, justify=justify, no_wrap=True, width=columns)
    for row in frame[list(fit)].itertuples(index=False):
        made.add_row(*map(Text, row))
    return made


def _alike(rows: list[Row]) -> dict[str, str]:
    """The best setting's verdict is "best" whatever the others' is, which may be one."""
    verdict = "against the best"
    others = [{verdict: row[verdict]} for row in rows[1:] if verdict in row]
    return alike_in_all(rows) | alike_in_all(others)


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
