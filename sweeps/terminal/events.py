"""What `sweeps.run --json` prints: the events that programs read. docs/reference.md is written from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import click


@dataclass(frozen=True)
class SweepBegins:
    """Once, before any run: what is to be done."""

    name: Annotated[str, "the sweep's name"]
    definition: Annotated[str, "the digest of what is swept, and how"]
    num_trials: Annotated[int, "trials of the plan"]
    total_runs: Annotated[int, "runs of the plan"]
    known_runs: Annotated[int, "runs that have a result from earlier starts"]
    event: str = "sweep"


@dataclass(frozen=True)
class OfRun:
    """What is said of a run whenever something happens to it."""

    run: Annotated[str, "the run's name in MLflow"]
    trial: Annotated[int, "its trial's number"]
    seed: Annotated[int, "its seed"]
    setting: Annotated[str, "its setting, abbreviated, for people"]
    identity: Annotated[str, "the digest that says that two runs compute the same"]


@dataclass(frozen=True)
class RunStarts(OfRun):
    """A run begins, or goes on."""

    event: str = "started"


@dataclass(frozen=True)
class RunEnds(OfRun):
    """A run has ended."""

    state: Annotated[str, "COMPLETE, DIVERGED, FAILED, or INTERRUPTED: it goes on later"]
    objective: Annotated[float | None, "its objective, in nats per token; null where it has none"]
    event: str = "ended"


@dataclass(frozen=True)
class SweepProgress:
    """About every ten seconds: how far the sweep is."""

    done_runs: Annotated[int, "runs with a result"]
    total_runs: Annotated[int, "runs of the plan"]
    failed_runs: Annotated[int, "runs that raised"]
    tokens_per_second: Annotated[float, "of all runs together"]
    share_done: Annotated[float, "of the work, 0 to 1"]
    seconds_left: Annotated[float | None, "an estimate; null while there is none"]
    waiting: Annotated[list[str], "a sentence for each thing that is waited for"]
    event: str = "progress"


@dataclass(frozen=True)
class SweepDone:
    """Once, at the end: the answer. What is of the best setting is null where none can be called best."""

    answer: Annotated[list[str], "the sentences that the report opens with"]
    best_setting: Annotated[Mapping[str, object] | None, "the swept fields of the best setting, exactly"]
    best_objective: Annotated[float | None, "its mean objective over seeds, in nats per token"]
    best_run: Annotated[str | None, "MLflow's ID of the run with the lowest objective"]
    report: Annotated[str, "the page's file"]
    links: Annotated[Mapping[str, str], "commands and pages: `mlflow`, `curves`, `best_runs`, `reproduce`, `sample`, "
                                        "`report`; each only where there is one"]  # fmt: skip
    event: str = "done"


Event = SweepBegins | RunStarts | RunEnds | SweepProgress | SweepDone


def say_event(event: Event) -> None:
    """Print one event as a line of JSON, its kind first."""
    content = asdict(event)
    click.echo(json.dumps({"event": content.pop("event"), **content}))
