"""`Sweep`: what an experiment file declares. Pure data; knows no search and no tracker."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from sweeps.spec.checks import (
    COUNTS,
    check_allowed,
    check_fields,
    check_num_trials,
    check_points,
    check_points_form,
    check_trainer,
    said,
)
from sweeps.spec.config_type import Config, alternatives, changed, dumped, field_types, train_tokens, unchecked
from sweeps.spec.searches import COUNTED, MOST_REFUSED, Search, counts_itself
from sweeps.spec.settings import grid_settings, sampled_settings, with_condition, with_fixed_fields, without_fields
from sweeps.spec.space import MOST_POINTS, Choice, Range, Space, Value, plain

if TYPE_CHECKING:
    from tinylm_core.records import Metrics

ASKED_TWICE = 200  # settings whose answer must be the same again


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
        for name in COUNTS:  # a library's whole number is one of ours
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_trainer(self)
        check_fields(self)
        object.__setattr__(self, "space", _as_its_fields(self.space, self.base))
        check_points_form(self)
        given = ({name: plain(value) for name, value in point.items()} for point in self.points)
        points = tuple(with_fixed_fields(point, self.space, self.base) for point in given)
        object.__setattr__(self, "points", points)
        check_points(self)
        check_num_trials(self)
        check_allowed(self)

    @property
    def num_proposed(self) -> int:
        """How many trials the search makes, of those that don't count their own: num_trials, or what the tokens buy."""
        if self.total_tokens is None:
            return self.num_trials or 0
        return self.total_tokens // (train_tokens(self.base) * self.seeds)

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
    def answers(self) -> list[bool]:
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
        return hashlib.sha256(bytes(self.answers)).hexdigest()[:12]

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
            raise ValueError(f"num_trials={num_trials}: {counts_itself(search or self.search)}; choose another search")
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


def _as_its_fields(space: Space, base: Config) -> Space:
    """The space where Range(0, 1) on a field of real numbers means all between, and not 0 and 1.

    What a field holds its annotation says; where that allows whole numbers too, the base does.
    """
    types = {name: alternatives(annotation) for name, annotation in field_types(type(base)).items()}

    def is_real(name: str) -> bool:
        return float in types[name] and (int not in types[name] or isinstance(getattr(base, name), float))

    return {
        name: replace(dimension, low=float(dimension.low), high=float(dimension.high))
        if isinstance(dimension, Range) and is_real(name)
        else dimension
        for name, dimension in space.items()
    }
