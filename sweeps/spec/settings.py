"""The settings of a space: every cell of a grid, a point of the unit cube, a sample. Knows no search."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sweeps.spec.space import Choice, Range, Setting, Space, Value, When, as_tuple, is_among


def condition(dimension: Choice | Range) -> dict[str, tuple[Value, ...]]:
    """Where a dimension is varied: in settings with one of these values of each of these fields."""
    return {name: as_tuple(values) for name, values in dimension.when.items()}


def is_varied(dimension: Choice | Range, setting: Mapping[str, Value]) -> bool:
    """Whether the condition of a dimension, if it has one, holds in a setting."""
    return all(is_among(setting[name], values) for name, values in condition(dimension).items())


def with_condition(dimension: Choice | Range, when: When) -> Choice | Range:
    """The dimension under another condition, or none."""
    return Choice(*dimension.values, when=when) if isinstance(dimension, Choice) else replace(dimension, when=when)


def without_fields(space: Space, names: Iterable[str], base: object) -> Space:
    """The space where some fields have `base`'s value: what depends on one is varied always, or not at all."""
    kept: Space = {}
    for name, dimension in space.items():
        decided = {other: values for other, values in condition(dimension).items() if other not in kept}
        if name not in names and all(getattr(base, other) in values for other, values in decided.items()):
            when = {other: values for other, values in dimension.when.items() if other in kept}
            kept[name] = with_condition(dimension, when)
    return kept


def grid_settings(space: Space, base: object) -> list[Setting]:
    """Every combination, the last field varying fastest; a field whose condition doesn't hold has `base`'s value."""
    settings: list[Setting] = [{}]
    for name, dimension in space.items():
        values, fixed = dimension.grid(), (getattr(base, name),) if dimension.when else ()
        settings = [
            {**setting, name: value}
            for setting in settings
            for value in (values if is_varied(dimension, setting) else fixed)
        ]
    return settings


def setting_at(space: Space, base: object, point: Iterable[float]) -> Setting:
    """The setting at a point of the unit cube; a field whose condition doesn't hold has `base`'s value."""
    setting: Setting = {}
    for (name, dimension), u in zip(space.items(), point, strict=True):
        setting[name] = dimension.at(u) if is_varied(dimension, setting) else getattr(base, name)
    return setting


def sampled_settings(space: Space, base: object, num_settings: int) -> list[Setting]:
    """Settings drawn at random, the same ones on every machine and with every version of whatever library."""
    draw = random.Random(0).random  # Python promises its sequence; Sobol's is SciPy's to change
    return [setting_at(space, base, [draw() for _ in space]) for _ in range(num_settings)]


def with_fixed_fields(point: Mapping[str, Value], space: Space, base: object) -> Mapping[str, Value]:
    """The point with the base's value of each field that it leaves out and whose condition doesn't hold in it."""
    whole: dict[str, Value] = {}
    for name, dimension in space.items():
        if name in point:
            whole[name] = point[name]
        elif dimension.when.keys() <= whole.keys() and not is_varied(dimension, whole):
            whole[name] = getattr(base, name)
    return dict(point) if whole.keys() <= point.keys() else whole | dict(point)
