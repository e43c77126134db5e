"""FIELD=VALUE and FIELD=v1,v2|low:high:points:log, as a command line gives them, for the fields of a config."""

from collections.abc import Iterable

from sweeps.configs import Config, field_types, parsed
from sweeps.space import Choice, Range, Space, parse_dimension


def assigned(config_class: type[Config], texts: Iterable[str], flag: str = "--set") -> dict[str, object]:
    """What FIELD=VALUE texts say, by field. ValueError, naming the flag, for one that isn't such."""
    return {field: parsed(config_class, field, text) for field, text in (_assignment(one, flag) for one in texts)}


def dimensions(config_class: type[Config], texts: Iterable[str]) -> Space:
    """What FIELD=v1,v2|low:high:points:log texts say, by field. ValueError for one that isn't such."""
    return {
        field: _dimension(config_class, field, text) for field, text in (_assignment(one, "--sweep") for one in texts)
    }


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


def _assignment(text: str, flag: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{flag}: {text!r} is not FIELD=VALUE")
    return field.strip(), value
