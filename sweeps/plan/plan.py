"""Which trials a sweep makes and whether they can be compared. Knows no Optuna, no MLflow, and not how to train."""

from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.spec.catalog import Experiment
from sweeps.spec.config_type import Config, changed, dumped, train_tokens
from sweeps.spec.naming import setting_label, short
from sweeps.spec.searches import COUNTED, TPE_STARTUP_TRIALS
from sweeps.spec.settings import grid_settings, is_varied
from sweeps.spec.space import MAX_VALUES, TYPED_DIGITS, Choice, Value
from sweeps.spec.sweep import Sweep, counted_settings
from sweeps.trainers.protocol import Trainer
from tinylm_core.config import NUMERICS_VERSION
from tinylm_core.machine import Machine

ENOUGH_FOR_TPE = 2  # times the trials that it draws at random; with fewer it has hardly searched


@dataclass(frozen=True)
class PlannedRun:
    """One training of one trial with one seed."""

    trial: int
    seed: int
    label: str  # of the setting
    config: Config  # resolved
    fingerprint: str | None  # of its data, where the plan knows that
    identity: str

    @property
    def name(self) -> str:
        """As the tracker shows it: what differs."""
        return f"t{self.trial:03d} {self.label} seed={self.seed}"

    @property
    def num_tokens(self) -> int:
        """Training tokens of the whole run."""
        return train_tokens(self.config)


@dataclass(frozen=True)
class Trial:
    """One point of the space, numbered, and its run for each seed."""

    number: int
    setting: dict[str, Value]
    label: str
    runs: tuple[PlannedRun, ...]

    def record(self) -> TrialRecord:
        """As the plan's record keeps it."""
        config = self.runs[0].config
        return TrialRecord(
            number=self.number,
            setting=self.setting,
            label=self.label,
            runs={run.seed: run.identity for run in self.runs},
            num_steps=config.num_steps,
            tokens_per_step=config.tokens_per_step,
        )


@dataclass
class Plan:
    """A definition on this machine: its trials come from settings, one at a time."""

    experiment: Experiment
    sweep: Sweep  # without the choices this machine can't run
    machine: Machine
    trainer: Trainer
    num_trials: int
    matched: bool
    notes: list[str]

    def trial(self, number: int, setting: dict[str, Value]) -> Trial:
        """The trial of a setting. ValueError, naming the setting, where its values don't fit together."""
        space = self.sweep.space
        label = setting_label({name: value for name, value in setting.items() if is_varied(space[name], setting)})
        runs = []
        for seed in self.sweep.seed_values:
            try:
                found = self.trainer.identified(changed(self.sweep.base, setting | {"seed": seed}))
            except ValueError as error:
                raise ValueError(f"{error} (setting {label})") from None
            runs.append(PlannedRun(number, seed, label, found.config, found.fingerprint, found.identity))
        return Trial(number, setting, label, tuple(runs))

    def known_trials(self) -> list[Trial]:
        """All trials of a grid, or of listed points; of other searches, which are asked later, none."""
        if self.sweep.search not in COUNTED:
            return []
        return [self.trial(number, setting) for number, setting in enumerate(counted_settings(self.sweep))]

    def record(self, trials: Iterable[Trial], *, created_ms: int | None = None) -> PlanRecord:
        """What belongs to the definition, with these trials; `created_ms` is when it was started."""
        sweep = self.sweep
        return PlanRecord(
            name=self.experiment.name,
            definition=sweep.definition,
            question=self.experiment.question,
            command=self.experiment.command,
            file=self.experiment.made_by,
            search=sweep.search,
            search_seed=sweep.search_seed,
            concurrency=sweep.concurrency,
            objective=sweep.objective,
            space=sweep.space,
            base=dumped(sweep.base),
            trainer=sweep.version,
            seeds=tuple(sweep.seed_values),
            keep_checkpoints=sweep.keep_checkpoints,
            num_trials=self.num_trials,
            matched=self.matched,
            numerics_version=NUMERICS_VERSION,
            trials=tuple(trial.record() for trial in trials),
            allowed=sweep.constraint,
            created_ms=created_ms,
        )


def make_plan(experiment: Experiment, machine: Machine) -> Plan:
    """The plan of an experiment on a machine. ValueError, in one line, for what can't be run or compared.

    Reads the corpus, since settings are identified by what they train on.
    """
    trainer = trainer_of(experiment, machine)
    sweep, notes = trainer.fitting(experiment.sweep)
    check_labels(sweep)
    if sweep.total_tokens is not None and sweep.num_proposed < 1:
        tokens = train_tokens(sweep.base)
        cost = f"{tokens * sweep.seeds:,} ({tokens:,} x seeds {sweep.seeds})"
        raise ValueError(f"total_tokens={sweep.total_tokens:,}: one trial takes {cost}")
    plan = Plan(
        experiment=experiment,
        sweep=sweep,
        machine=machine,
        trainer=trainer,
        num_trials=len(counted_settings(sweep)) if sweep.search in COUNTED else sweep.num_proposed,
        matched=trainer.is_matched(sweep),
        notes=notes,
    )
    if sweep.search == "grid" and (num_refused := len(grid_settings(sweep.space, sweep.base)) - plan.num_trials):
        notes.append(f"left out: {num_refused} of {num_refused + plan.num_trials} cells, which allowed refuses")
    if sweep.search not in COUNTED and (num_more := len(sweep.points) - plan.num_trials) > 0:
        notes.append(f"left out: the last {num_more} of {len(sweep.points)} points, more than there are trials")
    if sweep.search == "tpe" and plan.num_trials < ENOUGH_FOR_TPE * TPE_STARTUP_TRIALS:
        notes.append(f"tpe draws its first {TPE_STARTUP_TRIALS} trials at random, and learns from them after that")
    first_runs = [(f"t{trial.number:03d} ({trial.label})", trial.runs[0].config) for trial in plan.known_trials()]
    notes += trainer.notes_on(first_runs)
    return plan


def check_labels(sweep: Sweep) -> None:
    """ValueError where two values of a field look alike: they are read by their labels, unless in quarters."""
    for field, dimension in sweep.space.items():
        by_label: dict[str, Value] = {}
        values = dimension.grid() if isinstance(dimension, Choice) or sweep.search == "grid" else ()
        for value in values if isinstance(dimension, Choice) or len(values) <= MAX_VALUES else ():
            if (other := by_label.setdefault(short(value), value)) is not value:
                raise ValueError(
                    f"space: {field}: {other!r} and {value!r} are one value as a label, {short(value)}; take values "
                    f"that differ within {TYPED_DIGITS} digits"
                )


def trainer_of(experiment: Experiment, machine: Machine) -> Trainer:
    """The trainer that the experiment's sweep names, on a machine. ValueError where a worker can't be sent it."""
    if experiment.sweep.run is not None:
        # Either loads what the other never needs; that of `tinylm_core` loads torch.
        from sweeps.trainers.own import OwnTrainer

        return OwnTrainer(experiment)
    from sweeps.trainers.tinylm import TinyLM

    return TinyLM(machine)
