"""Writes docs/reference.md from the code: what an experiment file may say, the options of `sweeps.run`, and metrics.

python docs/make_reference.py
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import click
from pydantic.fields import FieldInfo

from sweeps.run import run
from sweeps.spec.fields import BUDGET_FIELDS
from sweeps.spec.naming import short
from sweeps.spec.space import Choice, Range
from sweeps.spec.sweep import Sweep
from sweeps.store import schema
from sweeps.terminal import events
from tinylm_core import RunConfig

PAGE = Path(__file__).parent / "reference.md"
TYPES = {int: "whole number", float: "number", bool: "True or False", str: "text"}

HEAD = """# What an experiment file may say

Written by `python docs/make_reference.py` from the code; a test compares. An experiment file is Python and defines
`SWEEP = Sweep(…)`; the first line of its docstring is the question that the report opens with.

On this page: [Sweep](#sweep) · [Choice](#choice) · [Range](#range) · [RunConfig](#runconfig) ·
[options of sweeps.run](#options-of-python--m-sweepsrun-name) · [events](#what-sweepsrun---json-prints) ·
[metrics in MLflow](#metrics-in-mlflow) ·
[words](#words)
"""

METRICS = {  # what it is, dropout
    "train/loss": ("mean over the step's tokens, nats per token, while it trains", "on"),
    "train/learning_rate": ("the rate that the step used", ""),
    "train/grad_norm": ("norm of all gradients before clipping", "on"),
    "train/tokens": ("training tokens so far", ""),
    "train/tokens_per_second": ("the run's speed", ""),
    "train/skipped": ("1 at a step that fp16's loss scaling skipped; else not there", ""),
    "val/loss": ("on the windows of the validation part that each evaluation takes, nats per token", "off"),
    "val/loss_standard_error": ("of that mean", "off"),
    "val/perplexity": ("exp of `val/loss`", "off"),
    "eval/train_loss": ("on fixed windows of the training part, by the same routine as `val/loss`", "off"),
    "eval/train_loss_standard_error": ("of that mean", "off"),
    "eval/train_tokens": ("tokens trained on until then: an axis for the evaluations in MLflow's charts", "off"),
    "eval/gap": ("`val/loss` - `eval/train_loss`", "off"),
    "final/…": ("`val_loss`, `train_loss`, `gap`, `val_perplexity` of the last evaluation", "off"),
    "best/…": ("the same of the evaluation with the lowest validation loss", "off"),
    "objective": ("`final/val_loss`, at most ln(vocabulary size), which a diverged run has", "off"),
    "final/tokens_per_second": ("median of `train/tokens_per_second`", ""),
    "system/…": ("the run's process: CPU (100 is one core), memory; with a GPU its memory, load and power", ""),
}

WORDS = """## Words

- **setting**: values of the swept fields, without the seed.
- **trial**: a setting that the search proposed, with a number.
- **run**: one training of a trial, with one seed; a run in MLflow.
- **definition**: what makes the trials of a sweep what they are: base, space and what it allows, search, points, seeds,
  `search_seed`, `concurrency`, objective, version of the trainer; a digest of it. Not `num_trials`, and not what is
  kept or logged.
- **summary run**: the run in MLflow that has a definition's plan, answer and report. It trains nothing.
- **objective**: what a search makes small: a run's final validation loss, at most ln(vocabulary size); a trial's is the
  mean over its seeds.
- **step**: one update by the optimizer.
- **micro-batch**: what one forward pass sees; `gradient_accumulation_steps` of them make a step.
- **gap**: validation loss - train loss, both measured by the same routine with dropout off.
- **identity**: the digest that says that two runs compute the same.
- **driver**: the command that runs a sweep: it asks the search, gives runs to workers and keeps what they tell.
- **tracker**: MLflow, in a folder or on a server, which has the records in the end.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [
        HEAD,
        *sweep_part(),
        *space_part(),
        *config_part(),
        *options_part(),
        *events_part(),
        *metrics_part(),
        WORDS,
    ]
    return "\n".join(parts)


def sweep_part() -> Iterator[str]:
    said, words = described(Sweep)
    yield f"## `Sweep`\n\n{said}\n"
    yield table(
        ("field", "value", "default", "what it is"),
        ((code(f.name), SWEEP_TYPES.get(f.name) or values(f.type), default(f), words[f.name]) for f in fields(Sweep)),
    )


# Types that tell a reader less than a few words do.
SWEEP_TYPES = {
    "base": "`RunConfig(…)`, or what `run` takes",
    "space": "`{field: Choice(…) or Range(…)}`",
    "points": "`[{field: value, …}, …]`, every swept field in each",
    "allowed": "`function(config)` or `None`",
    "run": "`function(config, *, …)` or `None`",
    "version": "whole number or text; needed with `run`",
}

RANGE_TYPES = {"when": "`{field: value or (value, …)}`"}


def space_part() -> Iterator[str]:
    yield f"## `Choice`\n\n`Choice(value, value, …)`: {inspect.cleandoc(Choice.__doc__ or '')}\n"
    yield "Values are those that the field takes: numbers, texts, `True`, `False`, `None`.\n"
    yield f"## `Range`\n\n{inspect.cleandoc(Range.__doc__ or '')}\n"
    yield table(
        ("field", "value", "default"),
        ((code(f.name), RANGE_TYPES.get(f.name) or values(f.type), default(f)) for f in fields(Range)),
    )
    names = ", ".join(code(name) for name in BUDGET_FIELDS)
    yield f"These take `Choice` alone, since they decide the tokens per step or the budget: {names}.\n"


def config_part() -> Iterator[str]:
    yield f"## `RunConfig`\n\n{inspect.cleandoc(RunConfig.__doc__ or '')}\n"
    yield (
        "`--set FIELD=VALUE` takes the same values without quotes, `None`, `true` and `false` included. "
        "Every field but `seed` may be swept.\n"
    )
    for heading, names in config_groups():
        yield f"### {heading}\n"
        known = RunConfig.model_fields
        yield table(
            ("field", "value", "default", "what it is"),
            ((code(n), with_bounds(known[n]), code(literal(known[n].default)), known[n].description) for n in names),
        )


def options_part() -> Iterator[str]:
    yield "## Options of `python -m sweeps.run NAME`\n"
    rows = []
    for option in run.params:
        if isinstance(option, click.Option):
            said = option.default is not None and option.show_default
            rows.append(
                (
                    code(option.opts[0]),
                    "" if option.is_flag else option_values(option),
                    code(literal(option.default)) if said else "",
                    option.help,
                )
            )
    yield table(("option", "value", "default", "what it does"), rows)


def events_part() -> Iterator[str]:
    yield "## What `sweeps.run --json` prints\n\nA line a JSON object; `event` says which. Nothing else is on stdout.\n"
    for event in get_args(events.Event):
        hints = get_type_hints(event, include_extras=True)
        kind = next(field.default for field in fields(event) if field.name == "event")
        yield f"### `{kind}`\n\n{inspect.cleandoc(event.__doc__ or '')}\n"
        told = {name: get_args(hint) for name, hint in hints.items() if name != "event"}
        yield table(
            ("key", "value", "what it is"),
            ((code(name), json_type(kind), words) for name, (kind, words) in told.items()),
        )


def json_type(annotation: Any) -> str:
    """What JSON calls a type."""
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(json_type(part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {json_type(*get_args(annotation))}"
    if get_origin(annotation) is Mapping:
        return "object"
    return "null" if annotation is NoneType else {str: "string", int: "integer", float: "number"}[annotation]


def metrics_part() -> Iterator[str]:
    logged = {*schema.HISTORY_METRICS, *schema.SUMMARY_METRICS, *schema.USAGE_METRICS}
    told = {name for name in logged for known in METRICS if name == known or name.startswith(known.rstrip("…"))}
    assert logged == told, f"METRICS lacks {logged - told}"
    yield "## Metrics in MLflow\n\nOf a trainer of your own, those that it tells; dropout is then its own matter.\n"
    yield table(("metric", "what it is", "dropout"), ((code(name), *said) for name, said in METRICS.items()))


def config_groups() -> Iterator[tuple[str, list[str]]]:
    """The comments that head the fields of RunConfig, each with its fields."""
    heading, names = "", list[str]()
    for line in inspect.getsource(RunConfig).splitlines():
        if comment := re.fullmatch(r"    # (.+)", line):
            if names:
                yield heading, names
            heading, names = comment[1], []
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in RunConfig.model_fields:
            names.append(field[1])
    yield heading, names


def described(owner: type[Sweep]) -> tuple[str, dict[str, str]]:
    """What a dataclass's docstring says before its fields, and of each field."""
    said, words, name = list[str](), dict[str, str](), ""
    known = {field.name for field in fields(owner)}
    for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
        start, colon, rest = line.partition(": ")
        if colon and start in known:
            name, words[start] = start, rest
        elif name:
            words[name] += f" {line.strip()}"
        else:
            said.append(line)
    return "\n".join(said).strip(), words


def values(annotation: Any) -> str:
    """What a type allows, in words."""
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(values(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return ", ".join(code(literal(value)) for value in get_args(annotation))
    return "`None`" if annotation is NoneType else TYPES[annotation]


SIGNS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "≤"),
)


def with_bounds(field: FieldInfo) -> str:
    """What a field allows: its type, and its bounds."""
    bounds = [
        f"{sign} {literal(getattr(bound, name))}"
        for kind, name, sign in SIGNS
        for bound in field.metadata
        if isinstance(bound, kind)
    ]
    told = values(field.annotation)
    if not bounds:
        return told
    number, *rest = told.split(" or ")
    return ", or ".join([f"{number} {', '.join(bounds)}", *rest])


def option_values(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return ", ".join(code(choice) for choice in option.type.choices)
    if isinstance(option.type, click.types._NumberRangeBase):
        number = TYPES[int] if isinstance(option.type, click.IntRange) else TYPES[float]
        return f"{number} {'>' if option.type.min_open else '≥'} {literal(option.type.min)}"
    return code(option.metavar or "")


def default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        return code(literal(field.default_factory()))
    return "needed" if field.default is MISSING else code(literal(field.default))


def literal(value: object) -> str:
    """A value as Python reads it: 3e-4, 1_048_576, "cosine"."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return short(value) if "e" in short(value) else repr(value)
    return f"{value:_}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def code(text: str) -> str:
    return f"`{text}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A Markdown table."""
    bar = "\\|"  # a bare one would end the cell
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', bar) for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
