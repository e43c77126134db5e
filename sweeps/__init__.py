"""Sweeps over `tinylm_core` runs: proposes, executes, keeps, compares. Importing it loads no torch, Optuna, MLflow."""

from typing import TYPE_CHECKING, Any

from sweeps.space import Choice, Range
from sweeps.sweep import Sweep

if TYPE_CHECKING:
    from sweeps.store import open_store

__all__ = ["Choice", "Range", "Sweep", "open_store"]


def __getattr__(name: str) -> Any:
    if name == "open_store":
        from sweeps.store import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
