"""Which errors of a tracker pass and which stay, in one place; and asking it again while they may pass.

Knows no command. MLflow is not imported: its errors are known by what they carry.
"""

import re
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sweeps.store.secrets import without_secrets

RETRY_SECONDS = 2.0

# Of MLflow's error codes those that a later attempt doesn't mend; what isn't known may pass.
_PERMANENT = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}

# An error of the database behind MLflow, which reports it as BAD_REQUEST: `(psycopg2.errors.ReadOnlySqlTransaction)`.
_OF_DATABASE = re.compile(r"\((?:sqlite3|psycopg2?|pymysql|MySQLdb|pyodbc)\.(?:\w+\.)*(\w+)\)")
# Of those, what is a fault of what was asked, and stays.
_OF_THE_QUERY = re.compile("Integrity|Data|Programming|NotSupported|Violation|Undefined|Syntax|Invalid|Duplicate")

HINTS = {
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "CUSTOMER_UNAUTHORIZED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "the user lacks a permission, or the server does not know its own address: mlflow server "
    "--allowed-hosts HOST:PORT",
}


def is_temporary(error: Exception) -> bool:
    """Whether the same call may succeed later: the server is away, the database is locked or read-only, the disk full.

    False for what stays: a run that was deleted, a refused value, a missing permission, a fault of ours.
    """
    if is_trackers(error):
        found = _OF_DATABASE.search(str(error))
        if found is not None:
            return not _OF_THE_QUERY.search(found[1])
        return _code(error) not in _PERMANENT
    return isinstance(error, OSError | sqlite3.OperationalError)  # requests' errors are OSErrors


def is_trackers(error: BaseException) -> bool:
    """Whether MLflow raised it."""
    return any(kind.__name__ == "MlflowException" for kind in type(error).__mro__)


def refusal(error: Exception) -> str:
    """What a tracker that refuses something says, and what may mend it, in one line."""
    said = " ".join(without_secrets(str(error)).split())
    hint = HINTS.get(_code(error))
    return f"the tracker refuses: {said[:300]}" + (f" ({hint})" if hint else "")


def patient(call: Callable[..., Any], seconds: float, say: Callable[[str], None]) -> Callable[..., Any]:
    """The same call, made again while its errors may pass, for so many seconds; `say` is told once that it is."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        since = None
        while True:
            try:
                return call(*args, **kwargs)
            except Exception as error:
                if not is_temporary(error):
                    raise
                if since is None:
                    since = time.monotonic()
                    if seconds > 0:
                        say(f"the tracker does not answer ({type(error).__name__}); giving it {seconds:.0f} s")
                if time.monotonic() - since + RETRY_SECONDS > seconds:
                    raise
            time.sleep(RETRY_SECONDS)

    return ask


class PatientClient:
    """MLflow's client, each of whose calls is `patient`."""

    def __init__(self, client: Any, seconds: float, say: Callable[[str], None]) -> None:
        self._client, self._seconds, self._say = client, seconds, say

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return patient(found, self._seconds, self._say) if callable(found) else found


def _code(error: BaseException) -> str:
    return str(getattr(error, "error_code", ""))
