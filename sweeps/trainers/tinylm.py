"""`tinylm_core` as the trainer: its budgets, its corpora, its identity, and what its models cost. Knows no worker."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from sweeps.spec.config_type import Config
from sweeps.spec.fields import BUDGET_FIELDS, MATCHING_FIELDS
from sweeps.spec.settings import condition, grid_settings, with_condition
from sweeps.spec.space import Choice, Range, Space, Value
from sweeps.spec.sweep import Sweep, listed_settings
from sweeps.trainers.protocol import Cost, Identified
from tinylm_core.config import RunConfig, check_budget, identity, resolve
from tinylm_core.corpus import Corpus, load_corpus
from tinylm_core.cost import num_parameters
from tinylm_core.data import train_windows, val_windows
from tinylm_core.machine import Machine, check_precision, this_machine
from tinylm_core.schedule import warmup_steps

ADAM_BYTES_PER_PARAMETER = 12  # float32 weight and two moments

# What a layer takes for a token beside its matrix products, in floating-point operations of these: norms, dropout,
# softmax, and calling it all. Measured on a CPU at widths of 32 to 256 and 1 to 8 layers, to 20 %.
LAYER_OVERHEAD = 1.1e6
EVALUATED_TOKEN = 1 / 3  # of a trained one: forward alone


class TinyLM:
    """`tinylm_core` on a machine; reads each corpus once."""

    file = None

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._corpora: dict[tuple[object, ...], Corpus] = {}

    def fitting(self, sweep: Sweep) -> tuple[Sweep, list[str]]:
        sweep, notes = without_impossible_choices(sweep, self._machine)
        if sweep.search != "grid":  # of a grid every cell is looked at
            check_shapes(sweep)
        check_budget(budget_configs(sweep))
        for config in budget_configs(sweep):
            corpus = self.corpus(config)
            train_windows(corpus, config)
            val_windows(corpus, config)
        if not self.is_matched(sweep):
            fields = ", ".join(sorted(_unmatched(sweep)))
            notes.append(f"not matched: settings with different {fields} do not see the same tokens in the same order")
        return sweep, notes

    def is_matched(self, sweep: Sweep) -> bool:
        return not _unmatched(sweep)

    def identified(self, config: Config) -> Identified:
        resolved = resolve(_ours(config), self._machine)
        fingerprint = self.corpus(resolved).fingerprint
        return Identified(resolved, identity(resolved, fingerprint), fingerprint)

    def notes_on(self, runs: Sequence[tuple[str, Config]]) -> list[str]:
        return same_schedule_notes([(name, _ours(config)) for name, config in runs])

    def work_bytes(self, config: Config) -> int:
        """Two checkpoints, one being written, and the final weights."""
        return (3 * ADAM_BYTES_PER_PARAMETER + 4) * self._num_parameters(config)

    def disk_bytes(self, config: Config) -> int:
        """Its weights, and about 100 bytes a step in history and database rows for each of 5 metrics."""
        return 4 * self._num_parameters(config) + 500 * config.num_steps

    def texts(self, sweep: Sweep) -> Mapping[str, Path]:
        # Of all that the search may come to: one that learns has no trials yet.
        corpora = [self.corpus(config) for config in budget_configs(sweep)]
        return {corpus.fingerprint: corpus.text_path for corpus in corpora if corpus.text_path is not None}

    def corpus(self, config: Config) -> Corpus:
        """`load_corpus` that reads each corpus once."""
        ours = _ours(config)
        key = (ours.data, ours.tokenizer, ours.vocab_size, ours.val_ratio)
        if key not in self._corpora:
            self._corpora[key] = load_corpus(ours)
        return self._corpora[key]

    def corpus_of(self, config_json: str) -> Corpus:
        return self.corpus(RunConfig.model_validate_json(config_json))

    def cost(self, config: Config) -> Cost:
        corpus = self.corpus(config)
        return cost_of(_ours(config), corpus.vocab_size, len(corpus.val))

    def pace(self, config: Config) -> float | None:
        # What trains loads torch, for more than a second; a plan needs none.
        from tinylm_core.speed import tokens_per_second

        try:
            this_machine(self._machine.device)
        except ValueError:  # a cluster's nodes have a GPU, and the driver's machine none
            return None
        return tokens_per_second(_ours(config), self.corpus(config), self._machine.device, threads=1)

    def facts(self, config: Config) -> list[tuple[str, str]]:
        config, corpus, parameters = _ours(config), self.corpus(config), self._num_parameters(config)
        return [
            ("data", f"{config.data}, {len(corpus.train):,} train and {len(corpus.val):,} validation tokens"),
            ("model", f"{parameters:,} parameters, {4 * parameters / 1e6:.1f} MB of weights"),
            ("decay groups", decay_groups_line(config, corpus.vocab_size)),
            ("budget", f"{config.train_tokens:,} tokens a run = {num_epochs(config, corpus):.2f} epochs"),
        ]

    def details(self, config: Config) -> dict[str, str]:
        config = _ours(config)
        batch = config.batch_size * config.gradient_accumulation_steps
        return {"warmup steps": f"{warmup_steps(config):,}", "effective batch": f"{batch} sequences"}

    def _num_parameters(self, config: Config) -> int:
        return num_parameters(_ours(config), self.corpus(config).vocab_size)


def without_impossible_choices(sweep: Sweep, machine: Machine) -> tuple[Sweep, list[str]]:
    """The sweep without the precisions that this machine can't run, and a line for each."""
    notes: list[str] = []
    dimension = sweep.space.get("precision")
    if not isinstance(dimension, Choice):
        check_precision(_ours(sweep.base).precision, machine)
        return sweep, notes
    possible = []
    for value in dimension.values:
        try:
            check_precision(str(value), machine)
            possible.append(value)
        except ValueError as error:
            notes.append(f"left out: {error}")
    if not possible:
        raise ValueError(notes[0].removeprefix("left out: "))
    dimensions: Space = {"precision": Choice(*possible)}
    fixed = dict[str, object]()
    for name, dependent in sweep.space.items():
        if left := [value for value in condition(dependent).get("precision", ()) if value in possible]:
            dimensions[name] = with_condition(dependent, {**dependent.when, "precision": tuple(left)})
        elif "precision" in dependent.when:
            fixed[name] = getattr(sweep.base, name)
    return sweep.override(settings=fixed, dimensions=dimensions), notes


def budget_configs(sweep: Sweep) -> list[RunConfig]:
    """The base with every combination of the swept fields that decide steps and windows; of a Range its ends."""
    space: Space = {}
    for name, dimension in sweep.space.items():
        if name in BUDGET_FIELDS or name in MATCHING_FIELDS:
            values = _ends(dimension)
            elsewhere = (getattr(sweep.base, name),) if dimension.when else ()
            space[name] = Choice(*values, *(value for value in elsewhere if value not in values))
    settings = grid_settings(space, sweep.base)
    is_partial = sweep.allowed is not None or any(dimension.when for dimension in sweep.space.values())
    if is_partial and (known := listed_settings(sweep)) is not None:
        occurring = [{name: setting[name] for name in space} for setting in known]
        settings = [setting for setting in settings if setting in occurring]
    return [_ours(sweep.base).replace(setting) for setting in settings]


def check_shapes(sweep: Sweep) -> None:
    """ValueError where a search may propose a width that its number of heads does not divide.

    The sweep's `allowed` may refuse it: it is asked with the base's values of the other fields.
    """

    def values(name: str) -> Iterable[Value]:
        dimension = sweep.space.get(name, Choice(getattr(sweep.base, name)))
        elsewhere = (getattr(sweep.base, name),) if dimension.when else ()
        if isinstance(dimension, Choice):
            return (*dimension.values, *elsewhere)
        return (*elsewhere, *range(int(dimension.low), int(dimension.high) + 1))

    for d_model, num_heads in itertools.product(values("d_model"), values("num_heads")):
        try:
            _ours(sweep.base).replace({"d_model": d_model, "num_heads": num_heads})
        except ValueError:
            if sweep.allows({"d_model": d_model, "num_heads": num_heads}):
                raise


def same_schedule_notes(runs: Sequence[tuple[str, RunConfig]]) -> list[str]:
    """A line for settings whose warmup ratios round up to the same number of warmup steps."""
    groups: dict[str, list[str]] = {}
    for name, config in runs:
        key = config.model_copy(update={"warmup_ratio": 0.0}).model_dump_json() + str(warmup_steps(config))
        groups.setdefault(key, []).append(name)
    return ["the same schedule twice: " + " and ".join(group) for group in groups.values() if len(group) > 1]


def decay_groups_line(config: RunConfig, vocab_size: int) -> str:
    """How many parameters decay and how many don't."""
    from tinylm_core.model import TinyGPT
    from tinylm_core.optimizer import decay_groups

    model = TinyGPT(config, vocab_size)  # not on PyTorch's meta device, whose initialization loads its compiler
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    groups = decay_groups(model, config)
    return "; ".join(
        f"{group.replace('_', ' ')}: {len(names)} tensors, {sum(sizes[name] for name in names):,} parameters"
        for group, names in groups.items()
    )


def cost_of(config: RunConfig, vocab_size: int, val_tokens: int) -> Cost:
    """The cost of a config, 6 operations a weight and token (Kaplan et al. 2020, section 2.1), attention and overhead
    included."""
    d, f = config.d_model, config.d_ff or 4 * config.d_model
    layer = 6 * (4 * d * d + 2 * d * f) + 12 * config.max_seq_len * d + LAYER_OVERHEAD
    token = config.num_layers * layer + 6 * vocab_size * d + LAYER_OVERHEAD
    evaluated = 2 * min(config.eval_tokens or val_tokens, val_tokens)  # as many train tokens as validation's
    return Cost(token, token * EVALUATED_TOKEN * evaluated, config.num_evals + 1)  # one is before the first step


def num_epochs(config: RunConfig, corpus: Corpus) -> float:
    """How often the run sees its training windows."""
    return config.train_tokens / (len(train_windows(corpus, config)) * config.max_seq_len)


def _unmatched(sweep: Sweep) -> set[str]:
    """The swept fields whose values decide which tokens a run sees, where there are several."""
    several = {name for name, dimension in sweep.space.items() if dimension.when or len(set(_ends(dimension))) > 1}
    return several & MATCHING_FIELDS


def _ends(dimension: Choice | Range) -> tuple[Value, ...]:
    return dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)


def _ours(config: Config) -> RunConfig:
    return cast(RunConfig, config)  # a sweep without a trainer of its own has no other
