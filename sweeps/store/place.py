"""Where a store is, and making its folder and its SQLite file. `layout` says what lies where inside.

Work and reports of a store on a server have a folder for each address, `./mlruns/servers/HOST_PORT/`: a sweep of the
same name in another store has another journal and other checkpoints.
"""

import os
import re
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sweeps.store.layout import DATABASE, Layout
from sweeps.store.secrets import without_secrets
from tinylm_core.durable import is_disk_full

DEFAULT_FOLDER = "mlruns"
SERVERS = "servers"
_NEW_DATABASE = "mlflow.db.new"
_OURS = {"artifacts", "work", "reports", SERVERS, ".gitignore", _NEW_DATABASE, f"{_NEW_DATABASE}-journal"}


@dataclass(frozen=True)
class Place:
    """Where a store is."""

    where: str  # as a user writes it
    tracking_uri: str
    folder: Path  # absolute; holds work/ and reports/
    is_local: bool

    @property
    def layout(self) -> Layout:
        """What lies where in the folder."""
        return Layout(self.folder)

    @property
    def database(self) -> Path:
        """The database, of a store that is local."""
        return self.layout.database


def find_place(where: str | Path | None) -> Place:
    """The place that `where` means: a folder or a server's address; None = MLFLOW_TRACKING_URI, else ./mlruns.

    ValueError, in one line, for anything else.
    """
    if where is None:
        where = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_FOLDER
        if where != DEFAULT_FOLDER and not _is_server(where):
            raise ValueError(f"MLFLOW_TRACKING_URI={where}: must be http(s)://…; for a folder use --store DIR")
    where = where.strip() if isinstance(where, str) else where
    if _is_server(where):
        address = str(where).rstrip("/")
        shown = without_secrets(address)
        name = re.sub(r"[^\w.-]+", "_", shown.partition("://")[2], flags=re.ASCII)
        return Place(shown, address, Path(DEFAULT_FOLDER).absolute() / SERVERS / name, is_local=False)
    if isinstance(where, str) and re.fullmatch(r"[\w.-]+:\d+(/.*)?", where) and not Path(where).exists():
        raise ValueError(f"store {where}: must be a folder or http(s)://…; a server is given as http://{where}")
    if isinstance(where, str) and ("://" in where or where.startswith(("sqlite:", "file:"))):
        raise ValueError(f"store {where}: must be a folder or http(s)://…")
    folder = Path(where).expanduser().absolute()
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # bytes of a file system that are no UTF-8, which MLflow's database can't hold
        raise ValueError(f"store {str(where)!r}: {str(folder)!r} is no UTF-8; choose a folder whose path is") from None
    if not str(where) or set(str(folder)) & set("?%"):  # which mean something in a database's address
        raise ValueError(f"store {str(where)!r}: must be a folder whose path has no '?' and no '%', or http(s)://…")
    return Place(str(where), f"sqlite:///{folder / DATABASE}", folder, is_local=True)


def check_place(place: Place, *, create: bool) -> None:
    """ValueError, in one line, where there is no local store and none may be made. Writes nothing."""
    if place.is_local and os.environ.get("MLFLOW_ENABLE_WORKSPACES", "").lower() in ("true", "1"):
        raise ValueError(f"MLFLOW_ENABLE_WORKSPACES: a folder, {place.where}, has no workspaces; unset the variable")
    folder = place.folder
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"store {place.where}: is no folder")
    if not place.is_local:
        return
    if place.database.exists():
        _check_database(place)
    elif not create:
        raise ValueError(f"no store at {place.where}")
    elif folder.exists() and not {path.name for path in folder.iterdir()} <= _OURS:
        raise ValueError(f"store {place.where}: the folder holds other files and no {DATABASE}")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"store {place.where}: {nearest} is not writable")


def make_folders(place: Place) -> None:
    """Make the folder and what belongs into it, except the database."""
    try:
        layout = place.layout
        for folder in (layout.work, layout.reports, *([layout.artifacts] if place.is_local else [])):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise ValueError(f"store {place.where}: can't be made ({error.strerror})") from None
    gitignore = place.folder / ".gitignore"
    if not gitignore.exists():
        gitignore.write_text(files("sweeps").joinpath("mlruns.gitignore").read_text())


def new_database(place: Place) -> Path:
    """Where a database is built before `finish_database` puts it in place: a kill half-way leaves no half database."""
    path = place.folder / _NEW_DATABASE
    for leftover in (path, path.with_name(f"{path.name}-journal")):
        leftover.unlink(missing_ok=True)
    return path


def finish_database(place: Place) -> None:
    """Make the database that was built this store's, switch it to WAL, which the file remembers, and name it."""
    path = place.folder / _NEW_DATABASE
    with closing(sqlite3.connect(path)) as connection, connection:
        # MLflow's Default experiment, which it makes for the folder that it happens to run in.
        location = (place.layout.artifacts / "0").as_uri()
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (location,))
    use_wal(path)
    path.rename(place.database)


def use_wal(database: Path) -> None:
    """Let readers and one writer work at the same time. MLflow does not do it; the file remembers."""
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def is_wal(database: Path) -> bool:
    """Whether the file is in WAL mode (SQLite file format, section 1.3: bytes 18 and 19 are 2)."""
    with database.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def folder_of(uri: str) -> Path | None:
    """The folder of a file: address or a path; None for other addresses."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def _is_server(where: str | Path) -> bool:
    if not isinstance(where, str):
        return False
    parts = urlsplit(where)
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError(f"store {where}: the address names no host")
    return parts.scheme in ("http", "https")


def _check_database(place: Place) -> None:
    """ValueError unless the file is a database that MLflow made: MLflow would fill any other with its tables."""
    if not os.access(place.database, os.R_OK | os.W_OK):
        raise ValueError(f"store {place.where}: {DATABASE} is not readable and writable")
    try:
        with closing(sqlite3.connect(f"{place.database.as_uri()}?mode=ro", uri=True, timeout=20)) as connection:
            for table in ("alembic_version", "experiments", "runs"):
                connection.execute(f"SELECT 1 FROM {table} LIMIT 1")
    except sqlite3.DatabaseError as error:
        if "locked" not in str(error):
            raise ValueError(f"store {place.where}: {DATABASE} was not made by MLflow ({error})") from None


def shrink_database(place: Place) -> None:
    """Leave no free pages in a database, unless it is locked or the disk has no room for a copy of it."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(place.database, timeout=1)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
