"""What earlier starts of a sweep have left in a store that a plan goes on with."""

from sweeps.plan import Plan, Trial
from sweeps.store.read import Store
from sweeps.store.schema import RESULTS, RunRow


def earlier_trials(store: Store, plan: Plan) -> list[Trial]:
    """The trials that earlier starts of this definition asked, with today's identities."""
    name = plan.experiment.name
    if name not in store.sweeps():
        return []
    plans = [known.plan for known in store.definitions(name) if known.definition == plan.sweep.definition]
    asked = sorted((plans[0] or {}).get("trials", []) if plans else [], key=lambda trial: trial["trial"])
    return [plan.trial(number, trial["setting"]) for number, trial in enumerate(asked[: plan.num_trials])]


def earlier_results(store: Store, plan: Plan) -> list[RunRow]:
    """The sweep's runs with a result, whichever definition made them."""
    if plan.experiment.name not in store.sweeps():
        return []
    return [row for row in store.runs(plan.experiment.name) if row.identity and row.state in RESULTS]
