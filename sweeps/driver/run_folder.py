"""The work folder of a run: whose it is, and whether the run can go on from what is in it."""

import json
from pathlib import Path
from typing import Any

from sweeps.workers.protocol import LOG


def unfinished_work(work: Path, creation_id: str) -> Path | None:
    """The folder of a run that was to go on, by its creation ID; None where it has ended."""
    for note in work.glob("runs/*/run.json"):
        try:
            found = json.loads(note.read_text())
        except (OSError, ValueError):
            continue  # cut off by a crash: it is nobody's
        if isinstance(found, dict) and found.get("creation_id") == creation_id:
            return note.parent
    return None


def _creation_id(workdir: Path, note: dict[str, Any]) -> str | None:
    """The creation ID of the run that a work folder belongs to, if it may be continued."""
    try:
        found = json.loads((workdir / "run.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or {key: found.get(key) for key in note} != note:
        return None
    return str(found["creation_id"])


def _has_kept_something(workdir: Path) -> bool:
    """Whether a run has left anything of its own in its folder to go on from."""
    return any(path.name not in ("run.json", LOG) for path in workdir.glob("*"))
