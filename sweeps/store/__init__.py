"""The MLflow store of runs, written and read. The only room that imports mlflow.

Importing this loads neither MLflow nor pandas, and a local store that is only listed needs neither.
"""

from pathlib import Path

from sweeps.store.connect import prepare
from sweeps.store.faults import is_temporary
from sweeps.store.place import find_place
from sweeps.store.read import Store
from sweeps.store.schema import Definition, RunRow
from sweeps.store.ui import UiLinks

__all__ = ["Definition", "RunRow", "Store", "UiLinks", "is_temporary", "open_store"]


def open_store(where: str | Path | None = None, *, create: bool = False, wait: float = 0.0) -> Store:
    """The store in a folder or behind a server's address; None = MLFLOW_TRACKING_URI where http(s), else ./mlruns.

    With `create` a folder that isn't there or is empty becomes a store. ValueError, in one line, where there is none,
    where the folder holds something else or can't be written, or where the database is not one of this MLflow. What is
    read is asked for again for `wait` seconds while a server is away.
    """
    place = find_place(where)
    prepare(place, create=create)
    return Store(place, wait)
