"""Sweeps over `tinylm_core` runs: proposes, executes, keeps, compares. Importing it loads nothing yet."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.program import run_sweep
    from sweeps.space import Choice, Range
    from sweeps.store import open_store
    from sweeps.sweep import Sweep

__all__ = ["Choice", "Range", "Sweep", "open_store", "run_sweep"]

_HOMES = {
    "Choice": "sweeps.space",
    "Range": "sweeps.space",
    "Sweep": "sweeps.sweep",
    "open_store": "sweeps.store",
    "run_sweep": "sweeps.program",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
