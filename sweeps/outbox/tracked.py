"""Part of the sender: creation ID → MLflow's run ID, and the last step and evaluation that are stored of each run."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sweeps.outbox.operations import Operation
from sweeps.store import schema
from sweeps.store.read import Store

if TYPE_CHECKING:
    from sweeps.store.write import Writer

Mark = tuple[int, int]  # the last step and evaluation that are in the store; -1 = none


class RunGoneError(Exception):
    """The tracker made a run and has it no more."""


class TrackedRuns:
    """What is known of a sweep's experiment and runs; the tracker is asked once, and after a call that failed."""

    def __init__(self, store: Store, name: str, writer: Callable[[], "Writer"]) -> None:
        self._store, self._name, self._writer = store, name, writer
        self._experiment: str | None = None
        self._ids: dict[str, str] = {}  # by creation ID
        self._marks: dict[str, Mark] = {}

    @property
    def has_experiment(self) -> bool:
        """Whether the tracker has the sweep."""
        return self._experiment is not None or self._name in self._store.sweeps()

    def experiment_id(self, note: str | None = None) -> str:
        """The sweep's experiment, made where it isn't there; `note` becomes its description."""
        if self._experiment is None or note is not None:
            self._experiment = self._writer().experiment(self._name, note)
        return self._experiment

    def create(
        self,
        run: str,
        *,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        start_time_ms: int,
        adopt: bool,
    ) -> str:
        """Make the run of a creation ID, or with `adopt` take the one that is there up again; returns MLflow's ID."""
        run_id = self._writer().create_run(
            self.experiment_id(),
            creation_id=run,
            name=name,
            tags=tags,
            params=params,
            start_time_ms=start_time_ms,
            adopt=adopt,
        )
        self._ids[run] = run_id
        if adopt:
            self._writer().resume_run(run_id)
            self._marks.pop(run, None)
        else:
            self._marks[run] = (-1, -1)
        return run_id

    def id_of(self, run: str) -> str:
        """MLflow's ID of the run of a creation ID. RunGoneError where there is none any more."""
        if run not in self._ids:
            found = self._writer().created_run(self.experiment_id(), run) if self.has_experiment else None
            if found is None:
                raise RunGoneError
            self._ids[run] = found
        return self._ids[run]

    def mark(self, run: str) -> Mark:
        """How far the records of a run are."""
        if run not in self._marks:
            self._marks[run] = self._writer().last_steps(self.id_of(run))
        return self._marks[run]

    def set_mark(self, run: str, mark: Mark) -> None:
        """The records of a run are there as far as that."""
        self._marks[run] = mark

    def doubt_marks(self) -> None:
        """A call may have been done, and only its answer was lost."""
        self._marks.clear()

    def forget(self) -> None:
        """The sweep was removed."""
        self._experiment = None
        self._ids.clear()
        self._marks.clear()

    def is_deleted(self, operation: Operation) -> bool:
        """Whether somebody has deleted the run that an operation is about."""
        run_id = getattr(operation, "run_id", None) or self._ids.get(getattr(operation, "run", ""))
        return run_id is not None and self._writer().is_deleted(run_id)

    def subject(self, operation: Operation) -> str:
        """The run that an operation is about, as a person finds it."""
        run_id = getattr(operation, "run_id", None)
        run = getattr(operation, "run", None) or getattr(operation, "summary", None)
        return run_id or self._ids.get(str(run), f"with {schema.CREATION} = {run}")
