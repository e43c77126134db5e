"""The work folder of a run: whose it is, and whether the run can go on from what is in it. Knows no store, no outbox.

Others keep their files beside the note: the trainer the state to go on from, a worker its log and samples, and
`artifacts` what goes to the tracker. Where the folder lies, `sweeps.store.layout` says.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeps.workers.protocol import LOG
from tinylm_core.durable import checked, with_checksum, write_durably

NOTE = "run.json"


@dataclass(frozen=True)
class RunNote:
    """The run that a work folder belongs to, and the conditions of law 1 that it trains under."""

    identity: str
    conditions: Mapping[str, str]
    creation_id: str

    def write(self, workdir: Path) -> None:
        """Keep the note durably, before anything is kept beside it."""
        write_durably(workdir / NOTE, json.dumps(with_checksum(asdict(self))).encode())


def note_in(workdir: Path) -> RunNote | None:
    """The note in a work folder; None where there is none, or it is not as it was written: then it is nobody's."""
    try:
        content = checked(json.loads((workdir / NOTE).read_text(encoding="utf-8")))
        return RunNote(str(content["identity"]), dict(content["conditions"]), str(content["creation_id"]))
    except (OSError, KeyError, RecursionError, TypeError, ValueError):
        return None


def unfinished_work(runs: Path, creation_id: str) -> Path | None:
    """The folder, among those of a sweep's runs, of one that was to go on; None where it has ended."""
    folders = (note.parent for note in runs.glob(f"*/{NOTE}"))
    return next((folder for folder in folders if (n := note_in(folder)) and n.creation_id == creation_id), None)


def can_go_on(workdir: Path, identity: str, conditions: Mapping[str, str], *, only_if_kept: bool) -> RunNote | None:
    """The note of a run that may go on in a work folder: of this identity, under these conditions; else None (law 2).

    `only_if_kept`: and only if it has left something of its own there to go on from. That is for a trainer of one's
    own: without it only the trainer knows whether it would train alike.
    """
    note = note_in(workdir)
    if note is None or (note.identity, note.conditions) != (identity, conditions):
        return None
    has_kept = any(path.name not in (NOTE, LOG) for path in workdir.glob("*"))
    return note if has_kept or not only_if_kept else None
