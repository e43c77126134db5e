"""Around the loop of one start: earlier trials and room on disk before it, pausing and draining after it.

Knows no terminal and no report.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from sweeps.driver.earlier_starts import earlier_trials
from sweeps.driver.ledger import Ledger
from sweeps.driver.loop import Drive, View
from sweeps.outbox.disk import check_room
from sweeps.outbox.errors import WAIT_SECONDS
from sweeps.outbox.outbox import Outbox
from sweeps.outbox.work import drain
from sweeps.plan.plan import Plan, Trial
from sweeps.search.ask_tell import TrialSearch, learns
from sweeps.spec.catalog import Experiment
from sweeps.store import schema
from sweeps.store.read import Store
from sweeps.workers.protocol import Workers

CHECKPOINT_SECONDS = 3.0  # for runs to keep one when the sweep pauses
PAUSE_SECONDS = 3.5  # in all, for the tracker to hear of it: with what ends a command it stays below five


@dataclass(frozen=True)
class Limits:
    """How long a start goes on, and what it puts up with."""

    wait: float = WAIT_SECONDS  # seconds that a tracker is away, or a disk full, before it gives up
    max_failures: int | None = None  # so many failed runs stop it; None: a quarter of all, at least 3
    end: float = math.inf  # the moment of `clock` from which on no run begins
    clock: Callable[[], float] = time.monotonic

    @property
    def is_out_of_time(self) -> bool:
        """Whether its time is over."""
        return self.clock() >= self.end


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """How a start ended; `failed` maps names of runs to what went wrong."""

    paused: bool
    failed: dict[str, str]
    out_of_time: bool = False  # which is why it has paused
    has_results: bool = True  # of this plan, earlier ones included


def execute(
    plan: Plan,
    workers: Workers,
    store: Store,
    outbox: Outbox,
    make_view: Callable[[list[Trial], Ledger], View],
    should_pause: Callable[[], bool],
    *,
    limits: Limits = NO_LIMITS,
    uninterrupted: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Run what is missing of a plan. ValueError where the sweep is another file's.

    While the tracker is away, runs under way go on and no new one begins; after `limits.wait` seconds TrackerAwayError.
    Out of time no run begins and those under way pause, and all that they told still arrives at the tracker.
    Within `uninterrupted` it is `should_pause` that ends the loop, so that runs can keep a checkpoint.
    """
    name = plan.experiment.name
    store.check_not_deleted(name)
    check_file(store, plan.experiment)
    ledger = Ledger(plan, outbox, store.layout, store.runs(name), workers.conditions)
    search = TrialSearch(plan.sweep)
    trials = earlier_trials(store, plan)
    for trial in trials:
        search.adopt(trial.setting)
    while not learns(plan.sweep) and len(trials) < plan.num_trials:
        trials.append(plan.trial(len(trials), search.ask()))
    needed = plan.trainer.work_bytes(plan.sweep.base)
    check_room(store.folder, needed + bytes_to_keep(plan, trials, ledger))
    ledger.open(trials)
    view = make_view(trials, ledger)

    def is_held() -> bool:
        idle = not workers.is_busy()
        is_short = outbox.disk.is_short(needed, idle=idle)
        return outbox.is_stuck(limits.wait, idle=idle) or is_short

    def gives_up() -> bool:
        view.tick()
        return should_pause()

    drive = Drive(
        plan,
        search,
        ledger,
        workers,
        view,
        trials,
        max_failures=limits.max_failures,
        is_held=is_held,
        is_short_of_room=lambda: outbox.disk.is_short(needed, idle=False),
    )
    with view, uninterrupted(), outbox.disk.asking(gives_up):
        drive.go(lambda: should_pause() or outbox.refusal is not None or limits.is_out_of_time)
        stopped = should_pause() or outbox.refusal is not None or drive.has_failed_too_often()
        out_of_time = drive.paused and not stopped
        deadline = time.monotonic() + PAUSE_SECONDS
        if drive.paused:
            drive.pause(CHECKPOINT_SECONDS, time.monotonic)
    ledger.close("INTERRUPTED" if drive.paused else "COMPLETE")
    if drive.paused and not out_of_time:
        outbox.drain(deadline - time.monotonic())  # the next start marks what the tracker doesn't take by then
    else:
        drain(outbox, limits.wait)
    names = {run.identity: run.name for trial in drive.trials for run in trial.runs}
    return Outcome(
        drive.paused,
        {names[identity]: error for identity, error in drive.failed.items()},
        out_of_time,
        any(identity in ledger.results for identity in names),
    )


def bytes_to_keep(plan: Plan, trials: list[Trial], ledger: Ledger) -> int:
    """What the runs that are still to be made will keep on disk."""
    missing = {run.identity: run.config for trial in trials for run in trial.runs if run.identity not in ledger.results}
    to_come = (plan.num_trials - len(trials)) * plan.sweep.seeds * plan.trainer.disk_bytes(plan.sweep.base)
    return to_come + sum(plan.trainer.disk_bytes(config) for config in missing.values())


def check_file(store: Store, experiment: Experiment) -> None:
    """ValueError where another file of the same name has made this sweep."""
    for row in store.runs(experiment.name, "summary"):
        made_by = row.tags.get(schema.FILE, experiment.made_by)
        was_moved = store.is_local and Path(made_by).is_absolute() and not Path(made_by).exists()
        if made_by != experiment.made_by and not was_moved:
            raise ValueError(
                f"sweep {experiment.name!r} in {store.where} was made by {made_by}, and this is {experiment.made_by}; "
                "rename the file or choose another --store"
            )
