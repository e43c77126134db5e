"""The checks that `Sweep` makes when it is built: each raises ValueError with field, value and what is allowed."""

import inspect
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError

from sweeps.spec.config_type import check_base, check_size, dumped, field_types, unknown_field, validated
from sweeps.spec.fields import BUDGET_FIELDS, COLUMNS
from sweeps.spec.searches import COUNTED, MOST_REFUSED, SEARCHES, counts_itself
from sweeps.spec.settings import condition, is_varied
from sweeps.spec.space import Choice, Range, Value
from tinylm_core.config import RunConfig, explain

if TYPE_CHECKING:
    from sweeps.spec.sweep import Sweep

COUNTS = ("num_trials", "total_tokens", "seeds", "concurrency", "search_seed", "log_every")

# What a trainer of the user's own is called with beside its config
TRAINER_TAKES = ("workdir", "on_steps", "on_eval", "should_stop", "device", "threads")


def check_trainer(sweep: "Sweep") -> None:
    """Whether the base and the trainer, ours or the user's own, fit together."""
    if isinstance(sweep.base, type):
        raise ValueError(f"base: {sweep.base.__name__} is a class, and a sweep needs a config: {sweep.base.__name__}()")
    if sweep.run is None:
        if not isinstance(sweep.base, RunConfig):
            raise ValueError(f"base: a {type(sweep.base).__name__} needs run=…, the trainer that takes it")
        if sweep.version is not None:
            raise ValueError(f"version={sweep.version!r} is of a trainer of one's own: run=…")
        return
    if not callable(sweep.run):
        raise ValueError(f"run={sweep.run!r} must be a function with the signature of tinylm_core.run")
    if sweep.version is None:
        raise ValueError("version: a sweep with its own run needs one, to be changed with whatever changes results")
    types = field_types(type(sweep.base))
    if taken := sorted(types.keys() & COLUMNS):
        name = f"{type(sweep.base).__name__}.{taken[0]}"
        raise ValueError(f"base: {name} is named as a column of a report's tables; give the field another name")
    if "seed" not in types:
        raise ValueError(f"base: {type(sweep.base).__name__} needs a field seed")
    for name in ("num_steps", "tokens_per_step"):
        value = getattr(sweep.base, name, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"base: {type(sweep.base).__name__} needs {name}, a whole number of at least 1")
    check_base(sweep.base)
    try:
        inspect.signature(sweep.run).bind(sweep.base, **dict.fromkeys(TRAINER_TAKES))
    except TypeError as error:
        raise ValueError(
            f"run: {getattr(sweep.run, '__name__', sweep.run)} can't be called as "
            f"run(config, {', '.join(f'{name}=…' for name in TRAINER_TAKES)}): {error}"
        ) from None


def check_fields(sweep: "Sweep") -> None:
    """What each field may be by itself, the space but for its points."""
    if sweep.search not in SEARCHES:
        raise ValueError(f"search={sweep.search!r} is not one of {', '.join(SEARCHES)}")
    for name in COUNTS:
        value = getattr(sweep, name)
        if not (value is None or _is_whole(value)):
            raise ValueError(f"{name}={value!r} must be a whole number" + " of tokens" * (name == "total_tokens"))
        if name in ("seeds", "concurrency", "log_every") and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if sweep.search_seed < 0:
        raise ValueError(f"search_seed={sweep.search_seed} must be at least 0")
    if sweep.keep_checkpoints != "all" and not _is_count(sweep.keep_checkpoints):
        raise ValueError(f"keep_checkpoints={sweep.keep_checkpoints!r} must be 'all' or a number, at least 0")
    if sweep.objective != "val_loss":
        raise ValueError(f"objective={sweep.objective!r} is not val_loss")
    if not isinstance(sweep.space, Mapping):
        raise ValueError(f"space={sweep.space!r} must be {{field: Choice(…) or Range(…)}}")
    for name, dimension in sweep.space.items():
        _check_dimension(sweep, name, dimension)
        _check_condition(sweep, name, dimension)


def check_num_trials(sweep: "Sweep") -> None:
    """How many trials there are to be, and whether the sweep says so once."""
    if sweep.search in COUNTED and sweep.num_trials is not None:
        raise ValueError(f"num_trials={sweep.num_trials}: {counts_itself(sweep.search)}; leave it out")
    if sweep.total_tokens is not None:
        _check_total_tokens(sweep)
    elif sweep.search not in COUNTED and (sweep.num_trials is None or sweep.num_trials < 1):
        raise ValueError(
            f"num_trials={sweep.num_trials}: search={sweep.search!r} needs a number, at least 1 (--num-trials)"
        )


def check_allowed(sweep: "Sweep") -> None:
    """Whether the constraint is a function, and leaves something to try."""
    if not (sweep.allowed is None or callable(sweep.allowed)):
        raise ValueError(f"allowed={sweep.allowed!r} is no function of a config")
    if sweep.allowed is not None and sweep.search != "points" and not any(sweep.answers):
        what = "every cell of the grid" if sweep.search == "grid" else f"each of {MOST_REFUSED:,} settings of the space"
        raise ValueError(f"allowed: refuses {what}; narrow the space to what it allows")


def check_points_form(sweep: "Sweep") -> None:
    """Whether the points are a list of settings."""
    if isinstance(sweep.points, Mapping) or not all(isinstance(point, Mapping) for point in sweep.points):
        raise ValueError(f"points={sweep.points!r} must be a list of settings, each {{field: value}}")


def check_points(sweep: "Sweep") -> None:
    """Whether each point is a setting of the space."""
    if sweep.search == "grid" and sweep.points:
        raise ValueError("points: a grid tries every cell anyway; leave them out")
    if sweep.search == "points" and not sweep.points:
        raise ValueError("points: search='points' needs at least one setting")
    for point in sweep.points:
        if set(point) != set(sweep.space):
            raise ValueError(f"points: {dict(point)!r} must give each of {', '.join(sweep.space)} a value")
        for name, dimension in sweep.space.items():
            if not is_varied(dimension, point):
                if point[name] != getattr(sweep.base, name):
                    raise ValueError(f"points: {name}={point[name]!r} is not varied in {said(point)}; leave it out")
            elif not dimension.holds(point[name]):
                raise ValueError(f"points: {name}={point[name]!r} is not in {dimension!r}")
        if not sweep.allows(point):
            raise ValueError(f"points: allowed refuses {said(point)}")


def said(setting: Mapping[str, Value]) -> str:
    """A setting in an error: every value as it would be written."""
    return ", ".join(f"{name}={value!r}" for name, value in setting.items())


def _check_dimension(sweep: "Sweep", name: str, dimension: Choice | Range) -> None:
    types = field_types(type(sweep.base))
    if name not in types:
        raise ValueError(unknown_field("field in the space", name, type(sweep.base)))
    if name == "seed":
        raise ValueError("space: seed is not swept; seeds=N trains each trial with N of them")
    if not isinstance(dimension, Choice | Range):
        raise ValueError(f"space: {name}={dimension!r} must be Choice(…) or Range(…)")
    if isinstance(dimension, Range) and name in BUDGET_FIELDS and sweep.run is None:
        raise ValueError(f"space: {name} decides the tokens per step, so it takes Choice(…), not Range(…)")
    annotation = types[name]
    if isinstance(dimension, Range) and not {int, float} & {annotation, *get_args(annotation)}:
        raise ValueError(f"space: {name} is no number, so it takes Choice(…), not Range(…)")
    # Somewhere inside too: a whole-numbered field takes Range(1, 4), and not Range(1.0, 4.0).
    inside = (dimension.low, dimension.high, dimension.at(0.618)) if isinstance(dimension, Range) else ()
    values = dimension.values if isinstance(dimension, Choice) else inside
    for value in values:
        _check_value(sweep, name, value)
        check_size(f"space: {name}", value)
    listed = dimension.values if isinstance(dimension, Choice) else ()
    if alike := next((pair for pair in itertools.combinations(listed, 2) if pair[0] == pair[1]), None):
        raise ValueError(f"space: {name}: {alike[0]!r} and {alike[1]!r} are equal, and a table can't tell them apart")
    if sweep.search == "grid":
        dimension.grid()


def _check_condition(sweep: "Sweep", name: str, dimension: Choice | Range) -> None:
    earlier = list(sweep.space)[: list(sweep.space).index(name)]
    for other, values in condition(dimension).items():
        parent = sweep.space.get(other)
        if other not in earlier or not isinstance(parent, Choice):
            raise ValueError(
                f"space: {name} is varied under a condition on {other}, which must be swept before it, by Choice(…)"
            )
        for value in values:
            if not parent.holds(value):
                raise ValueError(f"space: {name} is varied when {other}={value!r}, which {parent!r} doesn't hold")


def _check_value(sweep: "Sweep", name: str, value: Value) -> None:
    """The value alone must be allowed; what fits together is checked for each setting by the plan."""
    try:
        validated(type(sweep.base), dumped(sweep.base) | {name: value})
    except ValidationError as error:
        if error.errors()[0]["loc"]:  # else the value does not suit another field of the base
            raise ValueError(f"space: {explain(error)}") from None


def _check_total_tokens(sweep: "Sweep") -> None:
    said = f"total_tokens={sweep.total_tokens!r}"
    if not _is_count(sweep.total_tokens):
        raise ValueError(f"{said} must be a whole number of tokens")
    if sweep.search in COUNTED:
        raise ValueError(f"{said}: {counts_itself(sweep.search)}; leave it out")
    if sweep.num_trials is not None:
        raise ValueError(f"{said} and num_trials={sweep.num_trials}: one says how many trials; leave the other out")
    if "train_tokens" in sweep.space:
        raise ValueError(f"{said}: with train_tokens swept, trials cost different amounts; give num_trials")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_whole(value) and value >= 0
