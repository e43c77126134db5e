"""FIELD=VALUE and FIELD=v1,v2|low:high:points:log, as any command line gives them for a config. Knows no command."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sweeps.spec.catalog import Experiment
from sweeps.spec.config_type import Config, field_types, parsed
from sweeps.spec.space import Choice, Range, Space, Value


def overridden(
    experiment: Experiment,
    settings: Sequence[str],
    swept: Sequence[str],
    search: str | None,
    num_trials: int | None,
    seeds: int | None,
) -> Experiment:
    """The experiment with what a command line changes: FIELD=VALUE settings and FIELD=v1,v2|low:high:points:log."""
    config_class = type(experiment.sweep.base)
    values, space = assigned(config_class, settings), dimensions(config_class, swept)
    if both := values.keys() & space.keys():
        raise ValueError(f"{', '.join(sorted(both))}: both set and swept")
    sweep = experiment.sweep.override(
        settings=values, dimensions=space, search=search, num_trials=num_trials, seeds=seeds
    )
    given = {"--search": search, "--num-trials": num_trials, "--seeds": seeds}
    flags = [*(("--set", text) for text in settings), *(("--sweep", text) for text in swept)]
    flags += [(flag, str(value)) for flag, value in given.items() if value is not None]
    return replace(experiment, sweep=sweep, flags=tuple(flags))


def assigned(config_class: type[Config], texts: Iterable[str], flag: str = "--set") -> dict[str, object]:
    """What FIELD=VALUE texts say, by field. ValueError, naming the flag, for one that isn't such."""
    return {field: parsed(config_class, field, text) for field, text in (_assignment(one, flag) for one in texts)}


def dimensions(config_class: type[Config], texts: Iterable[str]) -> Space:
    """What FIELD=v1,v2|low:high:points:log texts say, by field. ValueError for one that isn't such."""
    return {
        field: _dimension(config_class, field, text) for field, text in (_assignment(one, "--sweep") for one in texts)
    }


def parse_dimension(text: str) -> Choice | Range:
    """`v1,v2,…` or `low:high[:points][:log]`, as `--sweep FIELD=` takes it. ValueError says what is allowed."""
    if ":" not in text:
        return Choice(*(_literal(part) for part in text.split(",")))
    low, high, *rest = text.split(":")
    log = "log" in rest
    numbers = [part for part in rest if part not in ("log", "")]
    low_value, high_value = _literal(low), _literal(high)
    if (
        len(rest) > 2
        or len(numbers) > 1
        or not all(part.isdecimal() for part in numbers)
        or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low_value, high_value))
    ):
        raise ValueError(f"{text!r} is neither v1,v2,… nor low:high[:points][:log]")
    assert isinstance(low_value, int | float)
    assert isinstance(high_value, int | float)
    return Range(low_value, high_value, int(numbers[0]) if numbers else None, log)


def _assignment(text: str, flag: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{flag}: {text!r} is not FIELD=VALUE")
    return field.strip(), value


def _dimension(config_class: type[Config], field: str, text: str) -> Choice | Range:
    types = field_types(config_class)
    try:
        # Of a field that takes a text, 1 is one too.
        dimension = Choice(*text.split(",")) if types.get(field) is str else parse_dimension(text)
    except ValueError as error:
        raise ValueError(f"--sweep {field}: {error}") from None
    is_number = types.get(field) in (int, float)
    if is_number and isinstance(dimension, Choice) and any(isinstance(value, str) for value in dimension.values):
        raise ValueError(f"--sweep {field}: {text!r} must be numbers, v1,v2 or low:high[:points][:log]")
    return dimension


def _literal(text: str) -> Value:
    named = {"True": True, "true": True, "False": False, "false": False, "None": None, "none": None}
    text = text.strip()
    if text in named:
        return named[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
