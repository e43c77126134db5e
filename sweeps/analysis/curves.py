"""What happened on the way: evaluations over tokens, tokens to a target loss, the best evaluation against the last.

Pure functions over `history`, one row a (run, step).
"""

import pandas as pd


def evaluations(trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The rows of `history` that hold an evaluation, with `tokens` trained on by then; sorted by run and step."""
    evals = history[history["val_loss"].notna()]
    per_step = dict(zip(trials["run_id"], trials["tokens_per_step"].astype(float), strict=True))
    tokens = evals["step"] * evals["run_id"].map(per_step)
    return evals.assign(tokens=tokens.astype(float)).sort_values(["run_id", "step"], ignore_index=True)


def first_loss(evals: pd.DataFrame) -> float:
    """Mean validation loss of evaluation 0, before the first update, in nats per token; NaN where there is none."""
    return float(evals.loc[evals["step"] == 0, "val_loss"].mean())


def tokens_to_target(runs: pd.DataFrame, evals: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """Training tokens until the validation loss first is at most `target`, interpolated between evaluations.

    `target` defaults to the highest objective in any setting whose runs are all COMPLETE: all of those reach it that
    end better than chance.
    Columns: run_id, trial, seed, target, tokens, setting_tokens (mean over the setting's seeds). NaN where not reached;
    a mean over seeds of which one did not is NaN.
    """
    runs = runs[runs["run_id"].notna()]
    if target is None:
        complete = (runs["state"] == "COMPLETE").groupby(runs["trial"]).transform("all")
        target = float(runs.loc[complete, "objective"].astype(float).max())
    result = runs[["run_id", "trial", "seed"]].assign(target=target)
    result["tokens"] = result["run_id"].map(_first_crossings(evals, target)).astype(float)
    reached = result["tokens"].notna().groupby(result["trial"]).transform("all")
    means = result.groupby("trial")["tokens"].transform("mean")
    return result.assign(setting_tokens=means.where(reached)).reset_index(drop=True)


def _first_crossings(evals: pd.DataFrame, target: float) -> pd.Series:
    """By run: where the line through its evaluations first comes down to the target."""
    before = evals.groupby("run_id")[["tokens", "val_loss"]].shift(1)
    reached = evals["val_loss"] <= target
    first = evals.index.isin(evals[reached].drop_duplicates("run_id").index)
    share = (before["val_loss"] - target) / (before["val_loss"] - evals["val_loss"])
    tokens = before["tokens"] + share * (evals["tokens"] - before["tokens"])
    return tokens.fillna(evals["tokens"])[first].set_axis(evals.loc[first, "run_id"])


def overfitting(runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """The best evaluation against the last, one row a setting with COMPLETE runs, in nats per token.

    Columns: trial, label, best_loss, last_loss, rise = last - best, rise_standard_error (over seeds), best_tokens
    (mean tokens at the best evaluation), train_fall (how far the train loss fell since then).
    """
    complete = runs[runs["state"] == "COMPLETE"]
    its = evals[evals["run_id"].isin(complete["run_id"])].reset_index(drop=True)
    best = its.loc[its.groupby("run_id")["val_loss"].idxmin()].set_index("run_id")
    last = its.drop_duplicates("run_id", keep="last").set_index("run_id")
    table = pd.DataFrame(
        {
            "best_loss": best["val_loss"],
            "last_loss": last["val_loss"],
            "rise": last["val_loss"] - best["val_loss"],
            "best_tokens": best["tokens"],
            "train_fall": best["eval_train_loss"] - last["eval_train_loss"],
        }
    )
    table = complete[["run_id", "trial", "label"]].merge(table, left_on="run_id", right_index=True)
    grouped = table.groupby(["trial", "label"], sort=False)
    means = grouped[["best_loss", "last_loss", "rise", "best_tokens", "train_fall"]].mean()
    means.insert(3, "rise_standard_error", grouped["rise"].sem())
    return means.reset_index()
