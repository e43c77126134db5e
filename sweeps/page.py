"""A sweep's report: what goes on the page, top to bottom, and the tables the terminal shows.

Pure but for the files it writes; knows no MLflow. Numbers come from `stats`, sentences from `words`, figures from
`plots`, and `markup` turns all of it into Markdown and HTML.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sweeps import stats, words
from sweeps.markup import Block, Code, Heading, Links, Picture, Table, Text, to_html, to_markdown
from sweeps.stats import Plan

TOP_SETTINGS = 15
MOST_ROWS = 40
NOTHING = "\N{EN DASH}"


def write_report(
    plan: Plan, trials: pd.DataFrame, history: pd.DataFrame, folder: Path, links: Mapping[str, str]
) -> Path:
    """Writes the report into `folder` and returns its index.html, which needs no other file.

    Beside it: report.md with the same content, trials.csv, gaps.csv, leaderboard.csv, figures/NAME.png and .svg.
    `links` are names with a web address or a command, shown last.
    """
    from sweeps.plots import FIGURES, save_figures  # matplotlib is slow to import, and the terminal needs none

    folder.mkdir(parents=True, exist_ok=True)
    trials.to_csv(folder / "trials.csv", index=False)
    stats.gaps(plan, trials).to_csv(folder / "gaps.csv", index=False)
    stats.leaderboard(plan, trials).to_csv(folder / "leaderboard.csv", index=False)
    names = save_figures(plan, trials, history, folder / "figures")
    pictures = [Picture(name, FIGURES[name][1]) for name in names]

    title, blocks = str(plan["name"]), _blocks(plan, trials, history, pictures, links)
    (folder / "report.md").write_text(to_markdown(title, blocks), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(to_html(title, blocks, folder), encoding="utf-8")
    return page


def terminal_tables(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The leaderboard's top and the gap table as text, ready to print; run IDs are in the report."""
    board = _leaderboard_text(plan, trials, history).drop(columns=["run IDs", "tokens/s"])
    return {"leaderboard": board.head(TOP_SETTINGS), "gaps": _gaps_text(plan, trials)}


def _blocks(
    plan: Plan, trials: pd.DataFrame, history: pd.DataFrame, pictures: list[Picture], links: Mapping[str, str]
) -> list[Block]:
    num_settings, num_seeds = len(plan["trials"]), len(plan["seeds"])
    facts = (
        f"{plan['search']} over {', '.join(plan['swept']) or 'nothing'} · {_count(num_settings, 'setting')} with "
        f"{_count(num_seeds, 'seed')} each · definition {str(plan['definition'])[:12]}"
    )
    question = [Text(str(plan["question"]))] if plan["question"] else []
    return [
        *question,
        Text(facts, "note"),
        Heading("Answer"),
        *(Text(sentence, "answer") for sentence in words.answer(plan, trials, history)),
        *_leaderboard_blocks(plan, trials, history),
        *_gap_blocks(plan, trials),
        Heading("Figures"),
        *pictures,
        *_diagnosis_blocks(plan, trials, history),
        *_unfinished_blocks(plan, trials, history),
        Heading("Go on from here"),
        Links({"Run it again or go on": plan["command"], **links}),
    ]


def _leaderboard_blocks(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> list[Block]:
    board = stats.leaderboard(plan, trials)
    text = _leaderboard_text(plan, trials, history)
    numbers = [str(c) for c in text if c not in ("setting", "against the best", "run IDs")]
    more = f" Of {len(board)}, the top {TOP_SETTINGS}; all are in leaderboard.csv." * (len(board) > TOP_SETTINGS)
    blocks: list[Block] = [
        Heading("Leaderboard"),
        Text(
            "Settings by final validation loss in nats per token, mean ± standard error over seeds; a diverged run "
            "counts as ln(vocabulary). Differences are tested in pairs over shared seeds with the noise pooled over "
            f"settings, Holm-corrected over all pairs, at 5 %.{more}",
            "note",
        ),
        Table(text.head(TOP_SETTINGS), numbers=numbers, code=["run IDs"]),
    ]
    run_ids = board.iloc[0]["run_ids"].split()
    if run_ids:
        blocks += [
            Text(
                "The best setting's runs again, to the last bit; any other run the same way, with its run ID:", "note"
            ),
            Code([f"python -m sweeps.reproduce {run_id}" for run_id in run_ids]),
        ]
    return blocks


def _leaderboard_text(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    board = stats.leaderboard(plan, trials)
    runs = stats.planned_runs(plan, trials)
    targets = stats.tokens_to_target(runs[runs["run_id"].notna()], history)
    target = targets["target"].iloc[0] if len(targets) else np.nan
    tokens = board["trial"].map(targets.groupby("trial")["setting_tokens"].first())
    text = pd.DataFrame(
        {
            "#": [NOTHING if pd.isna(rank) else str(rank) for rank in board["rank"]],
            "trial": [f"t{trial:03d}" for trial in board["trial"]],
            "setting": board["label"].replace("", "base"),
            "validation loss": [
                _plus_minus(*pair) for pair in zip(board["objective"], board["standard_error"], strict=True)
            ],
            "against the best": [_verdict(row, place) for place, (_, row) in enumerate(board.iterrows())],
            "seeds": [f"{row['num_seeds_done']}/{row['num_seeds_planned']}" for _, row in board.iterrows()],
            "perplexity": board["val_perplexity"].map(lambda value: _number(value, ".2f")),
            "train loss": board["train_loss"].map(lambda value: _number(value, ".4f")),
            "gap": board["gap"].map(lambda value: _number(value, ".4f")),
        }
    )
    if not np.isnan(target):
        text[f"tokens to {target:.3f}"] = tokens.map(lambda value: _number(value, ",.0f"))
    text["tokens/s"] = board["tokens_per_second"].map(lambda value: _number(value, ",.0f"))
    text["run IDs"] = board["run_ids"]
    return text


def _verdict(row: pd.Series, place: int) -> str:
    if pd.isna(row["rank"]):
        return f"unfinished: {row['state']}"
    if row["state"] != "complete":
        return str(row["state"])
    if place == 0:
        return "best"
    if pd.isna(row["tied_with_best"]):
        return "unknown: too few seeds"
    return "can't be told apart" if row["tied_with_best"] else "worse"


def _gap_blocks(plan: Plan, trials: pd.DataFrame) -> list[Block]:
    text = _gaps_text(plan, trials)
    if text.empty:
        return []
    return [
        Heading("Train against validation"),
        Text(
            "Means over the complete runs at each value, in nats per token, at the last evaluation, both losses "
            "measured with dropout off; ± is the standard error over those runs, which differ in the rest too.",
            "note",
        ),
        Table(text, numbers=["runs", "train loss", "validation loss", "gap"]),
    ]


def _gaps_text(plan: Plan, trials: pd.DataFrame) -> pd.DataFrame:
    table = stats.gaps(plan, trials)
    return pd.DataFrame(
        {
            "parameter": table["parameter"].where(~table["parameter"].duplicated(), ""),
            "value": table["value"],
            "runs": table["num_runs"].astype(str),
            "train loss": table["train_loss"].map(lambda value: _number(value, ".4f")),
            "validation loss": table["val_loss"].map(lambda value: _number(value, ".4f")),
            "gap": [_plus_minus(*pair) for pair in zip(table["gap"], table["gap_standard_error"], strict=True)],
        }
    )


def _diagnosis_blocks(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> list[Block]:
    table = words.diagnoses(plan, trials, history)
    if table.empty:
        return []
    rows = []
    for finding, runs in table.groupby("finding", sort=False):
        first = runs.iloc[0]
        example = f"{first['label']} seed {first['seed']}: {first['detail']}".strip() if first["detail"] else ""
        rows.append(
            {
                "finding": finding,
                "runs": str(len(runs)),
                "settings": words.some(runs["label"], most=5) or "base",
                "for example": example,
                "means": words.FINDINGS[str(finding)],
            }
        )
    long = ["settings", "for example", "means"]
    return [Heading("How the runs went"), Table(pd.DataFrame(rows), numbers=["runs"], long=long)]


def _unfinished_blocks(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> list[Block]:
    runs = stats.planned_runs(plan, trials)
    rest = runs[runs["state"] != "COMPLETE"]
    if rest.empty:
        return []
    last_step = history[history["train_loss"].notna()].groupby("run_id")["step"].max()
    steps = rest["run_id"].map(last_step)
    table = pd.DataFrame(
        {
            "state": rest["state"].str.lower(),
            "setting": rest["label"].replace("", "base"),
            "seed": rest["seed"].astype(str),
            "last step": steps.map(lambda value: _number(value, ",.0f")),
            "run ID": rest["run_id"].fillna(""),
        }
    )
    more = len(table) - MOST_ROWS
    counts = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
    note = (
        f"Of {_count(len(runs), 'run')}: {counts}. The same command fills what is missing and runs failed ones again."
    )
    if more > 0:
        note += f" The first {MOST_ROWS}; the rest are in trials.csv."
    return [
        Heading("What diverged, failed or is missing"),
        Text(note, "note"),
        Table(table.head(MOST_ROWS), numbers=["seed", "last step"], code=["run ID"]),
    ]


def _plus_minus(value: float, error: float) -> str:
    return _number(value, ".4f") + ("" if pd.isna(error) or pd.isna(value) else f" ± {error:.4f}")


def _number(value: float, form: str) -> str:
    return NOTHING if pd.isna(value) else format(value, form)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
