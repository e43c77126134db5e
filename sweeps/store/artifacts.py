"""Reads artifacts: the files of a run, and plan.json of a summary run. Writes nothing."""

import json
import tempfile
import time
from pathlib import Path, PurePosixPath

from sweeps.plan.record import PlanRecord, plan_from_json
from sweeps.store import schema
from sweeps.store.place import folder_of
from sweeps.store.rows import RawReader
from tinylm_core.durable import checked


class NoArtifactError(ValueError):
    """A run has no such file or folder."""


class Artifacts:
    """The artifacts of one store's runs."""

    def __init__(self, raw: RawReader, where: str) -> None:
        self._raw = raw
        self._where = where  # the store, as it is said to people

    def download(self, run_id: str, artifact_path: str, to: Path) -> Path:
        """Copy an artifact, a file or a folder, into the folder `to`; returns its path.

        NoArtifactError where there is none of that name, ValueError for what can be none's.
        """
        path = PurePosixPath(artifact_path)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in artifact_path:
            raise ValueError(f"artifact {artifact_path!r}: must be a path inside the run's artifacts")
        parent = None if path.parent == PurePosixPath() else str(path.parent)
        if str(path) not in [info.path for info in self._raw.patient.list_artifacts(run_id, parent)]:
            raise NoArtifactError(f"run {run_id} has no artifact {artifact_path!r}")
        to.mkdir(parents=True, exist_ok=True)
        return Path(self._raw.patient.download_artifacts(run_id, str(path), str(to)))

    def folder(self, run_id: str) -> Path | None:
        """Where a run's artifacts are on this machine; None where a server has them."""
        uri = self._raw.artifact_uri(run_id)
        return None if uri is None else folder_of(uri)

    def read_text(self, run_id: str, artifact_path: str) -> str | None:
        """A text among a run's artifacts; None where there is none. What is on this machine is read where it is."""
        if (folder := self.folder(run_id)) is not None:
            try:
                return (folder / artifact_path).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
        with tempfile.TemporaryDirectory() as copies:
            try:
                return self.download(run_id, artifact_path, Path(copies)).read_text(encoding="utf-8")
            except NoArtifactError:
                return None

    def num_bytes(self, run_id: str) -> int:
        """The size of a run's artifacts, as the tracker lists them: a call a folder."""
        sizes, folders = 0, [""]
        while folders:
            for info in self._raw.patient.list_artifacts(run_id, folders.pop() or None):
                if info.is_dir:
                    folders.append(info.path)
                else:
                    sizes += info.file_size or 0
        return sizes

    def plan(self, run_id: str) -> PlanRecord | None:
        """The plan of a summary run; None where it has none yet. ValueError where it is damaged or lacks something."""
        for _ in range(3):
            try:
                text = self.read_text(run_id, schema.PLAN)
                if text is None:
                    return None
                content = json.loads(text)
            except (json.JSONDecodeError, UnicodeDecodeError):  # MLflow copies in place: somebody is writing it
                time.sleep(0.1)
                continue
            try:
                return plan_from_json(checked(content) if isinstance(content, dict) else content)
            except ValueError as error:
                raise ValueError(f"{schema.PLAN} of run {run_id} in {self._where} {error}") from None
        raise ValueError(f"{schema.PLAN} of run {run_id} in {self._where} is damaged")
