"""The layout of a store's folder, in one place: what lies where, for the store itself and for each of its sweeps.

Knows names and nothing of what is in the files.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sweeps.spec.naming import check_name

DATABASE = "mlflow.db"
OWN = ("work", "reports")  # what only we write, and so what an operation of ours may read and remove


@dataclass(frozen=True)
class SweepWork:
    """The work folder of one sweep."""

    folder: Path

    @property
    def lock(self) -> Path:
        """The file that whoever drives the sweep holds."""
        return self.folder / "lock"

    @property
    def holder(self) -> Path:
        """A note of who that is, to people."""
        return self.folder / "holder.json"

    @property
    def journal(self) -> Path:
        """The operations that wait to be sent."""
        return self.folder / "journal.jsonl"

    @property
    def corpus(self) -> Path:
        """Texts on their way to the summary run."""
        return self.folder / "corpus"

    @property
    def reproduction(self) -> Path:
        """The folder of a run that is trained again."""
        return self.folder / "reproduction"

    @property
    def runs(self) -> Path:
        """The folders of the runs under way."""
        return self.folder / "runs"

    def run(self, identity: str) -> Path:
        """The folder of the run of an identity."""
        return self.runs / identity[:16]


@dataclass(frozen=True)
class Layout:
    """The folder that is a store, or that holds what a store on a server keeps on this machine."""

    root: Path  # absolute

    @property
    def database(self) -> Path:
        """The database, of a store that is local."""
        return self.root / DATABASE

    @property
    def artifacts(self) -> Path:
        """The artifacts of all experiments, of a store that is local."""
        return self.root / "artifacts"

    @property
    def work(self) -> Path:
        """The work folders of all sweeps."""
        return self.root / "work"

    @property
    def reports(self) -> Path:
        """The reports of all sweeps."""
        return self.root / "reports"

    def work_of(self, name: str) -> SweepWork:
        """The work folder of a sweep. ValueError for what can't be a sweep's name."""
        return SweepWork(self.work / check_name(name))

    def report_of(self, name: str) -> Path:
        """The report of a sweep. ValueError as `work_of`."""
        return self.reports / check_name(name)

    def relative(self, path: Path) -> str:
        """A folder of ours as an operation names it, wherever the store is by then: `work/NAME/…`, `reports/NAME/…`."""
        return check_own(path.relative_to(self.root).as_posix())

    def own(self, relative: str) -> Path:
        """The folder that `relative` named. ValueError where a link leads out of the store."""
        path = self.root / check_own(relative)
        if not any(path.resolve().is_relative_to((self.root / one).resolve()) for one in OWN):
            raise ValueError(f"{relative!r} is no folder of this store")
        return path


def check_own(relative: str) -> str:
    """The same path. ValueError where it is not below `work/` or `reports/`."""
    parts = PurePosixPath(relative).parts
    if len(parts) < 2 or parts[0] not in OWN or ".." in parts:
        raise ValueError(f"{relative!r} is no folder of this store")
    return relative
