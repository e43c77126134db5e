"""What trains a sweep's configs, as far as a plan must know it: ours, or one of the user's own. Knows neither."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sweeps.spec.config_type import Config, train_tokens
from sweeps.spec.sweep import Sweep

if TYPE_CHECKING:
    from sweeps.trainers.trainer_file import TrainerFile
    from tinylm_core.corpus import Corpus


@dataclass(frozen=True)
class Identified:
    """A config as it will be trained, and which piece of science that is."""

    config: Config
    identity: str
    fingerprint: str | None = None  # of its data; None where only the trainer knows that


@dataclass(frozen=True)
class Cost:
    """What a run costs, in floating-point operations or what takes as long: enough to compare runs on one machine."""

    token: float  # trained
    evaluation: float = 0.0
    num_evaluations: int = 0  # of the whole run

    def of(self, tokens: int, evaluations: int) -> float:
        """That of so much of the run."""
        return tokens * self.token + evaluations * self.evaluation

    def of_all(self, config: Config) -> float:
        """That of the whole run."""
        return self.of(train_tokens(config), self.num_evaluations)


class Trainer(Protocol):
    """What a plan asks of whatever trains."""

    @property
    def file(self) -> "TrainerFile | None":
        """What a worker is sent to train with; None where it has that, `tinylm_core`."""
        ...

    def fitting(self, sweep: Sweep, /) -> tuple[Sweep, list[str]]:
        """The sweep without the choices this machine can't run, and what there is to know of it, a line each.

        ValueError, in one line, for what can't be run or compared.
        """
        ...

    def is_matched(self, sweep: Sweep, /) -> bool:
        """Whether settings with one seed see the same tokens in the same order (law 4)."""
        ...

    def identified(self, config: Config, /) -> Identified:
        """The config that is trained, every `auto` resolved, and its identity (law 7)."""
        ...

    def notes_on(self, runs: Sequence[tuple[str, Config]], /) -> list[str]:
        """What there is to know of the settings together, a line each; `runs` has one of each, by name."""
        ...

    def work_bytes(self, config: Config, /) -> int:
        """What a run under way needs on disk."""
        ...

    def disk_bytes(self, config: Config, /) -> int:
        """What a run keeps on disk."""
        ...

    def texts(self, sweep: Sweep, /) -> Mapping[str, Path]:
        """Fingerprint → file of each text that the sweep trains on and that should go along with its results."""
        ...

    def corpus_of(self, config_json: str, /) -> "Corpus | None":
        """The tokens that a config trains on, for a machine that lacks them; None where the trainer reads its own."""
        ...

    def cost(self, config: Config, /) -> Cost:
        """What a run of a config costs."""
        ...

    def pace(self, config: Config, /) -> float | None:
        """Tokens a second that a worker trains, measured now; None where that can't be known."""
        ...

    def facts(self, config: Config, /) -> list[tuple[str, str]]:
        """What a dry run says of a config: label and text."""
        ...

    def details(self, config: Config, /) -> dict[str, str]:
        """What a table of settings says of each beside its steps, by the name of the column."""
        ...
