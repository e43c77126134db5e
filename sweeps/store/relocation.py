"""Rewrites MLflow's absolute paths in the database of a local store that was moved or copied.

Of a copy they are those of the original, which would get what is written to the copy.
"""

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from sweeps.store.place import Place

ADDRESSES = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}


def relocate(place: Place, *, to_write: bool) -> Path | None:
    """Rewrite a store's addresses of itself where it has another place than they say; returns the place before.

    None where all is true, or there is nothing in it that could have moved. Nothing is rewritten while a sweep is under
    way in it, or where that can't be: ValueError for who wants to write, whose files would go to the place before.
    """
    with closing(sqlite3.connect(place.database, timeout=10)) as connection:
        before = _place_before(connection, place)
        if before is None:
            return None
        try:
            with ExitStack() as locks:
                for lock in place.layout.work.glob("*/lock"):
                    locks.enter_context(FileLock(lock, blocking=False))
                _rewrite_database(connection, f"{before.as_uri()}/", f"{place.folder.as_uri()}/")
        except (sqlite3.OperationalError, OSError) as error:  # Timeout is one: a lock is held
            if not to_write:
                return None
            why = "a sweep is under way in it" if isinstance(error, Timeout) else str(error)
            raise ValueError(f"store {place.where}: was {before} and can't be made to be here: {why}") from None
        (has_runs,) = connection.execute("SELECT EXISTS (SELECT 1 FROM runs)").fetchone()
        return before if has_runs else None


def _place_before(connection: sqlite3.Connection, place: Place) -> Path | None:
    """Where MLflow's default experiment says that the store is, if that is elsewhere; we have set it."""
    row = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    address = urlsplit(str(row[0]) if row else "")
    location = Path(url2pathname(address.path))
    if address.scheme != "file" or location.parts[-2:] != ("artifacts", "0"):
        return None
    before = location.parent.parent
    is_here = before == place.folder or (before.exists() and before.samefile(place.folder))
    return None if is_here else before


def _rewrite_database(connection: sqlite3.Connection, before: str, now: str) -> None:
    with connection:
        for table, columns in ADDRESSES.items():
            existing = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for column in existing.intersection(columns):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, len(before), before),
                )
