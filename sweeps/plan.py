"""Which trials a sweep makes, whether they can be compared, and what they cost. Knows no Optuna and no MLflow."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sweeps.catalog import Experiment
from sweeps.space import Choice, Range, Space, Value, short
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

# What a layer takes for a token beside its matrix products, in floating-point operations of these: norms, dropout,
# softmax, and calling it all. Measured on a CPU at widths of 32 to 256 and 1 to 8 layers, to 20 %.
LAYER_OVERHEAD = 1.1e6
EVALUATED_TOKEN = 1 / 3  # of a trained one: forward alone


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
        label = setting_label(setting)
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

    def cost(self, config: RunConfig) -> "Cost":
        """What a run of a config costs."""
        corpus = self.corpus_of(config)
        return cost_of(config, corpus.vocab_size, len(corpus.val))

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
        }


def make_plan(experiment: Experiment, machine: Machine) -> Plan:
    """The plan of an experiment on a machine. ValueError, in one line, for what can't be run or compared.

    Reads the corpus, since settings are identified by what they train on.
    """
    sweep, notes = without_impossible_choices(experiment.sweep, machine)
    if sweep.search != "grid":  # of a grid every cell is looked at
        check_shapes(sweep)
    check_budget(budget_configs(sweep))
    plan = Plan(
        experiment=experiment,
        sweep=sweep,
        machine=machine,
        num_trials=len(counted_settings(sweep)) if sweep.search in COUNTED else sweep.num_trials or 0,
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
    plan.notes.extend(same_schedule_notes(plan.known_trials()))
    return plan


def counted_settings(sweep: Sweep) -> list[dict[str, Value]]:
    """The settings of a grid or of listed points; trial k is number k."""
    return grid_settings(sweep.space) if sweep.search == "grid" else [dict(point) for point in sweep.points]


def grid_settings(space: Space) -> list[dict[str, Value]]:
    """Every combination, the last field varying fastest; cell k is trial k."""
    values = itertools.product(*(dimension.grid() for dimension in space.values()))
    return [dict(zip(space, cell, strict=True)) for cell in values]


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
    return sweep.override(dimensions={"precision": Choice(*possible)}), notes


def budget_configs(sweep: Sweep) -> list[RunConfig]:
    """The base with every combination of the swept fields that decide steps and windows; of a Range its ends."""
    space: dict[str, Choice | Range] = {
        name: dimension if isinstance(dimension, Choice) else Choice(dimension.low, dimension.high)
        for name, dimension in sweep.space.items()
        if name in BUDGET_FIELDS or name in MATCHING_FIELDS
    }
    return [sweep.base.replace(setting) for setting in grid_settings(space)]


def check_shapes(sweep: Sweep) -> None:
    """ValueError where a search may propose a width that its number of heads does not divide."""

    def values(name: str) -> Iterable[Value]:
        dimension = sweep.space.get(name, Choice(getattr(sweep.base, name)))
        if isinstance(dimension, Choice):
            return dimension.values
        return range(int(dimension.low), int(dimension.high) + 1)

    for d_model, num_heads in itertools.product(values("d_model"), values("num_heads")):
        sweep.base.replace({"d_model": d_model, "num_heads": num_heads})


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


@dataclass(frozen=True)
class Cost:
    """What a run costs, in floating-point operations or what takes as long: enough to compare runs on one machine."""

    token: float  # trained
    evaluation: float

    def of(self, tokens: int, evaluations: int) -> float:
        """That of so much of the run."""
        return tokens * self.token + evaluations * self.evaluation

    def of_all(self, config: RunConfig) -> float:
        """That of the whole run; it is evaluated once before the first step."""
        return self.of(config.train_tokens, config.num_evals + 1)


def cost_of(config: RunConfig, vocab_size: int, val_tokens: int) -> Cost:
    """The cost of a config, 6 operations a weight and token (Kaplan et al. 2020, section 2.1), attention and overhead
    included."""
    d, f = config.d_model, config.d_ff or 4 * config.d_model
    layer = 6 * (4 * d * d + 2 * d * f) + 12 * config.max_seq_len * d + LAYER_OVERHEAD
    token = config.num_layers * layer + 6 * vocab_size * d + LAYER_OVERHEAD
    evaluated = 2 * min(config.eval_tokens or val_tokens, val_tokens)  # as many train tokens as validation's
    return Cost(token, token * EVALUATED_TOKEN * evaluated)


def num_epochs(config: RunConfig, corpus: Corpus) -> float:
    """How often the run sees its training windows."""
    return config.train_tokens / (len(train_windows(corpus, config)) * config.max_seq_len)


def work_bytes(config: RunConfig, vocab_size: int) -> int:
    """What a run under way needs on disk: two checkpoints, one being written, and the final weights."""
    return (3 * ADAM_BYTES_PER_PARAMETER + 4) * num_parameters(config, vocab_size)


def disk_bytes(config: RunConfig, vocab_size: int) -> int:
    """What a run keeps: its weights, and about 100 bytes a step in history and database rows for each of 5 metrics."""
    return 4 * num_parameters(config, vocab_size) + 500 * config.num_steps
