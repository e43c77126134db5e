"""What a plan takes over from earlier starts: trials, results, and a line where trainer or data have changed since."""

from collections.abc import Iterable

from sweeps.plan.plan import Plan, PlannedRun, Trial
from sweeps.spec.naming import counted
from sweeps.store.read import Store
from sweeps.store.schema import DEFINITION, FINGERPRINT, TRAINER, TRAINER_SOURCE, RunRow
from sweeps.trainers.trainer_file import TrainerFile
from tinylm_core.records import RESULTS


def earlier_trials(store: Store, plan: Plan) -> list[Trial]:
    """The trials that earlier starts of this definition asked, with today's identities."""
    definitions = store.definitions(plan.experiment.name)
    earlier = next((known.plan for known in definitions if known.definition == plan.sweep.definition), None)
    asked = sorted(earlier.trials, key=lambda trial: trial.number) if earlier else []
    return [plan.trial(number, trial.setting) for number, trial in enumerate(asked[: plan.num_trials])]


def earlier_results(store: Store, plan: Plan) -> list[RunRow]:
    """The sweep's runs with a result, whichever definition made them."""
    return [row for row in store.runs(plan.experiment.name) if row.identity and row.state in RESULTS]


def notes_on_trainer(file: TrainerFile, earlier: Iterable[RunRow]) -> list[str]:
    """A line where results of this version were trained by other code than the trainer's file has now."""
    edited = sum(
        row.tags.get(TRAINER) == file.version and row.tags.get(TRAINER_SOURCE) != file.source.sha256 for row in earlier
    )
    if not edited:
        return []
    return [
        f"{counted(edited, 'result')} of version={file.version}, trained by other code than "
        f"{file.source.file.path.name} and what it imports have now; if the edit changes a result, change version"
    ]


def notes_on_texts(plan: Plan, runs: Iterable[PlannedRun], earlier: Iterable[RunRow]) -> list[str]:
    """A line where this definition has results from before its text was edited, which are results of another one."""
    texts = {run.fingerprint for run in runs}
    number = sum(
        row.tags.get(DEFINITION) == plan.sweep.definition and row.tags.get(FINGERPRINT) not in texts for row in earlier
    )
    if not number or None in texts:
        return []
    are = f"{counted(number, 'run')} {'is' if number == 1 else 'are'}"
    return [f"the data has changed: {are} of what it was before; they stay in MLflow, without a part in this report"]
