"""What a sweep needs of a config class, be it `RunConfig` or the one that a user's trainer takes: fields, values, text.

A sweep varies its fields, writes them down and reads them again; what they mean only the trainer knows.
"""

import copy
import dataclasses
import json
from collections.abc import Mapping, Set
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import cache
from types import UnionType
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from sweeps.spec.fields import SHORT_NAMES
from tinylm_core.config import RunConfig, explain, unknown_name

MOST_DIGITS = 30  # of a whole number that is typed with an exponent


class Config(Protocol):
    """One training run, complete: a frozen dataclass or pydantic model whose fields JSON can hold.

    The three may be fields or properties. `seed` must be a field, and is the only one that a sweep sets by itself.
    """

    @property
    def seed(self) -> int:
        """Whatever is random in a run follows from it."""
        ...

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step trains on; examples, where the trainer knows no tokens."""
        ...


C = TypeVar("C", bound=Config)


@cache
def field_types(config_class: type[Any]) -> Mapping[str, Any]:
    """Name → annotation of each field that a config is made with. ValueError for a class that is no config."""
    if issubclass(config_class, BaseModel):
        return {name: field.annotation for name, field in config_class.model_fields.items()}
    if not dataclasses.is_dataclass(config_class):
        raise ValueError(f"{config_class.__name__} must be a dataclass or a pydantic model")
    hints = get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class) if field.init}


@cache
def _adapter(config_class: type[C]) -> TypeAdapter[C]:
    try:
        return TypeAdapter(config_class)
    except PydanticSchemaGenerationError as error:
        said = str(error).partition(". ")[0].replace("Unable to generate pydantic-core schema for ", "")
        raise ValueError(f"{config_class.__name__}: a field of type {said} can't be written down as JSON") from None


def train_tokens(config: Config) -> int:
    """Training tokens of the whole run."""
    if isinstance(config, RunConfig):
        return config.train_tokens  # also where that is no whole number of steps, which a plan refuses
    return config.num_steps * config.tokens_per_step


def dumped(config: Config) -> dict[str, Any]:
    """The fields and their values, as JSON has them."""
    config_class: type[Config] = type(config)
    try:
        values: dict[str, Any] = _adapter(config_class).dump_python(config, mode="json", warnings=False)
    except PydanticSerializationError:
        name = next(name for name in field_types(config_class) if not _is_plain(getattr(config, name)))
        raise ValueError(_not_json(config, name)) from None
    return {name: _in_one_order(getattr(config, name), values[name]) for name in field_types(config_class)}


def check_base(config: Config) -> None:
    """ValueError, naming the field, where a config is not the one that is read again from what it is written as."""
    again, written = changed(config, {}), dumped(config)
    for name in field_types(type(config)):
        value = getattr(config, name)
        if getattr(again, name) != value:
            raise ValueError(_not_json(config, name))
        check_size(f"{type(config).__name__}.{name}", value)
        try:
            json.dumps(written[name], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{_not_json(config, name)}: half of a surrogate pair is no text") from None


def check_size(what: str, value: object) -> None:
    """ValueError for a whole number that no column of a table, and no search, can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{what}={value} takes more than 64 bits; a table's column of whole numbers has no more")


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, one by one: of a union its parts."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _in_one_order(value: object, written: Any) -> Any:
    """What a value is written as, with every set in one order: its own is another one in every process."""
    if isinstance(value, Set) and isinstance(written, list):
        items = (_in_one_order(one, text) for one, text in zip(value, written, strict=True))
        return sorted(items, key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(value, list | tuple) and isinstance(written, list):
        return [_in_one_order(one, text) for one, text in zip(value, written, strict=True)]
    if isinstance(value, Mapping) and isinstance(written, dict):
        return {key: _in_one_order(one, text) for one, (key, text) in zip(value.values(), written.items(), strict=True)}
    if isinstance(written, dict):  # a dataclass or a model
        return {name: _in_one_order(getattr(value, name, None), text) for name, text in written.items()}
    return written


def _not_json(config: Config, name: str) -> str:
    value = " ".join(repr(getattr(config, name)).split())
    return f"{type(config).__name__}.{name}={value} is no value of the field's type that JSON can hold"


def _is_plain(value: object) -> bool:
    try:
        to_jsonable_python(value)
    except PydanticSerializationError:
        return False
    return True


def loaded(config_class: type[C], values: Mapping[str, object]) -> C:
    """The config with these values and else the defaults. ValueError, in one line: the field, the value, the rule."""
    for name in values:
        if name not in field_types(config_class):
            raise ValueError(unknown_field("field", name, config_class))
    try:
        return validated(config_class, values)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def unknown_field(what: str, name: str, config_class: type[Config]) -> str:
    """One line for a field that a config lacks; one that is named as in a label is known."""
    known = field_types(config_class)
    long = next((field for field, label in SHORT_NAMES.items() if label == name and field in known), None)
    return unknown_name(what, name, known) if long is None else f"unknown {what} {name!r}; did you mean {long}?"


def validated(config_class: type[C], values: Mapping[str, object]) -> C:
    """The config of these values. pydantic's ValidationError says which of them is wrong."""
    config: C = _adapter(config_class).validate_python(dict(values))
    return config


def changed(config: C, changes: Mapping[str, object]) -> C:
    """A validated copy with other values. ValueError as `loaded`."""
    return loaded(type(config), dumped(config) | dict(changes))


def unchecked(config: C, changes: Mapping[str, object]) -> C:
    """A copy with other values, whether or not they fit together: to be asked about, not to be trained."""
    other = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other


def to_params(config: Config) -> dict[str, str]:
    """Every field as text, numbers with `repr`: what a tracker stores. `from_params` reads it back."""
    return {name: _text(value) for name, value in dumped(config).items()}


def from_params(config_class: type[C], params: Mapping[str, str]) -> C:
    """The config that `to_params` wrote; a field that was not written yet has its default."""
    return loaded(config_class, {name: parsed(config_class, name, text) for name, text in params.items()})


def parsed(config_class: type[C], name: str, text: str) -> object:
    """The value that a text means for a field, by what the field may be; else the text, which a validator reads."""
    annotation = field_types(config_class).get(name)
    allowed = alternatives(annotation)
    for one in (value for part in allowed if get_origin(part) is Literal for value in get_args(part)):
        if text == (one if isinstance(one, str) else repr(one)):
            return one
    if text in ("None", "none") and type(None) in allowed:
        return None
    if text[:1] in ("[", "{") and annotation is not str:
        try:
            return json.loads(text)
        except ValueError:
            return text
    if str in allowed:  # which takes any text: what looks like another of them is that
        for kind in (part for part in (int, float) if part in allowed):
            with suppress(ValueError):
                return kind(text)
        return {"True": True, "true": True, "False": False, "false": False}.get(text, text) if bool in allowed else text
    if int in allowed and "e" in text.lower():
        with suppress(InvalidOperation):  # 1e6 is a whole number to whoever types it
            number = Decimal(text)
            if number.is_finite() and number.adjusted() < MOST_DIGITS and number == number.to_integral_value():
                return int(number)
    return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else repr(value)
