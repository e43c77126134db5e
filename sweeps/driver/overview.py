"""For `sweeps.ls` and `sweeps.rm`: how far each sweep is, and its size on disk. Loads no pandas.

A store may hold tens of thousands of runs: it reads of each what a list needs. Knows not how a list looks.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean

from sweeps.outbox.lock import driver_of
from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.store import schema
from sweeps.store.attempts import best_of_each
from sweeps.store.read import Store
from sweeps.store.sql import RawRun
from tinylm_core.records import RESULTS


@dataclass(frozen=True)
class Standing:
    """How far a definition of a sweep is."""

    planned: int  # runs
    states: Counter[str]  # of those of them that have begun
    is_driven: bool  # a driver is at work
    best: tuple[float, str] | None  # the lowest mean objective over all seeds, in nats per token, and its setting

    @property
    def done(self) -> int:
        """Runs with a result."""
        return sum(self.states[state] for state in RESULTS)

    @property
    def state(self) -> str:
        """What is not simply complete: `2 running, 1 diverged`."""
        said = [
            f"{self.states[state]} {state.lower()}"
            for state in ("RUNNING", "DIVERGED", "FAILED", "INTERRUPTED")
            if self.states[state]
        ]
        return ", ".join(said) or ("running" if self.is_driven else "")


@dataclass(frozen=True)
class Overview:
    """A sweep as a list shows it, by the definition that was run last."""

    name: str
    standing: Standing  # of that definition
    num_definitions: int
    last: datetime | None  # when a run began or ended; None where there was none
    num_bytes: int | None  # None where a server has the artifacts


@dataclass(frozen=True)
class OfDefinition:
    """A definition as a list shows it."""

    definition: str
    standing: Standing
    started: datetime | None
    flags: str  # of the command that made it; none where that is the file as it stands


def list_sweeps(store: Store) -> list[Overview]:
    """Every sweep of a store, newest first."""
    return [overview(store, name, rows) for name, rows in store.listed_runs().items()]


def overview(store: Store, name: str, rows: Sequence[RawRun]) -> Overview:
    """How far a sweep is, from what is known of its runs."""
    definitions = store.definitions(name)
    plan = next((known.plan for known in definitions if known.plan is not None), None)
    runs = [row for row in rows if row.tags.get(schema.ROLE) == "run"]
    moments = [moment for row in runs for moment in (row.start_time, row.end_time) if moment]
    return Overview(
        name=name,
        standing=standing_of(store, runs, plan, is_driven=has_driver(store, name)),
        num_definitions=len(definitions),
        last=_moment(max(moments, default=None)),
        num_bytes=sum(map(folder_bytes, folders)) if (folders := folders_of(store, name)) else None,
    )


def list_definitions(store: Store, name: str) -> list[OfDefinition]:
    """Every definition of a sweep that has a plan, the one that was started last first."""
    plans = [known.plan for known in store.definitions(name) if known.plan is not None]
    runs = [row for row in store.listed_runs().get(name, ()) if row.tags.get(schema.ROLE) == "run"]
    driven = has_driver(store, name)
    return [
        OfDefinition(
            definition=plan.definition,
            # Its runs may be those of the one that is driven.
            standing=replace(standing_of(store, runs, plan, is_driven=driven), is_driven=driven and plan is plans[0]),
            started=_moment(plan.created_ms),
            flags=plan.command.flags_text,
        )
        for plan in plans
    ]


def has_driver(store: Store, name: str) -> bool:
    """Whether somebody runs a sweep now, as far as can be seen."""
    return driver_of(store, name) is not None


def standing_of(store: Store, runs: Sequence[RawRun], plan: PlanRecord | None, *, is_driven: bool) -> Standing:
    """How far a plan is; nothing is planned where it has not arrived yet."""
    planned = plan.identities if plan else []
    identities = identities_among(store, runs, set(planned))
    chosen = best_of_each(runs, lambda row: identities[row.run_id])
    states = Counter(chosen[identity].tags.get(schema.STATE, "") for identity in planned if identity in chosen)
    if not is_driven and "RUNNING" in states:  # nobody has said yet that they are dead
        states["INTERRUPTED"] += states.pop("RUNNING")
    return Standing(
        planned=plan.num_trials * len(plan.seeds) if plan else 0,
        states=states,
        is_driven=is_driven,
        best=best_setting(plan.trials, chosen) if plan else None,
    )


def identities_among(store: Store, runs: Sequence[RawRun], planned: set[str]) -> dict[str, str | None]:
    """Run ID → identity of runs, of which those that are planned go by the name that the plan has for them."""
    tagged = {row.run_id: row.tags.get(schema.IDENTITY) for row in runs}
    if planned <= set(tagged.values()):
        return tagged
    # The tag is what the version that made a run computed; only for what it doesn't find is a config read (law 7).
    others = [run_id for run_id, identity in tagged.items() if identity not in planned]
    return tagged | store.identities(others)


def best_setting(trials: Iterable[TrialRecord], chosen: Mapping[str, RawRun]) -> tuple[float, str] | None:
    """The lowest mean objective of the settings that have it for every seed."""
    found = []
    for trial in trials:
        rows = [chosen[identity] for identity in trial.runs.values() if identity in chosen]
        values = [row.metrics[schema.OBJECTIVE] for row in rows if row.tags[schema.STATE] in RESULTS]
        if values and len(values) == len(trial.runs):
            found.append((fmean(values), trial.label))
    return min(found, key=lambda one: one[0], default=None)  # of trials that share their runs the first


def folders_of(store: Store, name: str) -> list[Path]:
    """The folders that hold what a sweep keeps on this machine; none where a server has its artifacts."""
    artifacts = store.artifacts_folder(name)
    return [artifacts, store.layout.work_of(name).folder, store.layout.report_of(name)] if artifacts else []


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder, links not followed; 0 where there is none."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):  # not there, or gone meanwhile
        return total
    return total


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000).astimezone()
