"""What a sweep varies: `Choice` and `Range`. Pure data; knows no search."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | bool | None
When = Mapping[str, Value | tuple[Value, ...]]

MOST_POINTS = 100_000  # more runs than anybody makes
MAX_VALUES = 8  # a range with more distinct values than this is read in quarters
TYPED_DIGITS = 6  # of a number that somebody has typed; what is computed or drawn has more


@dataclass(frozen=True, init=False)
class Choice:
    """One of the listed values, categorical for every search: `Choice(1, 2, 4)`.

    `when={"schedule": "wsd"}`, or a tuple of values: it is varied only where that field, swept before it by a Choice,
    has one of them, and elsewhere it has the base's value.
    """

    values: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(hash=False, repr=False)

    def __init__(self, *values: Value, when: When | None = None) -> None:
        if not values:
            raise ValueError("Choice() needs at least one value")
        if listed := [value for value in values if isinstance(value, list | tuple | set | dict | range)]:
            raise ValueError(f"Choice({listed[0]!r}): values are listed one by one, as in Choice(1, 2, 4)")
        values = tuple(map(plain, values))
        if any(value != value for value in values):
            raise ValueError(f"Choice{values!r} lists nan, which is equal to nothing, not even to itself")
        if len({(type(value), value) for value in values}) < len(values):
            raise ValueError(f"Choice{values!r} lists a value twice")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", _as_tuples(when or {}))

    def grid(self) -> tuple[Value, ...]:
        """Every value."""
        return self.values

    def at(self, u: float) -> Value:
        """The value at u in [0, 1)."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Value) -> bool:
        """Whether the value is one of them."""
        return is_among(value, self.values)

    def position(self, value: Value) -> int:
        """Where the value stands in the list; 1, 1.0 and True are three values."""
        return [(type(known), known) for known in self.values].index((type(value), value))

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return {"kind": "choice", "values": list(self.values)} | _when_to_json(self.when)


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers where both are. `points` of it, evenly spaced, make a grid.

    `log=True` spaces and samples it evenly in the logarithm. `when` is as for Choice.
    """

    low: float
    high: float
    points: int | None = None
    log: bool = False
    when: When = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "when", _as_tuples(self.when))
        for name in ("low", "high", "points"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (self.low, self.high)):
            raise ValueError(f"Range({self.low!r}, {self.high!r}): both ends must be numbers")
        if not (self.points is None or (isinstance(self.points, int) and not isinstance(self.points, bool))):
            raise ValueError(f"Range(points={self.points!r}): must be a whole number")
        if self.log and self.low <= 0:
            raise ValueError(f"Range({self.low}, {self.high}, log=True): low must be above 0")
        if not (self.low < self.high and self._is_finite()):
            raise ValueError(f"Range({self.low}, {self.high}): low must be below high, and both finite")
        if self.points is not None and self.points < 2:
            raise ValueError(f"Range(points={self.points}): a grid takes at least 2 points")
        if self.points is not None and self.points > MOST_POINTS:
            raise ValueError(f"Range(points={self.points}): a grid takes at most {MOST_POINTS:,} points")

    def _is_finite(self) -> bool:
        try:
            return math.isfinite(self.high / self.low if self.log else float(self.high) - float(self.low))
        except OverflowError:
            return False

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Value) -> bool:
        """Whether the value lies in it; a whole number where it holds these only."""
        if isinstance(value, bool) or not isinstance(value, int if self.is_integer else int | float):
            return False
        return self.low <= value <= self.high

    def grid(self) -> tuple[Value, ...]:
        """Its points. ValueError where it has none."""
        if self.points is None:
            raise ValueError(f"Range({self.low!r}, {self.high!r}) needs points=… for a grid")
        values = [self._between(i / (self.points - 1)) for i in range(self.points)]
        return tuple(dict.fromkeys(round(v) if self.is_integer else v for v in values))

    def at(self, u: float) -> Value:
        """The value at u in [0, 1)."""
        if self.is_integer:  # each whole number has an equal share, of the axis or of its logarithm
            low, high = (self.low, self.high + 1) if not self.log else (self.low - 0.5, self.high + 0.5)
            value = low * (high / low) ** u if self.log else low + (high - low) * u
            return int(min(max(round(value) if self.log else math.floor(value), self.low), self.high))
        return self._between(u)

    def _between(self, share: float) -> float:
        if share in (0, 1):
            return float(self.high if share else self.low)
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        # Twelve digits, so that 0.1 + 0.2 does not become a run of its own.
        return min(max(float(f"{value:.12g}"), float(self.low)), float(self.high))

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        content = {"kind": "range", "low": self.low, "high": self.high, "points": self.points, "log": self.log}
        return content | _when_to_json(self.when)


def plain(value: Any) -> Any:
    """The value as one of Python's own numbers where it is a library's, such as NumPy's; else as it is."""
    if isinstance(value, bool | int | float | str) and type(value).__module__ == "builtins":
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # NumPy's scalars, and tensors of one number
        return value.item()
    return value


Space = dict[str, Choice | Range]
Setting = dict[str, Value]


def dimension_from_json(content: Mapping[str, Any]) -> Choice | Range:
    """The Choice or Range that `to_json` wrote."""
    when = {name: tuple(values) for name, values in content.get("when", {}).items()}
    if content["kind"] == "choice":
        return Choice(*content["values"], when=when)
    return Range(content["low"], content["high"], content["points"], content["log"], when)


def as_tuple(values: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """The values of a condition, which may be one that is not in a tuple."""
    return tuple(values) if isinstance(values, tuple | list) else (values,)


def is_among(value: Value, values: Iterable[Value]) -> bool:
    """Whether a value is one of some; 1, 1.0 and True are three values."""
    return (type(value), value) in [(type(known), known) for known in values]


def _as_tuples(when: When) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, Mapping):
        raise ValueError(f"when={when!r} must be a field with its value or values: when={{'schedule': 'wsd'}}")
    for name, values in when.items():
        if values in ((), []):
            raise ValueError(f"when={{{name!r}: {values!r}}} names no value")
    return {name: as_tuple(values) for name, values in when.items()}


def _when_to_json(when: When) -> dict[str, Any]:
    return {"when": {name: list(as_tuple(values)) for name, values in when.items()}} if when else {}
