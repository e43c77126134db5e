"""Whether a store's database is what was written to it: against each run's history.parquet, and by SQLite itself.

SQLite's pages carry no checksums: a digit that flips in one is noticed only where its value stands elsewhere too.
Writes nothing.
"""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from sweeps.store import schema
from sweeps.store.read import Store
from sweeps.store.schema import column

HISTORY = "history.parquet"
# A run that goes on from a checkpoint takes some steps again, to the same numbers in another time.
MEASURED_ONCE = [metric for metric in schema.HISTORY_METRICS if metric != "train/tokens_per_second"]


def check_intact(store: Store, name: str, history: pd.DataFrame) -> None:
    """ValueError where the database of a folder is damaged, or has other values than the files of runs in `history`."""
    if not store.is_local:
        return
    check_database(store.layout.database, store.where)
    rows = {row.run_id: row for row in store.runs(name)}
    for run_id, recorded in history.groupby("run_id"):
        row, folder = rows.get(str(run_id)), store.artifacts.folder(str(run_id))
        if row is not None and folder is not None:
            check_history(recorded, folder, row.tags, f"run {row.run_id} ({row.name})")


def check_database(database: Path, where: str) -> None:
    """ValueError where SQLite finds that the file is damaged."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return
        found = str(error)
    if found != "ok":
        raise ValueError(f"store {where}: {database} is damaged ({' '.join(found.split())}); restore it from a backup")


def check_history(recorded: pd.DataFrame, folder: Path, tags: Mapping[str, str], run: str) -> None:
    """ValueError where the database has another value of a run than its history.parquet.

    `recorded` is the run's part of `history_frame`, which may have fewer steps (`log_every`). A run without the file or
    the tag with its digest, as earlier versions made it, can't be checked.
    """
    file = folder / HISTORY
    if schema.HISTORY_DIGEST not in tags or not file.is_file():
        return
    if hashlib.sha256(file.read_bytes()).hexdigest() != tags[schema.HISTORY_DIGEST]:
        raise ValueError(f"{run}: {file} is damaged: its digest is not the one in the database")
    kept = pd.read_parquet(file).set_index("step")
    mine = recorded.set_index("step")
    if missing := sorted(set(mine.index) - set(kept.index)):
        raise ValueError(f"{run}: the database has step {missing[0]}, and {file} does not; the database is damaged")
    is_thinned = len(mine) < len(kept)
    kept = kept.loc[mine.index]
    for metric in MEASURED_ONCE:
        name = column(metric)
        here, there = mine[name].to_numpy(float), kept[name].to_numpy(float)
        if name == column(schema.SKIPPED):
            there = np.nan_to_num(there)
        both_none = np.isnan(here) & np.isnan(there)  # as of the losses at step 0
        left_out = np.isnan(here) if is_thinned else both_none
        if len(other := np.flatnonzero((here != there) & ~(both_none | left_out))):
            row, step = other[0], mine.index[other[0]]
            raise ValueError(
                f"{run}: the database has {metric}={float(here[row])!r} at step {step}, and {file}, whose digest is as "
                f"recorded, {float(there[row])!r}; the database is damaged"
            )
