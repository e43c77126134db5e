"""Part of the sender: writes a definition's plan.json to its summary run, and adds trials to it. Knows no runs."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.store import schema
from sweeps.store.read import Store
from tinylm_core.durable import with_checksum

if TYPE_CHECKING:
    from sweeps.store.write import Writer


class Definitions:
    """The plans of one sweep, kept on its summary runs; `run_id_of` gives MLflow's ID of a run by its creation ID."""

    def __init__(self, store: Store, name: str, run_id_of: Callable[[str], str]) -> None:
        self._store, self._name, self._run_id_of = store, name, run_id_of
        self._plans: dict[str, PlanRecord] = {}

    def add_trial(self, writer: "Writer", summary: str, trial: TrialRecord) -> None:
        """Enter a trial that the search proposed into its definition's plan."""
        plan = self._plans.get(summary) or self._stored(summary)
        if plan is not None:
            known = {known.number: known for known in plan.trials} | {trial.number: trial}
            trials = tuple(known[number] for number in sorted(known))
            self.put(writer, summary, replace(plan, trials=trials))

    def put(self, writer: "Writer", summary: str, plan: PlanRecord) -> None:
        """Keep a plan on its summary run."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / schema.PLAN).write_text(
                json.dumps(with_checksum(plan.to_json()), indent=1), encoding="utf-8"
            )
            writer.log_artifacts(self._run_id_of(summary), Path(folder))
        self._plans[summary] = plan

    def forget(self) -> None:
        """The sweep was removed."""
        self._plans.clear()

    def _stored(self, summary: str) -> PlanRecord | None:
        run_id = self._run_id_of(summary)
        return next((d.plan for d in self._store.definitions(self._name) if d.run_id == run_id), None)
