"""Which trials a sweep makes, whether they can be compared, and what they cost. Knows no Optuna and no MLflow."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sweeps.catalog import Experiment
from sweeps.space import MOST_POINTS, Choice, Space, Value, condition, grid_settings, is_varied, short, with_condition
from sweeps.sweep import BUDGET_FIELDS, COUNTED, MATCHING_FIELDS, Sweep
from tinylm_core.config import NUMERICS_VERSION, RunConfig, check_budget, identity, resolve
from tinylm_core.corpus import Corpus, load_corpus
from tinylm_core.data import train_windows, val_windows
from tinylm_core.machine import Machine, check_precision
from tinylm_core.schedule import warmup_steps

SHORT_NAMES = {
    "learning_rate": "lr",
    "warmup_ratio": "warmup",
    "weight_decay": "decay",
    "gradient_accumulation_steps": "accum",
}

ADAM_BYTES_PER_PARAMETER = 12  # float32 weight and two moments


@dataclass(frozen=True)
class PlannedRun:
    """One training of one trial with one seed."""

    trial: int
    seed: int
    label: str  # of the setting
    config: RunConfig  # resolved
    fingerprint: str  # of its data
    identity: str

    @property
    def name(self) -> str:
        """As the tracker shows it: what differs."""
        return f"t{self.trial:03d} {self.label} seed={self.seed}"


@dataclass(frozen=True)
class Trial:
    """One point of the space, numbered, and its run for each seed."""

    number: int
    setting: dict[str, Value]
    label: str
    runs: tuple[PlannedRun, ...]

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        runs = {str(run.seed): run.identity for run in self.runs}
        return {"trial": self.number, "setting": self.setting, "label": self.label, "runs": runs}


@dataclass
class Plan:
    """A definition on this machine: its trials come from settings, one at a time."""

    experiment: Experiment
    sweep: Sweep  # without the choices this machine can't run
    machine: Machine
    num_trials: int
    matched: bool
    notes: list[str]
    corpus_of: Callable[[RunConfig], Corpus]

    def trial(self, number: int, setting: dict[str, Value]) -> Trial:
        """The trial of a setting. ValueError, naming the setting, where its values don't fit together."""
        space = self.sweep.space
        label = setting_label({name: value for name, value in setting.items() if is_varied(space[name], setting)})
        runs = []
        for seed in self.sweep.seed_values:
            try:
                config = resolve(self.sweep.base.replace(setting | {"seed": seed}), self.machine)
            except ValueError as error:
                raise ValueError(f"{error} (setting {label})") from None
            fingerprint = self.corpus_of(config).fingerprint
            runs.append(PlannedRun(number, seed, label, config, fingerprint, identity(config, fingerprint)))
        return Trial(number, setting, label, tuple(runs))

    def known_trials(self) -> list[Trial]:
        """All trials of a grid, or of listed points; of other searches, which are asked later, none."""
        if self.sweep.search not in COUNTED:
            return []
        return [self.trial(number, setting) for number, setting in enumerate(counted_settings(self.sweep))]

    def to_json(self, trials: Iterable[Trial]) -> dict[str, Any]:
        """plan.json: what belongs to the definition, and all that a report needs to know of it."""
        sweep = self.sweep
        return {
            "name": self.experiment.name,
            "definition": sweep.definition,
            "question": self.experiment.question,
            "command": self.experiment.command,
            "file": self.experiment.made_by,
            "search": sweep.search,
            "search_seed": sweep.search_seed,
            "concurrency": sweep.concurrency,
            "objective": sweep.objective,
            "space": {name: dimension.to_json() for name, dimension in sweep.space.items()},
            "swept": list(sweep.space),
            "base": sweep.base.model_dump(),
            "seeds": list(sweep.seed_values),
            "keep_checkpoints": sweep.keep_checkpoints,
            "num_trials": self.num_trials,
            "matched": self.matched,
            "numerics_version": NUMERICS_VERSION,
            "trials": [trial.to_json() for trial in trials],
            **({"allowed": sweep.constraint} if sweep.constraint else {}),
        }


def make_plan(experiment: Experiment, machine: Machine) -> Plan:
    """The plan of an experiment on a machine. ValueError, in one line, for what can't be run or compared.

    Reads the corpus, since settings are identified by what they train on.
    """
    sweep, notes = without_impossible_choices(experiment.sweep, machine)
    if sweep.search != "grid":  # of a grid every cell is looked at
        check_shapes(sweep)
    check_budget(budget_configs(sweep))
    if (
        sweep.total_tokens is not None and sweep.num_proposed < 1
    ):  # here, since with more seeds --confirm counts its own
        base = sweep.base
        cost = f"{base.train_tokens * sweep.seeds:,} (train_tokens {base.train_tokens:,} x seeds {sweep.seeds})"
        raise ValueError(f"total_tokens={sweep.total_tokens:,}: one trial takes {cost}")
    plan = Plan(
        experiment=experiment,
        sweep=sweep,
        machine=machine,
        num_trials=len(counted_settings(sweep)) if sweep.search in COUNTED else sweep.num_proposed,
        matched=not MATCHING_FIELDS & set(sweep.space),
        notes=notes,
        corpus_of=corpus_cache(),
    )
    for config in budget_configs(sweep):
        corpus = plan.corpus_of(config)
        train_windows(corpus, config)
        val_windows(corpus, config)
    if not plan.matched:
        fields = ", ".join(sorted(MATCHING_FIELDS & set(sweep.space)))
        plan.notes.append(f"not matched: settings with different {fields} do not see the same tokens in the same order")
    if sweep.search == "grid" and (num_refused := len(grid_settings(sweep.space, sweep.base)) - plan.num_trials):
        plan.notes.append(f"left out: {num_refused} of {num_refused + plan.num_trials} cells, which allowed refuses")
    plan.notes.extend(same_schedule_notes(plan.known_trials()))
    return plan


def counted_settings(sweep: Sweep) -> list[dict[str, Value]]:
    """The settings of a grid or of listed points; trial k is number k."""
    if sweep.search == "points":
        return [dict(point) for point in sweep.points]
    return [cell for cell in grid_settings(sweep.space, sweep.base) if sweep.allows(cell)]


def without_impossible_choices(sweep: Sweep, machine: Machine) -> tuple[Sweep, list[str]]:
    """The sweep without the precisions that this machine can't run, and a line for each."""
    notes: list[str] = []
    dimension = sweep.space.get("precision")
    if not isinstance(dimension, Choice):
        check_precision(sweep.base.precision, machine)
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
            values = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
            elsewhere = (getattr(sweep.base, name),) if dimension.when else ()
            space[name] = Choice(*values, *(value for value in elsewhere if value not in values))
    settings = grid_settings(space, sweep.base)
    is_partial = sweep.allowed is not None or any(dimension.when for dimension in sweep.space.values())
    if is_partial and (known := listed_settings(sweep)) is not None:
        occurring = [{name: setting[name] for name in space} for setting in known]
        settings = [setting for setting in settings if setting in occurring]
    return [sweep.base.replace(setting) for setting in settings]


def listed_settings(sweep: Sweep) -> list[dict[str, Value]] | None:
    """All settings that may be proposed, where they can be listed."""
    if sweep.search in COUNTED:
        return counted_settings(sweep)
    choices = [dimension.values for dimension in sweep.space.values() if isinstance(dimension, Choice)]
    if len(choices) < len(sweep.space) or math.prod(map(len, choices)) > MOST_POINTS:
        return None
    return [cell for cell in grid_settings(sweep.space, sweep.base) if sweep.allows(cell)]


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
            sweep.base.replace({"d_model": d_model, "num_heads": num_heads})
        except ValueError:
            if sweep.allows({"d_model": d_model, "num_heads": num_heads}):
                raise


def corpus_cache() -> Callable[[RunConfig], Corpus]:
    """`load_corpus` that reads each corpus once."""
    corpora: dict[tuple[object, ...], Corpus] = {}

    def corpus_of(config: RunConfig) -> Corpus:
        key = (config.data, config.tokenizer, config.vocab_size, config.val_ratio)
        if key not in corpora:
            corpora[key] = load_corpus(config)
        return corpora[key]

    return corpus_of


def same_schedule_notes(trials: list[Trial]) -> list[str]:
    """A line for settings whose warmup ratios round up to the same number of warmup steps."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        config = trial.runs[0].config
        key = config.model_copy(update={"warmup_ratio": 0.0}).model_dump_json() + str(warmup_steps(config))
        groups.setdefault(key, []).append(trial)
    return [
        "the same schedule twice: " + " and ".join(f"t{trial.number:03d} ({trial.label})" for trial in group)
        for group in groups.values()
        if len(group) > 1
    ]


def setting_label(setting: dict[str, Value]) -> str:
    """`lr=3e-4 warmup=0.1`: short, for names and legends."""
    return " ".join(f"{SHORT_NAMES.get(name, name)}={short(value)}" for name, value in setting.items()) or "base"


def num_parameters(config: RunConfig, vocab_size: int) -> int:
    """Trainable parameters of the model of a config, a shared matrix counted once."""
    d, f, b = config.d_model, config.d_ff or 4 * config.d_model, int(config.bias)
    attention = 4 * d * d + b * 4 * d
    feed_forward = 2 * d * f + b * (f + d)
    norms = 2 * (d + b * d)
    embeddings = vocab_size * d * (1 if config.tie_embeddings else 2) + config.max_seq_len * d
    return config.num_layers * (attention + feed_forward + norms) + (d + b * d) + embeddings


def num_epochs(config: RunConfig, corpus: Corpus) -> float:
    """How often the run sees its training windows."""
    return config.train_tokens / (len(train_windows(corpus, config)) * config.max_seq_len)


def work_bytes(config: RunConfig, vocab_size: int) -> int:
    """What a run under way needs on disk: two checkpoints, one being written, and the final weights."""
    return (3 * ADAM_BYTES_PER_PARAMETER + 4) * num_parameters(config, vocab_size)


def disk_bytes(config: RunConfig, vocab_size: int) -> int:
    """What a run keeps: its weights, and about 100 bytes a step in history and database rows for each of 5 metrics."""
    return 4 * num_parameters(config, vocab_size) + 500 * config.num_steps
