"""Two sweeps, definitions or commits side by side: what `sweeps.report --compare` reads, prints and writes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sweeps.analysis.comparison import Comparison
from sweeps.answer.markup import Block, Heading, Table, Text, to_html, to_markdown
from sweeps.answer.tables import number, p_value
from sweeps.plan.record import PlanRecord
from sweeps.spec.fields import MATCHING_FIELDS, MEASURE_FIELDS, UNIT_FIELDS
from sweeps.spec.naming import short
from sweeps.store import schema
from sweeps.store.read import Store
from tinylm_core.records import RESULTS

COLUMNS = ["run_id", "setting", "seed", "state", "objective"]


@dataclass(frozen=True)
class Side:
    """Runs with a result, columns run_id, setting, seed, state, objective; and the base that their settings share."""

    runs: pd.DataFrame
    base: Mapping[str, Any]  # without what is swept


def read_side(store: Store, name: str | None, side: str) -> Side:
    """A sweep, or a definition or commit of the one with that name. ValueError where it has no run with a result."""
    if name is None:
        sweep, is_commit, definition = store.named(side), False, None
    else:
        is_commit = not any(known.definition.startswith(side) for known in store.definitions(name))
        sweep, definition = name, None if is_commit else side
    if is_commit:
        rows = [
            row
            for row in store.runs(sweep)
            if row.state in RESULTS and row.tags.get(schema.COMMIT, "").startswith(side)
        ]
        base = _common_base(store, sweep, side, {row.tags.get(schema.DEFINITION, "") for row in rows})
        results = [
            (row.run_id, row.tags.get(schema.SETTING, ""), row.seed, row.state, row.metrics.get(schema.OBJECTIVE))
            for row in rows
        ]
        runs = pd.DataFrame(results, columns=COLUMNS)
    else:
        trials = store.trials(sweep, definition)
        runs = trials.loc[trials["state"].isin(RESULTS), COLUMNS]
        base = _base(plan := store.plan(sweep, definition), plan.swept) if len(runs) else {}
    if runs.empty:
        what = f"{sweep}: neither a definition nor a commit {side!r}" if is_commit else f"{side}: no run"
        raise ValueError(f"{what} with a result in {store.where}")
    runs = runs.drop_duplicates("run_id").astype(
        {"setting": "str", "seed": "int64", "state": "str", "objective": "float64"}
    )
    return Side(runs.drop_duplicates(["setting", "seed"], keep="last", ignore_index=True), base)


def _common_base(store: Store, name: str, commit: str, definitions: set[str]) -> Mapping[str, Any]:
    """What a commit's definitions share. ValueError where their bases differ: their settings are not one side's."""
    plans = [known.plan for known in store.definitions(name) if known.definition in definitions and known.plan]
    swept = {field for plan in plans for field in plan.swept}
    bases = [_base(plan, swept) for plan in plans]
    if different := next((base for base in bases if base != bases[0]), None):
        what = unlike(different, bases[0])
        raise ValueError(f"commit {commit} has runs of {', '.join(sorted(definitions))}; name one. {what}")
    return bases[0] if bases else {}


def _base(plan: PlanRecord, swept: Collection[str]) -> dict[str, Any]:
    return {field: value for field, value in plan.base.items() if field not in swept}


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What the two sides don't share beside what they sweep, and what that means for a comparison; or nothing."""
    fields = [field for field in a if field in b and a[field] != b[field]]
    if not fields:
        return ""
    values = ", ".join(f"{field} ({short(a[field])}, {short(b[field])})" for field in fields)
    meaning = ""
    if units := [field for field in fields if field in UNIT_FIELDS]:
        meaning = f"; by {' and '.join(units)} a token is another one on each side, and so is a loss per token"
    elif measures := [field for field in fields if field in MEASURE_FIELDS]:
        meaning = f"; by {' and '.join(measures)} their losses are of different parts of a text"
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
