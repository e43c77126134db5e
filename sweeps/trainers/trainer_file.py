"""The file of a trainer of the user's own, as it was read: what a worker is sent, and trains with. Part of a worker."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.spec.catalog import Experiment, executed
from sweeps.trainers.contract import train
from sweeps.trainers.source import SourceCode, source_of
from tinylm_core.records import Metrics


@dataclass(frozen=True)
class TrainerFile:
    """An experiment file whose sweep has a trainer, as it was read: a worker is sent it and trains with it."""

    version: str
    source: SourceCode

    def __call__(self, config_json: str, **listeners: Any) -> Metrics:
        """`train` with the sweep that the file declares, whatever became of the file, and of what it imports, since."""
        self.source.import_from_here()
        sweep, _ = executed(self.source.file.content, self.source.file.path)
        try:
            return train(sweep, config_json, **listeners)
        except Exception as error:
            error.add_note(self.source.place_in(error) or _place_of(sweep.run))
            raise


def trainer_file(experiment: Experiment) -> TrainerFile | None:
    """The file that workers train with; None where that is `tinylm_core`. ValueError where the sweep is in no file."""
    if experiment.sweep.run is None:
        return None
    if experiment.path is None:
        raise ValueError(f"sweep {experiment.name!r} has a trainer of its own, so it must stand in a file: sweeps.run")
    return TrainerFile(str(experiment.sweep.version), source_of(experiment.path, experiment.source))


def _place_of(run: Any) -> str:
    """Where a trainer is defined, as far as it says that."""
    code = getattr(inspect.unwrap(getattr(run, "func", run)), "__code__", None)
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}" if code else repr(run)
