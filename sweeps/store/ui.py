"""MLflow's pages of a sweep: links to them, and its saved views, which the UI keeps as tags of the experiment.

The keys are those that the UI of MLflow 3.17 reads ("Views" on the page of runs); an older one passes over the tags.
"""

import base64
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sweeps.spec.fields import STEP_FIELDS
from sweeps.store import schema

UI_PORT = "SWEEPS_UI_PORT"  # the variable that changes the port of the local UI in links and `make ui`
DEFAULT_PORT = 5000  # of MLflow's server; macOS has a service of its own there
_WORKFLOW = "workflowType=machine_learning"  # else the UI shows what it has for language models of others

TAG = "mlflow.sharedViewState."
RUNS, BEST, SETTINGS = "runs", "best", "settings"  # views of a definition
FIRST = {RUNS: "FIRST_20_RUNS", BEST: "FIRST_10_RUNS", SETTINGS: "FIRST_20_RUNS"}  # shown in charts, the best first

_CHOSEN = "Sweep"  # the section with the charts that answer the question
_CURVES = {"val/loss": schema.TOKENS_AT_EVAL, "eval/gap": schema.TOKENS_AT_EVAL, "train/loss": "train/tokens"}  # tokens
_OUTCOME = ("final/gap", schema.OBJECTIVE)  # axes of the parallel coordinates; the last one gives lines their colour
_COLUMNS = ("final/val_loss", "final/gap", "final/val_perplexity")
# The sections of all other metrics, in this order, and whether they are open.
_SECTIONS = {"val": True, "eval": True, "train": True, "final": False, "best": False, "Model metrics": False}


def view_key(view: str, definition: str) -> str:
    """What a link calls a view of a definition."""
    return f"{definition}-{view}"


def saved_views(definition: str, swept: Sequence[str], created_ms: int) -> dict[str, str]:
    """The experiment's tags: views of a definition's runs, of the ten best, and of settings as means over seeds."""
    grouped = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": schema.SETTING}]}
    names = {
        RUNS: f"Runs: {', '.join(swept)}",
        BEST: "The best runs",
        SETTINGS: "Settings: means over seeds",
    }
    states = {view: _state(definition, swept) | {"runsHiddenMode": FIRST[view]} for view in names}
    states[SETTINGS]["groupBy"] = grouped
    return {
        f"{TAG}{view_key(view, definition)}": _saved(f"{name} ({definition})", states[view], created_ms)
        for view, name in names.items()
    }


def _state(definition: str, swept: Sequence[str]) -> dict[str, Any]:
    parallel = _chart("parallel", "PARALLEL", "Parallel coordinates") | {
        "selectedParams": list(swept),
        "selectedMetrics": list(_OUTCOME),
    }
    over_tokens = not set(STEP_FIELDS).isdisjoint(swept)
    curves = [_curve(metric, tokens if over_tokens else None) for metric, tokens in _CURVES.items()]
    chosen = _section(_CHOSEN, is_open=True) | {"columns": 2}
    sections = [chosen, *(_section(name, is_open=is_open) for name, is_open in _SECTIONS.items())]
    columns = [*(f"params.`{name}`" for name in (*swept, "seed")), *(f"metrics.`{name}`" for name in _COLUMNS)]
    return {
        "searchFilter": f"tags.`{schema.MEMBER}{definition}` = 'true'",
        "orderByKey": f"metrics.`{schema.OBJECTIVE}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "compareRunCharts": [parallel, *curves],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


def _curve(metric: str, over: str | None) -> dict[str, Any]:
    """Over steps, or over another metric."""
    axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": over} if over else {"xAxisKey": "step"}
    return _chart(metric, "LINE", metric) | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        **axis,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "lineSmoothness": 0,
        "useGlobalXaxisKey": over is None,
        "useGlobalLineSmoothing": True,
    }


def _chart(uuid: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "displayName": name,
        "metricSectionId": _CHOSEN,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
    }


def _section(name: str, *, is_open: bool) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": is_open, "isReordered": False, "deleted": False, "isGenerated": True}


def _saved(name: str, state: Mapping[str, Any], created_ms: int) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": name, "createdAt": created_ms, "updatedAt": created_ms, "state": f"deflate;{packed}"}
    return json.dumps(view)


@dataclass(frozen=True)
class UiLinks:
    """Where MLflow's UI shows a definition of a sweep, once `mlflow ui` or the server runs."""

    runs: str
    best: str | None  # None where there is no such view, as an earlier version made none


def ui_base(tracking_uri: str) -> str:
    """Where the UI of a store is: the server itself without a password in it, or the local UI."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return f"http://127.0.0.1:{local_ui_port()}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def local_ui_port() -> int:
    """The port of the local UI. ValueError for a variable that is none."""
    given = os.environ.get(UI_PORT) or str(DEFAULT_PORT)
    if not (given.isascii() and given.isdecimal() and 0 < int(given[:6]) < 65_536):
        raise ValueError(f"{UI_PORT}={given}: must be a port from 1 to 65535")
    return int(given)


def runs_page(base: str, experiment_id: str, view: str | None = None) -> str:
    """The experiment's runs with their charts, as a saved view has them."""
    page = f"{base}/#/experiments/{experiment_id}/runs?{_WORKFLOW}&compareRunsMode=CHART"
    return page if view is None else f"{page}&viewStateShareKey={view}"
