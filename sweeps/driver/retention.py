"""Which runs keep their final weights: `Sweep(keep_checkpoints=k)` drops the others'; their digests stay.

A run without weights can be made again from its record, to the same bits.
"""

from collections.abc import Iterable, Mapping

from sweeps.outbox.operations import DropWeights
from sweeps.outbox.outbox import Outbox
from sweeps.plan.plan import Plan
from sweeps.plan.record import PlanRecord
from sweeps.store import schema
from sweeps.store.read import Store


def drop_weights(plan: Plan, store: Store, outbox: Outbox) -> None:
    """Drop the weights of a definition's complete runs that no definition keeps. The outbox must have been drained."""
    if plan.sweep.keep_checkpoints == "all":
        return
    name = plan.experiment.name
    plans = [known.plan for known in store.definitions(name) if known.plan is not None]
    runs = store.runs(name)
    today = schema.identities_today(runs)
    mine = [known for known in plans if known.definition == plan.sweep.definition]
    ours = {identity for known in mine for identity in _runs(known, today)}
    rows = [row for row in runs if row.state == "COMPLETE" and row.identity is not None]
    kept = keepers(plans, {str(row.identity): row.metrics[schema.OBJECTIVE] for row in rows}, today)
    for row in rows:
        if row.identity in ours - kept and row.tags.get(schema.WEIGHTS_KEPT) != "false":
            outbox.put(DropWeights(run_id=row.run_id))


def keepers(plans: Iterable[PlanRecord], objectives: Mapping[str, float], today: Mapping[str, str]) -> set[str]:
    """The identities whose weights some plan keeps: all of its runs, or the k with the lowest objective.

    Of runs with the same objective the earlier trial's counts as better. `today` maps identities of older plans.
    """
    kept: set[str] = set()
    for plan in plans:
        runs = _runs(plan, today)
        if plan.keep_checkpoints != "all":
            runs = sorted((run for run in runs if run in objectives), key=objectives.__getitem__)
            runs = runs[: plan.keep_checkpoints]
        kept.update(runs)
    return kept


def _runs(plan: PlanRecord, today: Mapping[str, str]) -> list[str]:
    """The identities of a plan's runs, once each, by trial and seed."""
    return list(dict.fromkeys(today.get(identity, identity) for identity in plan.identities))
