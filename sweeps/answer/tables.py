"""A sweep's tables as text, for the page and the terminal. Pure; knows no MLflow, no matplotlib, no HTML."""

import numpy as np
import pandas as pd

from sweeps.analysis.diagnosis import FINDINGS
from sweeps.analysis.results import Results
from sweeps.analysis.settings import incomparable, is_sampled
from sweeps.answer.sentences import some
from sweeps.spec.naming import short

TOP_SETTINGS = 15
MOST_ROWS = 40
NOTHING = "\N{EN DASH}"


def leaderboard_table(results: Results) -> pd.DataFrame:
    """The leaderboard's top."""
    board = results.board.head(TOP_SETTINGS)
    targets = results.tokens_to_target
    target = targets["target"].iloc[0] if len(targets) else np.nan
    tokens = board["trial"].map(targets.groupby("trial")["setting_tokens"].first())
    text = pd.DataFrame(
        {
            "#": [NOTHING if pd.isna(rank) or results.is_chance else str(rank) for rank in board["rank"]],
            "trial": [f"t{trial:03d}" for trial in board["trial"]],
            "setting": board["label"].replace("", "base"),
            "validation loss": [
                plus_minus(*pair) for pair in zip(board["objective"], board["standard_error"], strict=True)
            ],
            "against the best": [
                _verdict(row, place, str(board.iloc[0]["state"]), results)
                for place, (_, row) in enumerate(board.iterrows())
            ],
            "seeds": [f"{row['num_seeds_done']}/{row['num_seeds_planned']}" for _, row in board.iterrows()],
            "perplexity": board["val_perplexity"].map(lambda value: number(value, ".2f")),
            "train loss": board["train_loss"].map(lambda value: number(value, ".4f")),
            "gap": board["gap"].map(lambda value: number(value, ".4f")),
        }
    )
    if not np.isnan(target):
        text[f"tokens to {target:.3f}"] = tokens.map(lambda value: number(value, ",.0f"))
    text["tokens/s"] = board["tokens_per_second"].map(lambda value: number(value, ",.0f"))
    text["run IDs"] = board["run_ids"]
    return text


def _verdict(row: pd.Series, place: int, best_state: str, results: Results) -> str:
    if pd.isna(row["rank"]):
        return f"unfinished: {row['state']}"
    if row["state"] != "complete":
        return str(row["state"])
    if incomparable(results.plan):
        return "not comparable"
    if results.is_chance:
        return "no better than chance"
    if place == 0:
        return "best"
    if pd.isna(row["tied_with_best"]):
        return "unknown: some seeds diverged" if "diverged" in best_state else "unknown: too few seeds"
    return "can't be told apart" if row["tied_with_best"] else "worse"


def gap_table(results: Results) -> pd.DataFrame:
    """Train against validation by swept parameter and value."""
    table = results.gaps
    half = (table["gap_high"] - table["gap_low"]) / 2
    return pd.DataFrame(
        {
            "parameter": table["parameter"].where(~table["parameter"].duplicated(), ""),
            "value": table["value"],
            "runs": table["num_runs"].astype(str),
            "train loss": table["train_loss"].map(lambda value: number(value, ".4f")),
            "validation loss": table["val_loss"].map(lambda value: number(value, ".4f")),
            "gap": [plus_minus(*pair) for pair in zip(table["gap"], half, strict=True)],
        }
    )


def overfitting_table(results: Results) -> pd.DataFrame:
    """The settings whose validation loss ends above its lowest, the furthest first."""
    overfit = results.diagnoses.loc[results.diagnoses["finding"] == "overfitting", "trial"]
    table = results.overfitting
    table = table[table["trial"].isin(overfit)].sort_values("rise", ascending=False).head(TOP_SETTINGS)
    return pd.DataFrame(
        {
            "setting": table["label"].replace("", "base"),
            "best": table["best_loss"].map(lambda value: number(value, ".4f")),
            "at tokens": table["best_tokens"].map(lambda value: number(value, ",.0f")),
            "last": table["last_loss"].map(lambda value: number(value, ".4f")),
            "rise": [plus_minus(*pair) for pair in zip(table["rise"], table["rise_standard_error"], strict=True)],
            "train fell by": table["train_fall"].map(lambda value: number(value, ".4f")),
        }
    )


def rate_text_table(results: Results) -> pd.DataFrame:
    """The learning rate's optimum and sensitivity for each value of the other parameters."""
    rows = []
    for _, row in results.rates.iterrows():
        at_edge = {"low": "at the lowest or below", "high": "at the highest or above", "": "not known"}
        low, high = row["optimum_low"], row["optimum_high"]
        if np.isnan(low) and np.isnan(high):
            between = "not known"
        elif np.isnan(high):
            between = f"above {short(low)}"
        else:
            between = f"below {short(high)}" if np.isnan(low) else f"{short(low)} to {short(high)}"
        rows.append(
            {
                "for": f"{row['parameter']} = {row['value']}" if row["parameter"] else "the whole sweep",
                "best rate tried": short(row["best_rate"]),
                "its loss": number(row["best_loss"], ".4f"),
                "optimum": short(row["optimum"]) if np.isfinite(row["optimum"]) else at_edge[row["edge"]],
                "95 % interval": between,
                "LR sensitivity": plus_minus(row["sensitivity"], row["sensitivity_error"]),
            }
        )
    return pd.DataFrame(rows)


def effect_table(results: Results) -> pd.DataFrame:
    """Main effects and two-way interactions by their share of the variance, Optuna's importances beside them."""
    spreads = {"spread of means": results.main_effects, "spread, rest at its best": results.tuned_effects}
    table = results.decomposition.head(TOP_SETTINGS)
    rows = [
        {
            "effect of": " x ".join(row["fields"]),
            "share of variance": f"{row['share']:.1%}",
            **{name: _spread(effects, row["fields"]) for name, effects in spreads.items()},
            "p": p_value(row["p_value"]),
            "Optuna's importance": _importance(results, row["fields"]),
        }
        for _, row in table.iterrows()
    ]
    text = pd.DataFrame(rows)
    sampled = any(is_sampled(results.plan, field) for field in results.plan.swept)
    spare = ["Optuna's importance"] * (not results.importances)
    spare += [*spreads, "p"] * sampled  # no means of like company, and no test
    return text.drop(columns=spare, errors="ignore")


def _spread(effects: pd.DataFrame, fields: tuple[str, ...]) -> str:
    found = effects.loc[effects["parameter"] == fields[0], "spread"]
    return number(found.iloc[0] if len(found) else np.nan, ".4f") if len(fields) == 1 else ""


def _importance(results: Results, fields: tuple[str, ...]) -> str:
    return f"{results.importances[fields[0]]:.1%}" if len(fields) == 1 and fields[0] in results.importances else ""


def p_value(value: float) -> str:
    """A p-value, a dash where there is none."""
    return NOTHING if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def finding_table(results: Results) -> pd.DataFrame:
    """How the runs went: one row a kind of finding."""
    rows = []
    for finding, runs in results.diagnoses.groupby("finding", sort=False):
        first = runs.iloc[0]
        example = f"{first['label']} seed {first['seed']}: {first['detail']}".strip() if first["detail"] else ""
        rows.append(
            {
                "finding": finding,
                "runs": str(len(runs)),
                "settings": some(runs["label"], most=5) or "base",
                "for example": example,
                "means": FINDINGS[str(finding)],
            }
        )
    return pd.DataFrame(rows)


def unfinished_table(results: Results) -> pd.DataFrame:
    """Every run that is not COMPLETE."""
    rest = results.runs[results.runs["state"] != "COMPLETE"]
    history = results.history[results.history["run_id"].isin(rest["run_id"])]
    last_step = history[history["train_loss"].notna()].groupby("run_id")["step"].max()
    return pd.DataFrame(
        {
            "state": rest["state"].str.lower(),
            "setting": rest["label"].replace("", "base"),
            "seed": rest["seed"].astype(str),
            "last step": rest["run_id"].map(last_step).map(lambda value: number(value, ",.0f")),
            "run ID": rest["run_id"].fillna(""),
        }
    )


def plus_minus(value: float, error: float) -> str:
    """`value ± error`, or the value alone where the error is not known."""
    return number(value, ".4f") + ("" if pd.isna(error) or pd.isna(value) else f" ± {error:.4f}")


def number(value: float, form: str) -> str:
    """A number in a format, a dash where there is none."""
    return NOTHING if pd.isna(value) else format(value, form)
