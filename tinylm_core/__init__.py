"""Trains small language models: `from tinylm_core import RunConfig, run`.

Knows nothing of searches and trackers. Importing the package loads no torch; the first use of `run` does.
"""

from typing import TYPE_CHECKING, Any

from tinylm_core.config import RunConfig

if TYPE_CHECKING:
    from tinylm_core.train import run

__all__ = ["RunConfig", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from tinylm_core.train import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
