"""Opening MLflow: quietly, without telemetry, and on an address that is always explicit.

Importing MLflow takes more than a second, so nothing here does before `connect`, unless a store is made or its schema
is not the tested one.
"""

import logging
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sweeps.store.layout import DATABASE
from sweeps.store.place import (
    Place,
    check_place,
    finish_database,
    is_wal,
    make_folders,
    new_database,
    use_wal,
)
from sweeps.store.relocation import relocate
from sweeps.store.sql import TESTED_REVISION, TESTED_VERSION, revision
from sweeps.store.ui import local_ui_port
from tinylm_core.cache import cached, default_cache_dir

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Seven retries block a thread for four minutes. Who writes retries at leisure, who reads wants to be told.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def prepare(place: Place, *, create: bool) -> None:
    """Make a local store where `create` says so. ValueError as in `check_place`, and where it is another MLflow's."""
    check_place(place, create=create)
    local_ui_port()  # a wrong one is said before anything is trained
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if create:
        make_folders(place)
    if place.is_local:
        if not place.database.exists():
            _make_database(place)
        if create and not is_wal(place.database):
            use_wal(place.database)
        _check_revision(place)
        if (before := relocate(place, to_write=create)) is not None:
            print(f"sweeps: {place.where} was {before}; its files are looked for here from now on", file=sys.stderr)


def connect(place: Place) -> "MlflowClient":
    """MLflow's client for a place that was prepared."""
    from mlflow import MlflowClient

    _quiet()
    return MlflowClient(place.tracking_uri)


def _quiet() -> None:
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    # Logs the whole traceback of an error that it raises as well: a locked database would flood the terminal.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _make_database(place: Place) -> None:
    with FileLock(place.layout.work / ".new-store.lock"):
        if place.database.exists():  # somebody else was faster
            return
        # MLflow takes two seconds for an empty database, and all are alike.
        template, _ = cached(default_cache_dir() / "stores", version("mlflow"), _write_template)
        shutil.copyfile(template / DATABASE, new_database(place))
        finish_database(place)


def _write_template(folder: Path) -> None:
    from mlflow import MlflowClient

    _quiet()
    MlflowClient(f"sqlite:///{folder / DATABASE}").search_experiments(max_results=1)


def _check_revision(place: Place) -> None:
    """ValueError where the schema is another MLflow's: left alone, MLflow may migrate an older one without asking."""
    found = revision(place.database)
    if found == TESTED_REVISION and version("mlflow").startswith(TESTED_VERSION):
        return  # importing MLflow takes more than a second, and reading its list of schemas 0.4 s
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if found == scripts.get_current_head():
        return
    try:
        known = found is not None and scripts.get_revision(found) is not None
    except CommandError:
        known = False
    mend = f"back it up, then: mlflow db upgrade {place.tracking_uri}" if known else "a newer MLflow made it"
    raise ValueError(f"store {place.where}: schema {found} is not the one of MLflow {mlflow.__version__}; {mend}")
