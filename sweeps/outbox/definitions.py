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
from tinylm_core.records import now_ms

if TYPE_CHECKING:
    from sweeps.store.write import Writer


class Definitions:
    """The plans of one sweep, kept on its summary runs; `run_id_of` gives MLflow's ID of a run by its creation ID."""

    def __init__(self, store: Store, name: str, run_id_of: Callable[[str], str]) -> None:
        self._store, self._name, self._run_id_of = store, name, run_id_of
        self._plans: dict[str, PlanRecord] = {}

    def set_views(self, writer: "Writer", experiment_id: str, plan: PlanRecord, *, is_new: bool) -> None:
        """Let MLflow's views of the sweep suit a plan; one of a new sweep has nothing to differ from."""
        differing = [] if is_new else self._differing(plan)
        writer.set_views(experiment_id, plan.swept, differing, plan.created_ms or now_ms())

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
            (Path(folder) / schema.PLAN).write_text(json.dumps(plan.to_json(), indent=1), encoding="utf-8")
            writer.log_artifacts(self._run_id_of(summary), Path(folder))
        self._plans[summary] = plan

    def forget(self) -> None:
        """The sweep was removed."""
        self._plans.clear()

    def _differing(self, plan: PlanRecord) -> list[str]:
        """The fields of a definition's base in which another of the sweep differs."""
        others = [known.plan.base for known in self._store.definitions(self._name) if known.plan]
        return [field for field, value in plan.base.items() if any(b.get(field) != value for b in others)]

    def _stored(self, summary: str) -> PlanRecord | None:
        run_id = self._run_id_of(summary)
        return next((d.plan for d in self._store.definitions(self._name) if d.run_id == run_id), None)
