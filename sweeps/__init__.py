"""Sweeps over `tinylm_core` runs: proposes, executes, keeps, compares. Importing it loads nothing yet."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import run_sweep
    from sweeps.spec.space import Choice, Range
    from sweeps.spec.sweep import Sweep
    from sweeps.store import open_store

__all__ = ["Choice", "Range", "Sweep", "open_store", "run_sweep"]


def __getattr__(name: str) -> Any:
    """What this package offers, loaded when it is first asked for: an experiment file needs no store."""
    if name in ("Choice", "Range"):
        from sweeps.spec.space import Choice, Range

        return Choice if name == "Choice" else Range
    if name == "Sweep":
        from sweeps.spec.sweep import Sweep

        return Sweep
    if name == "open_store":
        from sweeps.store import open_store

        return open_store
    if name == "run_sweep":
        from sweeps.api import run_sweep

        return run_sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
