"""`PlanRecord`: the content of plan.json, to JSON and from it, of earlier versions too. Opens no file.

`sweeps.outbox.definitions` writes the file and `sweeps.store.artifacts` reads it; nothing else knows what is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sweeps.spec.command import Command, command_from_text
from sweeps.spec.searches import SEARCHES, Search
from sweeps.spec.space import Setting, Space, dimension_from_json

NEEDED = ("name", "definition", "question", "command", "search", "space", "base", "seeds", "matched", "trials")


@dataclass(frozen=True)
class TrialRecord:
    """A trial as its plan records it."""

    number: int
    setting: Setting
    label: str
    runs: Mapping[int, str]  # seed → identity, as the version that planned it computed that
    num_steps: int | None = None  # None of a plan from before it was recorded; so for the next
    tokens_per_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return {
            "trial": self.number,
            "setting": self.setting,
            "label": self.label,
            "num_steps": self.num_steps,
            "tokens_per_step": self.tokens_per_step,
            "runs": {str(seed): identity for seed, identity in self.runs.items()},
        }


@dataclass(frozen=True)
class PlanRecord:
    """A definition as its summary run records it, with the trials that were asked so far."""

    name: str
    definition: str
    question: str
    command: Command
    search: Search
    space: Space
    base: Mapping[str, Any]  # field → value, as JSON has them
    seeds: tuple[int, ...]
    num_trials: int
    matched: bool  # whether settings with one seed see the same tokens in the same order (law 4)
    trials: tuple[TrialRecord, ...]
    file: str = ""  # that made it
    search_seed: int = 0
    concurrency: int = 4
    objective: str = "val_loss"
    trainer: str | int | None = None  # the version of a trainer of its own; None: tinylm_core
    allowed: str | None = None  # the digest of what its constraint allows
    keep_checkpoints: Literal["all"] | int = "all"
    numerics_version: int | None = None
    created_ms: int | None = None  # when it was started last; None of a plan from before that was recorded
    num_repeated: int = 0  # trials that were taken out, as they repeat an earlier one's runs; never written

    @property
    def swept(self) -> tuple[str, ...]:
        """The swept fields, in the order of the space."""
        return tuple(self.space)

    @property
    def identities(self) -> list[str]:
        """The identities of its runs, by trial and seed, as the plan has them."""
        return [identity for trial in self.trials for identity in trial.runs.values()]

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        command = {"target": self.command.target, "flags": list(map(list, self.command.flags))}
        return {
            "name": self.name,
            "definition": self.definition,
            "question": self.question,
            "command": command | {"is_call": self.command.is_call},
            "file": self.file,
            "search": self.search,
            "search_seed": self.search_seed,
            "concurrency": self.concurrency,
            "objective": self.objective,
            "space": {name: dimension.to_json() for name, dimension in self.space.items()},
            "swept": list(self.space),
            "base": dict(self.base),
            "trainer": self.trainer,
            "seeds": list(self.seeds),
            "keep_checkpoints": self.keep_checkpoints,
            "num_trials": self.num_trials,
            "matched": self.matched,
            "numerics_version": self.numerics_version,
            "trials": [trial.to_json() for trial in self.trials],
            **({"allowed": self.allowed} if self.allowed else {}),
            **({"created_ms": self.created_ms} if self.created_ms is not None else {}),
        }


def plan_from_json(content: object) -> PlanRecord:
    """The plan that `to_json` wrote, in this version or an earlier one. ValueError, in one line, for what is none.

    The line goes on from whose plan it is: `lacks seeds: another version wrote it`.
    """
    if not isinstance(content, Mapping):
        raise ValueError("is no plan")
    if lacking := [key for key in NEEDED if key not in content]:
        raise ValueError(f"lacks {', '.join(lacking)}: another version wrote it")
    try:
        return _plan(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"is damaged: {type(error).__name__}: {' '.join(str(error).split())}") from None


def trial_from_json(content: Mapping[str, Any]) -> TrialRecord:
    """The trial that `to_json` wrote. ValueError for what is none."""
    try:
        return _trial(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"is no trial: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _trial(content: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(
        number=int(content["trial"]),
        setting=dict(content["setting"]),
        label=str(content["label"]),
        runs={int(seed): str(identity) for seed, identity in content["runs"].items()},
        num_steps=content.get("num_steps"),
        tokens_per_step=content.get("tokens_per_step"),
    )


def _plan(content: Mapping[str, Any]) -> PlanRecord:
    if content["search"] not in SEARCHES:
        raise ValueError(f"search {content['search']!r} is none of {', '.join(SEARCHES)}")
    trials = tuple(map(trial_from_json, content["trials"]))
    known = ("file", "search_seed", "concurrency", "objective", "trainer", "allowed", "keep_checkpoints",
             "numerics_version", "created_ms")  # fmt: skip
    return PlanRecord(
        name=str(content["name"]),
        definition=str(content["definition"]),
        question=str(content["question"]),
        command=_command(content["command"]),
        search=content["search"],
        space={name: dimension_from_json(dimension) for name, dimension in content["space"].items()},
        base=dict(content["base"]),
        seeds=tuple(map(int, content["seeds"])),
        num_trials=int(content.get("num_trials", len(trials))),
        matched=bool(content["matched"]),
        trials=trials,
        **{name: content[name] for name in known if name in content},
    )


def _command(content: Any) -> Command:
    if isinstance(content, str):  # of a version that kept it as text
        return command_from_text(content)
    flags = tuple((str(flag), str(value)) for flag, value in content["flags"])
    return Command(str(content["target"]), flags, bool(content["is_call"]))
