"""Two sweeps, definitions or commits side by side: what `sweeps.report --compare` reads, prints and writes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text as Line

from sweeps.analysis.comparison import Comparison, hold_together, verdict
from sweeps.analysis.settings import UNIT_FIELDS
from sweeps.analysis.words import count
from sweeps.catalog import sweep_name
from sweeps.markup import Block, Heading, Table, Text, to_html, to_markdown
from sweeps.space import short
from sweeps.store import schema
from sweeps.store.read import Store
from sweeps.summary import fitting_table
from sweeps.sweep import MATCHING_FIELDS
from sweeps.tables import number, p_value


def print_comparison(store: Store, name: str | None, a: str, b: str) -> None:
    """Print which of A and B is better, and write the same as a page. ValueError where nothing can be paired."""
    side_a, side_b = read_side(store, name, a), read_side(store, name, b)
    shared = set(side_a["run_id"]) & set(side_b["run_id"])  # a definition and a larger one of the same settings
    side_a, side_b = (side[~side["run_id"].isin(shared)] for side in (side_a, side_b))
    if shared and (side_a.empty or side_b.empty):
        raise ValueError(f"{a} and {b} have the same runs, so there is nothing to compare")
    comparison = hold_together(side_a, side_b)
    sentences, table = verdict(comparison, a, b), cell_table(comparison, a, b)
    if differing := unlike(read_base(store, name, a), read_base(store, name, b)):
        sentences.insert(0, differing)
    if shared:
        sentences.append(f"Left out: {count(len(shared), 'run')} that both have.")
    console = Console(highlight=False)
    for sentence in sentences:
        console.print(Line(sentence))
    console.print()
    console.print(fitting_table("Setting by setting", table, console.width))
    page = write_page(store.folder / "reports", a, b, sentences, table)
    console.print(Line(f"\nReport: {page}"), soft_wrap=True)


def read_side(store: Store, name: str | None, side: str) -> pd.DataFrame:
    """The runs with a result of a sweep, or of a definition or commit: run_id, setting, seed, state, objective."""
    if name is None:
        sweep, definition, commit = sweep_name(side, store.sweeps()), None, None
    else:
        definitions = [known.definition for known in store.definitions(name)]
        is_definition = any(known.startswith(side) for known in definitions)
        sweep, definition, commit = name, side if is_definition else None, None if is_definition else side
    columns = ["run_id", "setting", "seed", "state", "objective"]
    if commit is None:
        trials = store.trials(sweep, definition)
        done = trials[trials["state"].isin(schema.RESULTS)]
        found = done[columns]
    else:
        rows = [
            row
            for row in store.runs(sweep)
            if row.state in schema.RESULTS and row.tags.get("mlflow.source.git.commit", "").startswith(commit)
        ]
        _check_alike(store, sweep, commit, {row.tags.get(schema.DEFINITION, "") for row in rows})
        found = pd.DataFrame(
            [
                (row.run_id, row.tags.get(schema.SETTING, ""), row.seed, row.state, row.metrics.get(schema.OBJECTIVE))
                for row in rows
            ],
            columns=columns,
        )
    if found.empty:
        what = f"{sweep}: neither a definition nor a commit {side!r}" if commit else f"{side}: no run"
        raise ValueError(f"{what} with a result in {store.where}")
    found = found.astype({"setting": "str", "seed": "int64", "state": "str", "objective": "float64"})
    return found.drop_duplicates(["setting", "seed"], keep="last", ignore_index=True)


def _check_alike(store: Store, name: str, commit: str, definitions: set[str]) -> None:
    """ValueError where a commit's runs are of definitions with different bases: their settings are not one side's."""
    plans = [known.plan for known in store.definitions(name) if known.definition in definitions and known.plan]
    swept = {field for plan in plans for field in plan["swept"]}
    bases = [{field: value for field, value in plan["base"].items() if field not in swept} for plan in plans]
    if any(base != bases[0] for base in bases):
        what = unlike(next(base for base in bases if base != bases[0]), bases[0])
        raise ValueError(f"commit {commit} has runs of {', '.join(sorted(definitions))}; name one. {what}")


def read_base(store: Store, name: str | None, side: str) -> dict[str, Any]:
    """The base of a side's plan: what all its settings share but for what it sweeps. {} of a commit."""
    if name is None:
        plan = store.plan(sweep_name(side, store.sweeps()))
    else:
        plans = [known.plan for known in store.definitions(name) if known.definition.startswith(side)]
        plan = (plans[0] if plans else None) or {}
    return {field: value for field, value in plan.get("base", {}).items() if field not in plan["swept"]}


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What the two sides don't share beside what they sweep, and what that means for a comparison; or nothing."""
    fields = [field for field in a if field in b and a[field] != b[field]]
    if not fields:
        return ""
    values = ", ".join(f"{field} ({short(a[field])}, {short(b[field])})" for field in fields)
    meaning = ""
    if units := [field for field in fields if field in UNIT_FIELDS]:
        meaning = f"; by {' and '.join(units)} a token is another one on each side, and so is a loss per token"
    elif unmatched := [field for field in fields if field in MATCHING_FIELDS]:
        meaning = f"; by {' and '.join(unmatched)} they don't see the same tokens"
    return f"The two differ in {values}{meaning}."


def cell_table(comparison: Comparison, a: str, b: str) -> pd.DataFrame:
    """The cells as text."""
    cells = comparison.cells
    half = (cells["high"] - cells["low"]) / 2
    return pd.DataFrame(
        {
            "setting": cells["setting"].replace("", "base"),
            "seeds": cells["num_seeds"].astype(str),
            a: cells["a"].map(lambda value: number(value, ".4f")),
            b: cells["b"].map(lambda value: number(value, ".4f")),
            "difference": [
                number(mean, "+.4f") + ("" if pd.isna(error) else f" ± {error:.4f}")
                for mean, error in zip(cells["difference"], half, strict=True)
            ],
            "p": cells["p_value"].map(p_value),
        }
    )


def write_page(folder: Path, a: str, b: str, sentences: list[str], table: pd.DataFrame) -> Path:
    """The comparison as index.html and report.md in a folder of its own; returns the page."""
    title = f"{a} against {b}"
    note = (
        "Final validation loss in nats per token, means over the seeds that both have; difference B - A, paired by "
        "seed, ± half of its 95 % t-interval with the noise pooled over settings; p Holm-corrected over the settings. "
        "A diverged run counts as ln(vocabulary)."
    )
    blocks: list[Block] = [
        *(Text(sentence, "answer") for sentence in sentences),
        Heading("Setting by setting"),
        Text(note, "note"),
        Table(table, numbers=["seeds", a, b, "difference", "p"]),
    ]
    mine = folder / re.sub(r"[^\w.-]+", "-", f"compare-{a}-{b}")
    mine.mkdir(parents=True, exist_ok=True)
    (mine / "report.md").write_text(to_markdown(title, blocks), encoding="utf-8")
    page = mine / "index.html"
    page.write_text(to_html(title, blocks, mine), encoding="utf-8")
    return page
