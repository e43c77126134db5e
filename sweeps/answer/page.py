"""A sweep's report: what goes on the page, top to bottom.

Pure but for the files it writes; knows no MLflow. Numbers come from `analysis`, their text from `tables`, pictures from
`figures`, which load matplotlib as the page is written, and `markup` turns all of it into Markdown and HTML.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from sweeps.analysis import ranking
from sweeps.analysis.rates import RATE, batch_growth
from sweeps.analysis.results import Results
from sweeps.analysis.settings import is_conditional, is_sampled
from sweeps.answer import sentences, tables
from sweeps.answer.advice.cost import cost
from sweeps.answer.advice.next_steps import advise
from sweeps.answer.markup import Block, Code, Heading, Links, Picture, Table, Text, to_html, to_markdown
from sweeps.answer.tables import MOST_ROWS, TOP_SETTINGS
from sweeps.plan.record import PlanRecord
from sweeps.spec.naming import counted


def write_report(results: Results, folder: Path, links: Mapping[str, str]) -> Path:
    """Writes the report into `folder` and returns its index.html, which needs no other file.

    Beside it: report.md with the same content, every table as CSV, figures/NAME.png and .svg. `links` are names with a
    web address or a command, shown last.
    """
    from sweeps.answer.figures import FIGURES, save_figures  # matplotlib is slow to import, and the terminal needs none

    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)  # of another definition, which may have others
    for name, frame in {
        "trials": results.trials,
        "gaps": results.gaps,
        "leaderboard": results.board,
        "rates": results.rates,
        "effects": results.decomposition.assign(fields=results.decomposition["fields"].map(" x ".join)),
        "overfitting": results.overfitting,
        "diagnoses": results.diagnoses,
    }.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    pictures = {name: Picture(name, FIGURES[name][1]) for name in save_figures(results, folder / "figures")}

    title, blocks = results.plan.name, _blocks(results, pictures, links)
    (folder / "report.md").write_text(to_markdown(title, blocks), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(to_html(title, blocks, folder), encoding="utf-8")
    return page


def _blocks(results: Results, pictures: Mapping[str, Picture], links: Mapping[str, str]) -> list[Block]:
    plan = results.plan
    num_settings, num_seeds = len(plan.trials), len(plan.seeds)
    chosen = " ".join(f"{flag} {value}" for flag in ("--confirm", "--at") for value in plan.command.values(flag))
    facts = (
        f"{plan.search} over {', '.join(plan.swept) or 'nothing'}{f' ({chosen})' * bool(chosen)} · "
        f"{counted(num_settings, 'setting')} with {counted(num_seeds, 'seed')} each · definition "
        f"{plan.definition[:12]}"
    )

    def shown(*names: str) -> list[Block]:
        return [pictures[name] for name in names if name in pictures]

    return [
        *([Text(plan.question)] if plan.question else []),
        Text(facts, "note"),
        Heading("Answer"),
        *(Text(sentence, "answer") for sentence in sentences.answer(results)),
        *_leaderboard(results),
        *_gaps(results),
        *shown("gap"),
        *_overfitting(results),
        Heading("Curves"),
        *shown("loss", "schedule", "perplexity"),
        *_rates(results, shown("rates")),
        *_effects(results, shown("final_loss", "heat_maps", "pairs", "isolation", "slices")),
        *_advice(results),
        *_findings(results),
        *_unfinished(results),
        Heading("Go on from here"),
        Links({"Run it again or go on": str(plan.command), **links}),
    ]


def _leaderboard(results: Results) -> list[Block]:
    board, text = results.board, tables.leaderboard_table(results)
    numbers = [str(c) for c in text if c not in ("setting", "against the best", "run IDs")]
    more = f" Of {len(board):,}, the top {TOP_SETTINGS}; all are in leaderboard.csv." * (len(board) > TOP_SETTINGS)
    correction = "Holm" if len(board) <= ranking.MOST_FOR_HOLM else "Bonferroni"
    blocks: list[Block] = [
        Heading("Leaderboard"),
        Text(
            "Settings by final validation loss in nats per token, mean ± standard error over seeds; a diverged run "
            "counts as ln(vocabulary). Differences are tested in pairs over shared seeds, each setting's noise "
            f"moderated by the others'{_but(results.noisy)}, {correction}-corrected over all pairs, at 5 %.{more}",
            "note",
        ),
        Table(text, numbers=numbers, code=["run IDs"]),
    ]
    if board.iloc[0]["run_ids"]:
        again = "The command that makes the best run again, to the last bit, stands below; for others, their run IDs."
        blocks.append(Text(again, "note"))
    return blocks


def _but(noisy: list[str]) -> str:
    return f" (but {'; '.join(noisy)}, whose seeds scatter far more)" if noisy else ""


def _gaps(results: Results) -> list[Block]:
    text = tables.gap_table(results)
    if text.empty:
        return []
    return [
        Heading("Train against validation"),
        Text(
            "Means over the complete runs at each value, in nats per token, at the last evaluation, both losses "
            "measured with dropout off; ± is the half width of a 95 % t-interval over those runs, which differ in the "
            "rest too.",
            "note",
        ),
        Table(text, numbers=["runs", "train loss", "validation loss", "gap"]),
    ]


def _overfitting(results: Results) -> list[Block]:
    text = tables.overfitting_table(results)
    if text.empty:
        return []
    return [
        Text(
            "Where it overfits: settings whose validation loss ends above its lowest while train loss fell on. Best "
            "and last evaluation, nats per token, means over seeds (rise ± standard error).",
            "note",
        ),
        Table(text, numbers=["best", "at tokens", "last", "rise", "train fell by"]),
    ]


def _rates(results: Results, pictures: list[Block]) -> list[Block]:
    text = tables.rate_text_table(results)
    if text.empty:
        return []
    is_averaged = len(results.plan.swept) > 1
    blocks: list[Block] = [
        Heading("Learning rate"),
        *pictures,
        Text(
            "The optimum is an estimate: the minimum of a parabola in log rate through the best rate and its neighbours"
            + ", averaged over the other parameters" * (is_averaged and not is_sampled(results.plan, RATE))
            + ". It lies between the nearest rates that can be told to be worse than the best one (95 %, whatever the "
            "curve's shape, if it has one valley). There is no estimate where training is unstable beside the best "
            "rate or no parabola fits, and neither where rates were drawn and the other parameters with them. LR "
            "sensitivity (Wortsman et al. 2023) is what a rate drawn from those swept costs on average: mean of "
            "min(loss, loss at initialization) minus the best loss, nats per token, ± standard error over seeds; noise "
            "alone makes it positive.",
            "note",
        ),
        Table(text, numbers=["best rate tried", "its loss", "LR sensitivity"]),
    ]
    growth = batch_growth(results.rates)
    if growth is not None:
        blocks.append(Text(_growth_sentence(growth.exponent, growth.low, growth.high, growth.num_batches)))
    return blocks


def _growth_sentence(exponent: float, low: float, high: float, num_batches: int) -> str:
    fits = [name for name, power in {"not at all": 0.0, "as √B": 0.5, "as B": 1.0}.items() if low <= power <= high]
    fit = f"which fits {' and '.join(fits)}" if fits else "which fits neither B nor √B nor no growth"
    return (
        f"Over {num_batches} effective batches B the best rate grows as B to the {exponent:.2f} (95 % interval "
        f"{low:.2f} to {high:.2f}), {fit}."
    )


def _effects(results: Results, pictures: list[Block]) -> list[Block]:
    text = tables.effect_table(results)
    if text.empty:
        return [Heading("Effects"), *pictures] if pictures else []
    method = results.decomposition["method"].iloc[0]
    how = (
        "Exact, by analysis of variance of the whole grid; p by F tests against the residual noise, Holm-corrected, "
        "where there are two seeds and all runs are complete."
        if method == "exact"
        else "By functional ANOVA of a random forest over the settings (Hutter et al. 2014): shares of what it "
        "explains of settings that its trees have not seen. No test goes with it."
    )
    return [
        Heading("Effects"),
        Text(
            f"How much of the variance of the final loss between settings each parameter explains, and two together "
            f"beyond that. {how}{_left_out(results.plan)}",
            "note",
        ),
        Table(text, numbers=[str(name) for name in text if name != "effect of"]),
        *pictures,
    ]


def _left_out(plan: PlanRecord) -> str:
    fields = [field for field in plan.swept if is_conditional(plan, field)]
    return f" Left out are fields that not all settings vary: {', '.join(fields)}." if fields else ""


def _advice(results: Results) -> list[Block]:
    advice = advise(results)
    blocks: list[Block] = [Heading("What to run next")]
    if not advice:
        return [*blocks, Text("Nothing that this sweep's numbers ask for.")]
    for one in advice:
        its_cost = cost(results, one.command) if one.command else ""
        blocks.append(Text(one.text + f" It takes {its_cost}." * bool(its_cost)))
        blocks += [Code([str(one.command)])] if one.command else []
    return blocks


def _findings(results: Results) -> list[Block]:
    table = tables.finding_table(results)
    if table.empty:
        return []
    return [
        Heading("How the runs went"),
        Table(table, numbers=["runs"], long=["settings", "for example", "means"]),
    ]


def _unfinished(results: Results) -> list[Block]:
    table = tables.unfinished_table(results)
    if table.empty:
        return []
    counts = ", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items())
    note = (
        f"Of {counted(len(results.runs), 'run')}: {counts}. The same command fills what is missing and runs failed "
        "ones again."
    )
    if len(table) > MOST_ROWS:
        note += f" The first {MOST_ROWS}; the rest are in trials.csv."
    return [
        Heading("What diverged, failed or is missing"),
        Text(note, "note"),
        Table(table.head(MOST_ROWS), numbers=["seed", "last step"], code=["run ID"]),
    ]
