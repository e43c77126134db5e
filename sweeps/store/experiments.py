"""Which of MLflow's experiments is a sweep: a tag names the sweep, whatever somebody calls the experiment in the UI.

Writes nothing.
"""

import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, TypeVar

from sweeps.spec.catalog import sweep_name
from sweeps.store import schema
from sweeps.store.place import Place
from sweeps.store.rows import RawReader
from sweeps.store.secrets import without_secrets
from sweeps.store.sql import RawExperiment

if TYPE_CHECKING:
    from sweeps.store.leases import Leases

REMOVED = ".removed-"  # what follows the name of an experiment that `sweeps.rm` left in a server's bin


class Tagged(Protocol):
    """An experiment, MLflow's own or as plain data."""

    @property
    def name(self) -> str:
        """As MLflow's UI shows it."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Those of the experiment."""


E = TypeVar("E", bound=Tagged)


def by_sweep(experiments: Iterable[E]) -> dict[str, E]:
    """Sweep's name → its experiment, in the given order; experiments without the tag are left out.

    Of several with one tag the one that is still called so is the sweep, else the first; the others go by the names
    that MLflow has for them.
    """
    ours = [experiment for experiment in experiments if schema.SWEEP in experiment.tags]
    tagged: dict[str, list[E]] = {}
    for experiment in ours:
        tagged.setdefault(experiment.tags[schema.SWEEP], []).append(experiment)
    owners = {name: next((e for e in some if e.name == name), some[0]) for name, some in tagged.items()}
    return {
        name if owners[name] is experiment else experiment.name: experiment
        for experiment in ours
        if (name := experiment.tags[schema.SWEEP])
    }


def in_bin(deleted: Iterable[E], name: str) -> E | None:
    """The experiment of a sweep among those that somebody deleted in MLflow, as `sweeps.rm` did not."""
    return by_sweep(experiment for experiment in deleted if REMOVED not in experiment.name).get(name)


class Sweeps:
    """The sweeps of one store, by name; each question is answered from what the store has at that moment."""

    def __init__(self, raw: RawReader, place: Place) -> None:
        self._raw, self._place = raw, place

    def by_name(self) -> dict[str, RawExperiment]:
        """Every sweep, newest first."""
        return by_sweep(self._raw.experiments())

    def find(self, name: str) -> RawExperiment | None:
        """The experiment of a sweep, by its whole name."""
        return self.by_name().get(name)

    def get(self, name: str) -> RawExperiment:
        """The experiment of a sweep, by its whole name. ValueError, with a hint, where there is none."""
        sweeps = self.by_name()
        if name in sweeps:
            return sweeps[name]
        self.check_not_deleted(name)
        near = get_close_matches(name, sweeps, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sweeps) or 'none yet'}"
        raise ValueError(f"no sweep {name!r} in {self._place.where}; {hint}")

    def named(self, name_or_path: str) -> str:
        """The sweep of that name, of that start of one, or of that file. ValueError where there is none.

        One whose experiment somebody renamed in MLflow is found under both names, and keeps its own.
        """
        sweeps = self.by_name()
        shown = {experiment.name: name for name, experiment in sweeps.items()}
        name = sweep_name(name_or_path, {**sweeps, **shown})
        name = name if name in sweeps else shown.get(name, name)
        self.get(name)
        return name

    def of_run(self, run: schema.RunRow) -> str:
        """The sweep that a run is of."""
        return next(name for name, found in self.by_name().items() if found.experiment_id == run.experiment_id)

    def leases(self, name: str) -> "Leases | None":
        """The epochs of a sweep on a server; None where it is not there."""
        from sweeps.store.leases import Leases

        found = self.find(name)
        return None if found is None else Leases(self._raw.patient, found.experiment_id)

    def only(self) -> str:
        """The name of the only sweep. ValueError where there are more or none."""
        names = list(self.by_name())
        if len(names) != 1:
            where = self._place.where
            raise ValueError(f"{where} holds {len(names)} sweeps, name one: {', '.join(names) or 'none yet'}")
        return names[0]

    def check_not_deleted(self, name: str) -> None:
        """ValueError, with the command that restores it, where somebody deleted a sweep's experiment in MLflow."""
        deleted = None if self.find(name) else in_bin(self._raw.experiments(deleted=True), name)
        if deleted is not None:
            address = shlex.quote(without_secrets(self._place.tracking_uri))
            raise ValueError(
                f"sweep {name!r} in {self._place.where} was deleted in MLflow; MLFLOW_TRACKING_URI={address} mlflow "
                f"experiments restore --experiment-id {deleted.experiment_id} restores it"
            )
