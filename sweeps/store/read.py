"""The store's read side: everything comes back as plain data or a DataFrame. Writes nothing.

A sweep that isn't here has no runs and no definitions; `named`, `plan` and `trials` say that there is none.
pandas and MLflow are loaded within what needs them: they take a third of a second, and one and a half.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sweeps.plan.record import PlanRecord
from sweeps.store import schema, ui
from sweeps.store.artifacts import Artifacts
from sweeps.store.experiments import Sweeps
from sweeps.store.holder import Holder, holder_from_json
from sweeps.store.layout import Layout
from sweeps.store.place import DEFAULT_FOLDER, Place, folder_of, shrink_database
from sweeps.store.rows import RawReader, run_row
from sweeps.store.schema import Definition, RunRow
from sweeps.store.sql import Point, RawRun
from sweeps.store.ui import UiLinks

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.store.removal import Remover
    from sweeps.store.write import Writer

T = TypeVar("T")

_HISTORIES = 200


class Store:
    """One store of runs; `open_store` makes it."""

    def __init__(self, place: Place, wait: float = 0.0) -> None:
        self._place = place
        self._raw = RawReader(place, wait)
        self.experiments = Sweeps(self._raw, place)
        self.artifacts = Artifacts(self._raw, place.where)

    @property
    def where(self) -> str:
        """What to print, and to pass to --store; without a password."""
        return self._place.where

    @property
    def option(self) -> str:
        """What a command needs to find the store: ` --store DIR`, or nothing where that is the default."""
        is_default = self.is_local and self.folder == Path(DEFAULT_FOLDER).absolute()
        return "" if is_default else f" --store {shlex.quote(self.where)}"

    @property
    def tracking_uri(self) -> str:
        """What MLflow calls it."""
        return self._place.tracking_uri

    @property
    def folder(self) -> Path:
        """The local folder, absolute, that holds work/ and reports/."""
        return self._place.folder

    @property
    def layout(self) -> Layout:
        """What lies where in `folder`."""
        return self._place.layout

    @property
    def is_local(self) -> bool:
        """Whether runs and artifacts are in `folder`, not on a server."""
        return self._place.is_local

    def writer(self) -> "Writer":
        """The write side; only the outbox's thread calls it."""
        from sweeps.store.write import Writer

        return Writer(self._raw.client, self._place)

    def remover(self) -> "Remover":
        """What removes runs and sweeps; only the outbox's thread calls it."""
        from sweeps.store.removal import Remover

        return Remover(self._raw.client, self._place)

    def shrink(self) -> None:
        """Give the disk back what removed sweeps took of a database here, unless somebody is at work in it."""
        if self.is_local:
            shrink_database(self._place)

    def sweeps(self) -> list[str]:
        """The names of the sweeps here, newest first."""
        return list(self.experiments.by_name())

    def named(self, name_or_path: str) -> str:
        """The sweep here of that name, of that start of one, or of that file. ValueError where there is none.

        One whose experiment somebody renamed in MLflow is found under both names, and keeps its own.
        """
        return self.experiments.named(name_or_path)

    def sweep_of(self, run: RunRow) -> str:
        """The sweep that a run here is of."""
        return self.experiments.of_run(run)

    def check_not_deleted(self, name: str) -> None:
        """ValueError, with the command that restores it, where somebody deleted a sweep's experiment in MLflow."""
        self.experiments.check_not_deleted(name)

    def definitions(self, name: str) -> list[Definition]:
        """The definitions of a sweep, the one that was started last first, be it for the first time or again."""
        known = sorted(map(self._definition, self._raw_runs(name, "summary")), key=lambda one: one[0], reverse=True)
        found: dict[str, Definition] = {}
        for _, one in known:
            found.setdefault(one.definition, one)
        return list(found.values())

    def _definition(self, raw: RawRun) -> tuple[tuple[int, int, str], Definition]:
        """The definition of a summary run, after when it was started: last, and first."""
        definition, began, plan, problem = raw.tags.get(schema.DEFINITION, ""), raw.start_time or 0, None, ""
        try:
            plan = self.artifacts.plan(raw.run_id)
        except ValueError as error:
            problem = str(error)
        last = began if plan is None or plan.created_ms is None else plan.created_ms
        return (last, began, raw.run_id), Definition(definition, raw.run_id, plan, problem)

    def plan(self, name: str, definition: str | None = None) -> PlanRecord:
        """The plan of the definition that was started last, or of the one that starts so. ValueError where none is."""
        planned = [known for known in self.definitions(name) if known.plan is not None or known.problem]
        if not planned:
            self.experiments.get(name)  # says where there is no such sweep
            raise ValueError(f"sweep {name!r} has no plan in {self.where} yet")
        matches = [known for known in planned if known.definition.startswith(definition or "")]
        if len(matches) != 1 and definition is not None:
            which = ", ".join(known.definition for known in planned)
            raise ValueError(f"definition {definition!r} of {name!r}: {len(matches)} match; known: {which}")
        if (plan := matches[0].plan) is None:
            raise ValueError(matches[0].problem)
        return plan

    def runs(self, name: str, role: schema.Role = "run") -> list[RunRow]:
        """Every run of a sweep in a role, whichever definition made it, except the deleted ones."""
        return [run_row(raw) for raw in self._raw_runs(name, role)]

    def listed_runs(self) -> dict[str, list[RawRun]]:
        """Every run of every sweep, newest sweep first, with the tags and metrics that a list needs: soon read."""
        sweeps = self.experiments.by_name()
        by_id: dict[str, list[RawRun]] = {experiment.experiment_id: [] for experiment in sweeps.values()}
        for raw in self._raw.listed(list(by_id)):
            by_id[raw.experiment_id].append(raw)
        return {name: by_id[experiment.experiment_id] for name, experiment in sweeps.items()}

    def identities(self, run_ids: Sequence[str]) -> dict[str, str | None]:
        """Run ID → what the run's identity is today (law 7), of runs of any sweep."""
        return {found.run_id: run_row(found).identity for found in self._raw.runs_of(run_ids)}

    def running(self, name: str) -> list[str]:
        """The IDs of a sweep's runs, of every role, that are said to run."""
        return self._of(name, self._raw.running)

    def run_ids(self, name: str) -> list[str]:
        """The IDs of all runs of a sweep, of every role and those in MLflow's bin too."""
        return self._of(name, self._raw.all_run_ids)

    def artifacts_folder(self, name: str) -> Path | None:
        """Where the artifacts of a sweep's runs are on this machine; None where a server has them."""
        return folder_of(self.experiments.get(name).location) if self.is_local else None

    def find_run(self, run_id_or_prefix: str) -> RunRow:
        """The run, of any sweep and role, whose ID starts so (4 characters or more). ValueError unless it is one."""
        if not re.fullmatch("[0-9a-f]{4,32}", run_id_or_prefix):
            raise ValueError(f"run ID {run_id_or_prefix!r}: must be 4 to 32 of 0-9 and a-f")
        experiments = [experiment.experiment_id for experiment in self._raw.experiments()]
        found = self._raw.starting(experiments, run_id_or_prefix)
        if not found:
            raise ValueError(f"run ID {run_id_or_prefix!r}: no such run in {self.where}")
        if len(found) > 1:
            which = ", ".join(f"{raw.run_id} ({raw.name})" for raw in found[:5])
            raise ValueError(f"run ID {run_id_or_prefix!r}: {len(found)} runs start so: {which}")
        return run_row(found[0])

    def holder(self, name: str) -> Holder | None:
        """Who drives a sweep, as far as its last sign of life says: what `Writer.set_holder` was given."""
        found = self.experiments.find(name)
        return holder_from_json(found.tags.get(schema.HOLDER, "null")) if found else None

    def trials(self, name: str | None = None, definition: str | None = None) -> "pd.DataFrame":
        """The runs of a plan, one a row, by trial and seed, as `frames.trials_frame`; `name` None: the only sweep's."""
        from sweeps.store import frames

        name = name or self.experiments.only()
        return frames.trials_frame(self.runs(name), self.plan(name, definition))

    def history(
        self, name: str | None = None, definition: str | None = None, run_ids: Sequence[str] | None = None
    ) -> "pd.DataFrame":
        """Every step and evaluation of a plan's runs, one (run, step) a row; columns in `frames.history_frame`.

        With `run_ids` only of these; without `name` they may be any runs, numbered as what made them numbered them.
        """
        import pandas as pd

        from sweeps.store import frames

        if run_ids is not None and name is None:
            runs = frames.runs_frame(map(self.find_run, run_ids))
        else:
            runs = self.trials(name, definition)[["run_id", "trial", "seed"]]
            runs = runs.drop_duplicates("run_id")  # of trials that share one
            if run_ids is not None:
                runs = runs[runs["run_id"].isin(list(run_ids))]
        # Some runs at a time: the values take ten times the memory of their table.
        some = [runs.iloc[start : start + _HISTORIES] for start in range(0, len(runs), _HISTORIES)] or [runs]
        points = (self._raw.points(list(part["run_id"]), schema.HISTORY_METRICS) for part in some)
        return pd.concat(map(frames.history_frame, points, some), ignore_index=True)

    def points(self, run_ids: Sequence[str], metric: str) -> list[Point]:
        """Every value of one metric of these runs, in no order."""
        return self._raw.points(run_ids, (metric,))

    def gaps(self, name: str | None = None, definition: str | None = None) -> "pd.DataFrame":
        """Mean losses and their gap per value of each swept field, over the complete runs of a plan."""
        from sweeps.store import frames

        name = name or self.experiments.only()
        plan = self.plan(name, definition)
        return frames.gaps_frame(frames.trials_frame(self.runs(name), plan), plan.swept)

    def ui_links(self, name: str, definition: str) -> UiLinks:
        """Where MLflow's UI shows a definition of a sweep."""
        experiment = self.experiments.get(name)
        base, tags = ui.ui_base(self.tracking_uri), experiment.tags
        # One that an earlier version made has no views, and the UI complains of a link to one.
        keys = {view: ui.view_key(view, definition) for view in (ui.RUNS, ui.BEST)}
        has_views = all(f"{ui.TAG}{key}" in tags for key in keys.values())
        runs, best = (ui.runs_page(base, experiment.experiment_id, key if has_views else None) for key in keys.values())
        return UiLinks(runs, best if has_views else None)

    def _raw_runs(self, name: str, role: schema.Role) -> list[RawRun]:
        return self._of(name, lambda experiment_id: self._raw.runs([experiment_id], role))

    def _of(self, name: str, ask: Callable[[str], list[T]]) -> list[T]:
        found = self.experiments.find(name)
        return ask(found.experiment_id) if found else []
