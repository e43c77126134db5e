"""The sweep in words: the three to five sentences that answer the experiment.

Pure functions over `Results`; knows not how a page looks. What the numbers can't say, the sentences say they can't.
"""

import numpy as np
import pandas as pd

from sweeps.analysis.best_quarter import best_quarter, values_said
from sweeps.analysis.noise import SIGNIFICANCE
from sweeps.analysis.ranking import MOST_FOR_HOLM
from sweeps.analysis.results import Results
from sweeps.analysis.settings import incomparable, is_full_grid, is_gathered
from sweeps.answer.advice.cost import cost
from sweeps.answer.advice.next_steps import advise
from sweeps.spec.fields import UNIT_FIELDS
from sweeps.spec.naming import counted
from sweeps.spec.searches import SAMPLING
from tinylm_core.records import RESULTS


def answer(results: Results) -> list[str]:
    """Three to five sentences: the best setting, whether it can be told from the next, what each parameter does, what
    went wrong or is missing, what to run next. Fewer where there is nothing yet to say."""
    compared = [] if incomparable(results.plan) or results.is_chance else [_runner_up(results), _effects(results)]
    sentences = [_best(results), *compared, _trouble(results), _next(results)]
    return [sentence for sentence in sentences if sentence]


def some(labels: pd.Series, *, most: int = 3) -> str:
    """The distinct labels, at most so many, and how many more."""
    distinct = list(dict.fromkeys(label for label in labels if label))
    more = len(distinct) - most
    return ", ".join(distinct[:most]) + (f" and {more} more setting{'s' * (more > 1)}" if more > 0 else "")


def _best(results: Results) -> str:
    board, runs = results.board, results.runs
    best = board.iloc[0]
    finished = runs["state"].isin(RESULTS)
    if not finished.any():
        return f"No run has finished yet (0 of {len(runs)})."
    if (runs["state"][finished] == "DIVERGED").all():
        return (
            f"Every finished run diverged ({_of(int(finished.sum()), len(runs), 'run')}): no setting can be named best."
        )
    if fields := incomparable(results.plan):
        units = set(fields) & set(UNIT_FIELDS)
        of_what = "nats per token of different tokens" if units else "of different parts of the text"
        return (
            f"Settings differ in {' and '.join(fields)}, so their losses are {of_what}, and none can be called better "
            "than another."
        )
    if results.is_chance:
        before = ", though some were below it on their way" * results.was_better
        return (
            f"No setting is better than chance: every finished run ends at or above ln(vocabulary), "
            f"{results.worst_loss:.4f} nats per token, which counts in place of its loss{before}."
        )
    seeds = counted(int(best["num_seeds_done"]), "seed")
    so_far = "" if pd.notna(best["rank"]) else "No setting has all its seeds yet; so far the "
    compared = int(board["objective" if so_far else "rank"].notna().sum())
    start = f"{so_far}{'best' if so_far else 'Best'} of {counted(compared, 'setting')} is"
    error = best["standard_error"]
    loss = f"{best['objective']:.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")
    how = f"over {seeds}" if np.isnan(error) else f"mean ± standard error over {seeds}"
    if board["tied_with_best"].iloc[1:].fillna(False).any():
        how += "; as the lowest of several that can't be told apart it is likely too low"
    return (
        f"{start} {best['label'] or 'the only one'}: validation loss {loss} nats per token{_budget(results)}, "
        f"perplexity {best['val_perplexity']:.4g} ({how})."
    )


def _budget(results: Results) -> str:
    """After how many tokens that is the answer: with more it may be another one."""
    of_best = results.complete[results.complete["trial"] == results.board.iloc[0]["trial"]]
    if of_best.empty:
        return ""
    run = of_best.iloc[0]
    return f" after {int(run['num_steps']) * int(run['tokens_per_step']):,} tokens"


def _runner_up(results: Results) -> str:
    ranked = results.board[results.board["rank"].notna()]
    if len(ranked) < 2 or not (ranked["state"] != "diverged").any():
        return ""
    second = ranked.iloc[1]
    lead = f"The runner-up, {second['label']}, is {second['objective'] - ranked.iloc[0]['objective']:.4f} nats behind"
    if pd.isna(second["tied_with_best"]):
        if "diverged" in str(second["state"]) or "diverged" in str(ranked.iloc[0]["state"]):
            return f"{lead}; some of their runs diverged, which is no seed noise, so that can't be tested."
        which = "one seed" if len(results.plan.seeds) == 1 else "fewer than two shared seeds"
        return f"{lead}; with {which}, differences can't be told from seed noise."
    corrected = "Holm" if len(results.board) <= MOST_FOR_HOLM else "Bonferroni"
    how = f"paired t-test, noise moderated over settings, {corrected}-corrected p {_p(second['p_value'])}"
    if not second["tied_with_best"]:
        return f"{lead}, more than seed noise explains ({how})."
    num_tied = int(ranked["tied_with_best"].iloc[1:].fillna(False).sum())
    others = "" if num_tied == 1 else f"; nor can {num_tied - 1} other{'s' * (num_tied > 2)}"
    return f"{lead} and can't be told from it ({how}){others}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _effects(results: Results) -> str:
    """What is tested is told; of what is not, the means alone, and only where each is over the same of the rest."""
    if results.plan.search in SAMPLING:
        return _sampled_effects(results)
    table = results.main_effects
    if table.empty or not is_full_grid(results.plan) or results.board["objective"].isna().any():
        return ""
    interacting = [fields for fields, p in _components(results) if len(fields) == 2 and p < SIGNIFICANCE]
    told: list[str] = []
    untold: list[str] = []
    untested: list[str] = []
    if interacting:  # a mean over the others' values is of settings that nobody would choose
        table = results.tuned_effects
    else:
        p_values = {fields[0]: p for fields, p in _components(results) if len(fields) == 1}
        table = table.assign(p_value=table["parameter"].map(p_values))
    for _, row in table.iterrows():
        field, p = row["parameter"], row["p_value"]
        where = f" (best at {row['best']}, worst at {row['worst']})" * (row["best"] != row["worst"])
        between = f"by {row['spread']:.3f} nats{where}"
        if np.isnan(p):
            untested.append(f"{'the means differ ' * (not untested)}{between} over {field}")
        elif p < SIGNIFICANCE:
            told.append(f"{field} {'moves the loss ' * (not told)}{between}")
        else:
            untold.append(f"{field} makes no difference that can be told ({row['spread']:.3f} nats)")
    parts = [*told, *untold, *untested]
    pairs = ", ".join(" and ".join(fields) for fields in interacting)
    together = f"; {pairs} interact" * bool(interacting)
    floor = "" if np.isnan(results.noise) else f"; one run's seed noise is {results.noise:.3f}"
    reason = f"; untested, since {_why_untested(results)}" if untested else ""
    start = "With the rest at its best, " if interacting else "Averaged over the rest, " * (len(table) > 1)
    sentence = f"{start}{', '.join(parts)}{_capped(results)}{together}{reason}{floor}."
    return f"T{sentence[1:]}" if sentence.startswith("the means") else sentence  # a field's name stays as it is


def _capped(results: Results) -> str:
    """What counts as ln(vocabulary), where something does."""
    which = ["diverged"] * bool((results.runs["state"] == "DIVERGED").any())
    which += ["ended above"] * bool((results.complete["final_val_loss"].astype(float) > results.worst_loss).any())
    return f"; what {' or '.join(which)} counts as ln(vocabulary), {results.worst_loss:.3f}" if which else ""


def _why_untested(results: Results) -> str:
    if len(results.plan.seeds) == 1:
        return "there is one seed"
    states = results.runs["state"]
    if (states == "DIVERGED").any():
        return "not all runs are complete, and a divergence is no seed noise"
    return "not all runs are complete" if (states != "COMPLETE").any() else "seeds make no difference"


def _sampled_effects(results: Results) -> str:
    """Where the best settings lie and what a forest says of all: means over what a search tried most are of no use."""
    best, shares = best_quarter(results.board), results.decomposition
    parts = []
    told = [one for one in results.concentrations if one.distinguished]
    if told:
        where = ", ".join(map(values_said, told))
        # TPE gathers its trials around what was good, in fields that do nothing too.
        chance = "" if is_gathered(results.plan) else "closer together than chance would put them "
        parts.append(f"the best {len(best)} settings lie {chance}in {where}")
    if len(shares) and len(results.plan.swept) > 1:
        alone = [row for _, row in shares.iterrows() if len(row["fields"]) == 1]
        explained = ", ".join(f"{row['fields'][0]} {row['share']:.0%}" for row in alone)
        total = f"{shares['share'].sum():.0%}"
        parts.append(f"of the variance between settings a random forest explains {total}, out of bag: {explained}")
    floor = "" if np.isnan(results.noise) else f"; one run's seed noise is {results.noise:.3f}"
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}{floor}." if parts else ""


def _components(results: Results) -> list[tuple[tuple[str, ...], float]]:
    table = results.decomposition
    return list(zip(table["fields"], table["p_value"], strict=True))


def _trouble(results: Results) -> str:
    runs, found = results.runs, results.diagnoses
    parts = []
    for state in ("DIVERGED", "FAILED"):
        labels = runs.loc[runs["state"] == state, "label"]
        if len(labels):
            parts.append(f"{_of(len(labels), len(runs), 'run')} {state.lower()} ({some(labels)})")
    overfitting = found.loc[found["finding"] == "overfitting", "label"]
    if len(overfitting):
        verb = "overfits" if len(overfitting) == 1 else "overfit"
        parts.append(f"{counted(len(overfitting), 'run')} {verb} ({some(overfitting)})")
    if results.noisy:
        whose = "setting's seeds scatter" if len(results.noisy) == 1 else "settings' seeds scatter"
        parts.append(
            f"{len(results.noisy)} {whose} far more than the others' ({some(pd.Series(results.noisy))}), what a seed "
            "does to all settings alike taken away"
        )
    if repeated := results.plan.num_repeated:
        parts.append(f"{counted(repeated, 'trial')} repeat{'s' * (repeated == 1)} an earlier one and count once")
    if (uneven := results.uneven) is not None:
        parts.append(
            f"seeds scatter {uneven.ratio:.1f} times as much at {uneven.field} {uneven.value} as elsewhere, which "
            "the tests allow for in part"
        )
    if _seeds_do_nothing(results):
        parts.append("a setting's seeds all give the same loss, so the trainer may not use them")
    done, failed = int(runs["state"].isin(RESULTS).sum()), int((runs["state"] == "FAILED").sum())
    planned = results.num_planned
    if 0 < done < planned - failed:
        parts.append(f"this is half-finished, {_of(done, planned, 'run')} done, and the rest may change the answer")
    if not results.plan.matched and not incomparable(results.plan):
        parts.append("the settings are not matched (they don't all see the same tokens), so compare with care")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if parts else ""


def _seeds_do_nothing(results: Results) -> bool:
    """Whether in every setting with several complete runs these end at the same loss, but for rounding."""
    complete = results.runs[results.runs["state"] == "COMPLETE"]
    complete = complete[complete["objective"].astype(float) < results.worst_loss]  # which counts for all that is above
    by_setting = complete["objective"].astype(float).groupby(complete["trial"])
    several = by_setting.count() > 1
    spread = (by_setting.max() - by_setting.min())[several]
    return bool(several.any()) and bool((spread <= 1e-12 * by_setting.max()[several].abs()).all())


def _next(results: Results) -> str:
    """The first advice that there is a command for."""
    told = ((advice.text, advice.command) for advice in advise(results))
    text, command = next(((text, command) for text, command in told if command is not None), ("", None))
    if command is None or not results.runs["state"].isin(RESULTS).any():
        return ""
    its_cost = cost(results, command)
    why = f"{text[0].lower()}{text[1:].rstrip('.')}{'; ' * bool(its_cost)}{its_cost}"
    return f"Next: {command} ({why})."


def _of(number: int, total: int, noun: str) -> str:
    return f"{number} of {total} {noun}{'s' * (total != 1)}"
