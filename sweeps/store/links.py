"""Addresses of pages in MLflow's UI. Pure functions of IDs.

A bare experiment link opens on an empty page for traces; these open on the runs and their charts.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

_WORKFLOW = "workflowType=machine_learning"  # else the UI shows what it has for language models of others
LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens unless told otherwise


def ui_base(tracking_uri: str) -> str:
    """Where the UI of a store is: the server itself without a password in it, or the local UI."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return LOCAL_UI
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def runs_page(base: str, experiment_id: str, view: str | None = None) -> str:
    """The experiment's runs with their charts, as a saved view has them."""
    page = f"{base}/#/experiments/{experiment_id}/runs?{_WORKFLOW}&compareRunsMode=CHART"
    return page if view is None else f"{page}&viewStateShareKey={view}"


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The comparison of runs: parallel coordinates, scatter plots."""
    return f"{base}/#/compare-runs?runs={_quoted(run_ids)}&experiments={_quoted([experiment_id])}&{_WORKFLOW}"


def _quoted(ids: Sequence[str]) -> str:
    return quote(json.dumps(list(ids), separators=(",", ":")), safe="")
