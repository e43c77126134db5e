"""A sweep's results: its plan and rows, and what several parts of a report ask of them, worked out once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sweeps.analysis import best_quarter, curves, decomposition, diagnosis, effects, noise, ranking, rates, settings
from sweeps.analysis.noise import Noise, Uneven
from sweeps.plan.record import PlanRecord
from tinylm_core.records import RESULTS


@dataclass(frozen=True, eq=False)
class Results:
    """What a store holds of a definition. `trials` has a row a run, `history` a row a step."""

    plan: PlanRecord
    trials: pd.DataFrame
    history: pd.DataFrame
    importances_of: Callable[["Results"], Mapping[str, float]] = lambda _: {}  # Optuna's, which only `search` knows

    @cached_property
    def importances(self) -> Mapping[str, float]:
        """Optuna's importance of each swept field, shares of 1; empty where too little is known."""
        return self.importances_of(self)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The planned runs, with their rows where they have one: `settings.planned_runs`."""
        return settings.planned_runs(self.plan, self.trials)

    @property
    def num_planned(self) -> int:
        """How many runs the sweep has in the end, those of trials that a search has yet to propose too."""
        return max(len(self.runs), self.plan.num_trials * len(self.plan.seeds))

    @cached_property
    def started(self) -> pd.DataFrame:
        """Those that have a row."""
        return self.runs[self.runs["run_id"].notna()]

    @cached_property
    def complete(self) -> pd.DataFrame:
        """Those that ended as they should."""
        return self.runs[self.runs["state"] == "COMPLETE"].reset_index(drop=True)

    @cached_property
    def board(self) -> pd.DataFrame:
        """`ranking.leaderboard`; nothing is tested where losses are of different tokens."""
        board = ranking.leaderboard(self.runs, self.plan.swept)
        if settings.incomparable(self.plan):
            board = board.assign(tied_with_best=pd.array([pd.NA] * len(board), dtype="boolean"), p_value=np.nan)
        return board

    @cached_property
    def noise(self) -> float:
        """Standard deviation over seeds of one run's final loss: `noise.seed_noise`."""
        return noise.seed_noise(self.runs)

    def noise_of(self, trials: Sequence[int] | pd.Series) -> Noise:
        """`noise.noise_of` all settings, of these."""
        order = self.runs["trial"].drop_duplicates()
        return noise.noise_of(self.runs, order)[pd.Index(order).get_indexer(pd.Index(trials))]

    @cached_property
    def residual(self) -> float:
        """Deviation of one run's final loss when what its seed does to all settings alike is taken away; or NaN."""
        return float(np.sqrt(noise.residual_noise(self.runs)[0]))

    @cached_property
    def noisy(self) -> list[str]:
        """The settings whose seeds scatter far more than the others': `noise.noisy_settings`."""
        trials = noise.noisy_settings(self.runs)
        return [str(label) for label in self.board.loc[self.board["trial"].isin(trials), "label"]]

    @cached_property
    def uneven(self) -> Uneven | None:
        """`noise.uneven`."""
        return noise.uneven(self.plan, self.runs)

    @cached_property
    def worst_loss(self) -> float:
        """ln(vocabulary): `settings.worst_loss`."""
        return settings.worst_loss(self.trials)

    @cached_property
    def is_chance(self) -> bool:
        """Whether nothing that has finished is better than knowing nothing, so that all of it counts as the same."""
        objective = self.runs.loc[self.runs["state"].isin(RESULTS), "objective"].astype(float)
        return bool(len(objective) and (objective >= self.worst_loss).all())

    @property
    def has_best(self) -> bool:
        """Whether a setting can be named the best so far: something has finished, can be compared, and beats chance."""
        finished = self.runs.loc[self.runs["state"].isin(RESULTS), "state"]
        return bool((finished == "COMPLETE").any()) and not settings.incomparable(self.plan) and not self.is_chance

    @property
    def was_better(self) -> bool:
        """Whether some of them were better than that before their end."""
        return bool((self.overfitting["best_loss"] < self.worst_loss).any())

    @cached_property
    def evals(self) -> pd.DataFrame:
        """`curves.evaluations` of the planned runs."""
        evals = curves.evaluations(self.trials, self.history)
        return evals[evals["run_id"].isin(self.started["run_id"])].reset_index(drop=True)

    @cached_property
    def initial_loss(self) -> float:
        """Before the first update; ln(vocabulary) where no evaluation 0 is there."""
        loss = curves.first_loss(self.evals)
        return self.worst_loss if np.isnan(loss) else loss

    @cached_property
    def tokens_to_target(self) -> pd.DataFrame:
        """`curves.tokens_to_target` for its own target."""
        return curves.tokens_to_target(self.started, self.evals)

    @cached_property
    def overfitting(self) -> pd.DataFrame:
        """`curves.overfitting`."""
        return curves.overfitting(self.runs, self.evals)

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """`effects.gaps`."""
        return effects.gaps(self.plan, self.runs)

    @cached_property
    def main_effects(self) -> pd.DataFrame:
        """`effects.main_effects`."""
        return effects.main_effects(self.plan, self.runs)

    @cached_property
    def tuned_effects(self) -> pd.DataFrame:
        """`effects.tuned_effects`."""
        return effects.tuned_effects(self.plan, self.runs, self.board, self.noise_of(self.board["trial"]))

    @cached_property
    def decomposition(self) -> pd.DataFrame:
        """`decomposition.decompose`."""
        return decomposition.decompose(self.plan, self.runs)

    @cached_property
    def concentrations(self) -> list[best_quarter.Concentration]:
        """`best_quarter.concentrations`."""
        return best_quarter.concentrations(self.plan, self.board)

    @cached_property
    def rates(self) -> pd.DataFrame:
        """`rates.rate_table`."""
        return rates.rate_table(self.plan, self.runs, self.initial_loss)

    @cached_property
    def diagnoses(self) -> pd.DataFrame:
        """`diagnosis.diagnoses`."""
        return diagnosis.diagnoses(self.runs, self.history)
