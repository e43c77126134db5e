"""`Sweep`: what an experiment file declares. Pure data; knows no search and no tracker."""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from sweeps.configs import (
    Config,
    changed,
    check_base,
    dumped,
    field_types,
    train_tokens,
    unchecked,
    unknown_field,
    validated,
)
from sweeps.fields import BUDGET_FIELDS
from sweeps.space import (
    MOST_POINTS,
    Choice,
    Range,
    Space,
    Value,
    condition,
    grid_settings,
    is_varied,
    sampled_settings,
    with_condition,
    without_fields,
)
from tinylm_core.config import RunConfig, explain

if TYPE_CHECKING:
    from tinylm_core.records import Metrics

Search = Literal["grid", "random", "sobol", "tpe", "points"]
SEARCHES = get_args(Search)
TPE_STARTUP_TRIALS = 10  # drawn at random, before there is something to learn from
COUNTED = ("grid", "points")  # their space or list says how many trials there are
ASKED_TWICE = 200  # settings whose answer must be the same again
MOST_REFUSED = 1000  # settings in a row; a constraint that refuses more leaves too little to search

# What a trainer of the user's own is called with beside its config
TRAINER_TAKES = ("workdir", "on_steps", "on_eval", "should_stop", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question about hyperparameters: a base config, the space around it, and how to search that.

    base: the config whose fields are varied: a RunConfig, or where `run` is given whatever that takes.
    space: field → Choice or Range; any field of the base but `seed`.
    search: grid (every combination), random, sobol (a space-filling sequence), tpe (learns from the trials so far) or
        points (those listed, and no others).
    num_trials: how many trials; None for grid and points, which count their own.
    total_tokens: instead of num_trials, training tokens for the whole sweep: as many trials as they pay for.
    points: settings that are tried first, in this order; of every search but grid, which tries all anyway.
    allowed: a function of the config of a setting that says whether it may be tried, True or False, and always the
        same: a grid leaves out the cells that it refuses, other searches go on to the next point.
    seeds: each trial trains with base.seed … base.seed + seeds - 1; its objective is their mean.
    objective: val_loss, the final validation loss in nats per token, at most ln(vocabulary size).
    concurrency: trial k of tpe is asked when trial k - concurrency is told: at most so many trials are under way,
        whatever `--workers`. The other searches don't wait.
    search_seed: of random, sobol and tpe.
    keep_checkpoints: "all", or of how many runs, the best, the weights are kept after the sweep; `reproduce` makes any
        of the others again.
    log_every: the tracker gets every so many-th step; history.parquet has all.
    run: a trainer of your own with the signature of `tinylm_core.run`; the sweep must stand in a file then.
    version: of that trainer and all that it reads. Runs are the same piece of science where their configs and this are;
        whoever changes a loss curve changes it.
    """

    base: Config
    space: Space
    search: Search = "grid"
    num_trials: int | None = None
    total_tokens: int | None = None
    points: tuple[Mapping[str, Value], ...] = ()
    allowed: Callable[[Any], bool] | None = None
    seeds: int = 1
    objective: Literal["val_loss"] = "val_loss"
    concurrency: int = 4
    search_seed: int = 0
    keep_checkpoints: Literal["all"] | int = "all"
    log_every: int = 1
    run: "Callable[..., Metrics] | None" = None
    version: str | int | None = None

    def __post_init__(self) -> None:
        self._check_trainer()
        if self.search not in SEARCHES:
            raise ValueError(f"search={self.search!r} is not one of {', '.join(SEARCHES)}")
        for name in ("seeds", "concurrency", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.search_seed < 0:
            raise ValueError(f"search_seed={self.search_seed} must be at least 0")
        if self.keep_checkpoints != "all" and not _is_count(self.keep_checkpoints):
            raise ValueError(f"keep_checkpoints={self.keep_checkpoints!r} must be 'all' or a number, at least 0")
        if self.objective != "val_loss":
            raise ValueError(f"objective={self.objective!r} is not val_loss")
        if not isinstance(self.space, Mapping):
            raise ValueError(f"space={self.space!r} must be {{field: Choice(…) or Range(…)}}")
        for name, dimension in self.space.items():
            self._check_dimension(name, dimension)
            self._check_condition(name, dimension)
        # Range(0, 1) on a field of real numbers means all between, not 0 and 1.
        object.__setattr__(
            self,
            "space",
            {
                name: replace(dim, low=float(dim.low), high=float(dim.high))
                if isinstance(dim, Range) and isinstance(getattr(self.base, name), float)
                else dim
                for name, dim in self.space.items()
            },
        )
        self._check_points()
        if self.search in COUNTED and self.num_trials is not None:
            raise ValueError(f"num_trials={self.num_trials}: {_counts_itself(self.search)}; leave it out")
        if self.total_tokens is not None:
            self._check_total_tokens()
        elif self.search not in COUNTED and (self.num_trials is None or self.num_trials < 1):
            raise ValueError(
                f"num_trials={self.num_trials}: search={self.search!r} needs a number, at least 1 (--num-trials)"
            )
        if not (self.allowed is None or callable(self.allowed)):
            raise ValueError(f"allowed={self.allowed!r} is no function of a config")
        if self.allowed is not None and self.search != "points" and not any(self._answers):
            what = (
                "every cell of the grid" if self.search == "grid" else f"each of {MOST_REFUSED:,} settings of the space"
            )
            raise ValueError(f"allowed: refuses {what}; narrow the space to what it allows")

    def _check_total_tokens(self) -> None:
        said = f"total_tokens={self.total_tokens!r}"
        if not _is_count(self.total_tokens):
            raise ValueError(f"{said} must be a whole number of tokens")
        if self.search in COUNTED:
            raise ValueError(f"{said}: {_counts_itself(self.search)}; leave it out")
        if self.num_trials is not None:
            raise ValueError(f"{said} and num_trials={self.num_trials}: one says how many trials; leave the other out")
        if "train_tokens" in self.space:
            raise ValueError(f"{said}: with train_tokens swept, trials cost different amounts; give num_trials")

    @property
    def num_proposed(self) -> int:
        """How many trials the search makes, of those that don't count their own: num_trials, or what the tokens buy."""
        if self.total_tokens is None:
            return self.num_trials or 0
        return self.total_tokens // (train_tokens(self.base) * self.seeds)

    def _check_trainer(self) -> None:
        if isinstance(self.base, type):
            raise ValueError(
                f"base: {self.base.__name__} is a class, and a sweep needs a config: {self.base.__name__}()"
            )
        if self.run is None:
            if not isinstance(self.base, RunConfig):
                raise ValueError(f"base: a {type(self.base).__name__} needs run=…, the trainer that takes it")
            if self.version is not None:
                raise ValueError(f"version={self.version!r} is of a trainer of one's own: run=…")
            return
        if not callable(self.run):
            raise ValueError(f"run={self.run!r} must be a function with the signature of tinylm_core.run")
        if self.version is None:
            raise ValueError("version: a sweep with its own run needs one, to be changed with whatever changes results")
        types = field_types(type(self.base))
        if "seed" not in types:
            raise ValueError(f"base: {type(self.base).__name__} needs a field seed")
        for name in ("num_steps", "tokens_per_step"):
            value = getattr(self.base, name, None)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"base: {type(self.base).__name__} needs {name}, a whole number of at least 1")
        check_base(self.base)
        try:
            inspect.signature(self.run).bind(self.base, **dict.fromkeys(TRAINER_TAKES))
        except TypeError as error:
            raise ValueError(
                f"run: {getattr(self.run, '__name__', self.run)} can't be called as "
                f"run(config, {', '.join(f'{name}=…' for name in TRAINER_TAKES)}): {error}"
            ) from None

    def _check_dimension(self, name: str, dimension: Choice | Range) -> None:
        types = field_types(type(self.base))
        if name not in types:
            raise ValueError(unknown_field("field in the space", name, type(self.base)))
        if name == "seed":
            raise ValueError("space: seed is not swept; seeds=N trains each trial with N of them")
        if not isinstance(dimension, Choice | Range):
            raise ValueError(f"space: {name}={dimension!r} must be Choice(…) or Range(…)")
        if isinstance(dimension, Range) and name in BUDGET_FIELDS and self.run is None:
            raise ValueError(f"space: {name} decides the tokens per step, so it takes Choice(…), not Range(…)")
        annotation = types[name]
        if isinstance(dimension, Range) and not {int, float} & {annotation, *get_args(annotation)}:
            raise ValueError(f"space: {name} is no number, so it takes Choice(…), not Range(…)")
        # Somewhere inside too: a whole-numbered field takes Range(1, 4), and not Range(1.0, 4.0).
        inside = (dimension.low, dimension.high, dimension.at(0.618)) if isinstance(dimension, Range) else ()
        values = dimension.values if isinstance(dimension, Choice) else inside
        for value in values:
            self._check_value(name, value)
        if self.search == "grid":
            dimension.grid()

    def _check_condition(self, name: str, dimension: Choice | Range) -> None:
        earlier = list(self.space)[: list(self.space).index(name)]
        for other, values in condition(dimension).items():
            parent = self.space.get(other)
            if other not in earlier or not isinstance(parent, Choice):
                raise ValueError(
                    f"space: {name} is varied under a condition on {other}, which must be swept before it, by Choice(…)"
                )
            for value in values:
                if not parent.holds(value):
                    raise ValueError(f"space: {name} is varied when {other}={value!r}, which {parent!r} doesn't hold")

    def _check_value(self, name: str, value: Value) -> None:
        """The value alone must be allowed; what fits together is checked for each setting by the plan."""
        try:
            validated(type(self.base), dumped(self.base) | {name: value})
        except ValidationError as error:
            if error.errors()[0]["loc"]:  # else the value does not suit another field of the base
                raise ValueError(f"space: {explain(error)}") from None

    def _completed(self, point: Mapping[str, Value]) -> Mapping[str, Value]:
        """The point with the base's value of each field that it leaves out and whose condition doesn't hold in it."""
        completed: dict[str, Value] = {}
        for name, dimension in self.space.items():
            if name in point:
                completed[name] = point[name]
            elif dimension.when.keys() <= completed.keys() and not is_varied(dimension, completed):
                completed[name] = getattr(self.base, name)
        return dict(point) if completed.keys() <= point.keys() else completed | dict(point)

    def _check_points(self) -> None:
        if isinstance(self.points, Mapping) or not all(isinstance(point, Mapping) for point in self.points):
            raise ValueError(f"points={self.points!r} must be a list of settings, each {{field: value}}")
        object.__setattr__(self, "points", tuple(map(self._completed, self.points)))
        if self.search == "grid" and self.points:
            raise ValueError("points: a grid tries every cell anyway; leave them out")
        if self.search == "points" and not self.points:
            raise ValueError("points: search='points' needs at least one setting")
        for point in self.points:
            if set(point) != set(self.space):
                raise ValueError(f"points: {dict(point)!r} must give each of {', '.join(self.space)} a value")
            for name, dimension in self.space.items():
                if not is_varied(dimension, point):
                    if point[name] != getattr(self.base, name):
                        raise ValueError(f"points: {name}={point[name]!r} is not varied in {said(point)}; leave it out")
                elif not dimension.holds(point[name]):
                    raise ValueError(f"points: {name}={point[name]!r} is not in {dimension!r}")
            if not self.allows(point):
                raise ValueError(f"points: allowed refuses {said(point)}")

    def allows(self, setting: Mapping[str, Value]) -> bool:
        """Whether `allowed` lets a setting be tried. ValueError, naming it, where that raises or gives no bool.

        Values that don't fit together are shown to the function too, so that it can leave them out.
        """
        if self.allowed is None:
            return True
        try:
            config = changed(self.base, setting)
        except ValueError:
            config = unchecked(self.base, setting)
        try:
            answer = self.allowed(config)
        except Exception as error:  # whatever a user's function raises
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"allowed: {what} (setting {said(setting)})") from None
        if not isinstance(answer, bool):
            raise ValueError(f"allowed: gave {answer!r}, and must give True or False (setting {said(setting)})")
        return answer

    @cached_property
    def _answers(self) -> list[bool]:
        """What the function does: its answer for each cell of a grid, or for each of a sample of the space."""
        is_grid = self.search == "grid"
        settings = (
            grid_settings(self.space, self.base) if is_grid else sampled_settings(self.space, self.base, MOST_REFUSED)
        )
        answers = []
        for number, setting in enumerate(settings):
            answers.append(self.allows(setting))
            if number < ASKED_TWICE and self.allows(setting) != answers[-1]:
                raise ValueError(
                    f"allowed: gave True and then False, or the other way, for one setting: {said(setting)}"
                )
        return answers

    @property
    def constraint(self) -> str | None:
        """The digest of what `allowed` does: how it is written changes no trial. None where there is nothing to do."""
        if self.allowed is None or self.search == "points":
            return None
        return hashlib.sha256(bytes(self._answers)).hexdigest()[:12]

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds each trial trains with."""
        return tuple(range(self.base.seed, self.base.seed + self.seeds))

    @property
    def definition(self) -> str:
        """The digest of what makes the trials what they are; not how many, nor what is logged or kept."""
        content: dict[str, Any] = {
            "base": dumped(self.base),
            # A list: the order of the fields decides which trial is number k.
            "space": [[name, dimension.to_json()] for name, dimension in self.space.items()],
            "search": self.search,
            "search_seed": self.search_seed,
            "concurrency": self.concurrency,
            "seeds": self.seed_values,
            "objective": self.objective,
        }
        if self.run is not None:
            content["trainer"] = self.version
        if self.points:  # a definition without any is what it was before there were points
            content["points"] = [dict(point) for point in self.points]
        if self.constraint:
            content["allowed"] = self.constraint
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def override(
        self,
        *,
        settings: dict[str, object] | None = None,
        dimensions: Space | None = None,
        search: str | None = None,
        num_trials: int | None = None,
        seeds: int | None = None,
    ) -> "Sweep":
        """The sweep with other values, as the command line gives them. A set field is pinned: it leaves the space."""
        settings = settings or {}
        if num_trials is not None and (search or self.search) in COUNTED:
            raise ValueError(f"num_trials={num_trials}: {_counts_itself(search or self.search)}; choose another search")
        base = changed(self.base, settings)
        space = without_fields(self.space, settings, base)
        for name, dimension in (dimensions or {}).items():
            keeps = name in space and not dimension.when  # other values, the same condition
            space[name] = with_condition(dimension, space[name].when) if keeps else dimension
        search = search or self.search
        return replace(
            self,
            base=base,
            space=space,
            search=search,  # type: ignore[arg-type]  # checked in __post_init__
            num_trials=None if search in COUNTED else num_trials or self.num_trials,
            total_tokens=None if search in COUNTED or num_trials is not None else self.total_tokens,
            points=() if search == "grid" or space.keys() != self.space.keys() else self.points,
            seeds=self.seeds if seeds is None else seeds,
        )


def counted_settings(sweep: Sweep) -> list[dict[str, Value]]:
    """The settings of a grid or of listed points; trial k is number k."""
    if sweep.search == "points":
        return [dict(point) for point in sweep.points]
    return [cell for cell in grid_settings(sweep.space, sweep.base) if sweep.allows(cell)]


def listed_settings(sweep: Sweep) -> list[dict[str, Value]] | None:
    """All settings that may be proposed, where they can be listed."""
    if sweep.search in COUNTED:
        return counted_settings(sweep)
    choices = [dimension.values for dimension in sweep.space.values() if isinstance(dimension, Choice)]
    if len(choices) < len(sweep.space) or math.prod(map(len, choices)) > MOST_POINTS:
        return None
    return [cell for cell in grid_settings(sweep.space, sweep.base) if sweep.allows(cell)]


def said(setting: Mapping[str, Value]) -> str:
    """A setting in an error: every value as it would be written."""
    return ", ".join(f"{name}={value!r}" for name, value in setting.items())


def _counts_itself(search: str) -> str:
    return "a grid has as many trials as cells" if search == "grid" else "there are as many trials as points"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
