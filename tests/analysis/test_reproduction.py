"""What a comparison of two histories finds: a changed number, a step that is missing, a number where there was none."""

import math

import pandas as pd
import pytest

from sweeps.analysis.reproduction import (
    EVAL_COLUMNS,
    STEP_COLUMNS,
    as_far_as_recorded,
    compare,
    evaluations_not_recorded,
)

NUM_STEPS = 6


def history() -> pd.DataFrame:
    """A step a row, an evaluation before the first and after each third."""
    steps = range(NUM_STEPS + 1)
    columns = {"step": list(steps)}
    columns |= {column: [math.nan, *(2.0 + step / 7 for step in steps[1:])] for column in STEP_COLUMNS}
    columns |= {column: [3.0 + step / 7 if step % 3 == 0 else math.nan for step in steps] for column in EVAL_COLUMNS}
    return pd.DataFrame(columns)


def test_a_history_is_the_same_as_itself_in_any_order() -> None:
    verdict = compare(history(), history().sample(frac=1, random_state=0))
    assert (verdict.num_steps, verdict.num_evals) == (NUM_STEPS, 3)
    assert (verdict.missing_steps, verdict.first_step, verdict.largest_difference) == ((), None, 0.0)


@pytest.mark.parametrize(("column", "step"), [*((c, 2) for c in STEP_COLUMNS), *((c, 3) for c in EVAL_COLUMNS)])
def test_the_last_bit_of_any_number_counts_unless_a_difference_is_allowed(column: str, step: int) -> None:
    again = history()
    again.loc[again["step"] == step, column] *= 1 + 2**-52
    again.loc[again["step"] == step + 3, column] *= 1 + 2**-40
    verdict = compare(history(), again)
    assert (verdict.first_step, verdict.where, verdict.missing_steps) == (step, column, ())
    assert 1e-12 < verdict.largest_difference < 1e-11
    assert compare(history(), again, rtol=1e-15).first_step == step + 3
    within = compare(history(), again, rtol=1e-9)
    assert (within.first_step, within.largest_difference) == (None, verdict.largest_difference)


def test_a_number_where_there_was_none_is_a_difference_whatever_is_allowed() -> None:
    again = history()
    again.loc[again["step"] == 4, "val_loss"] = 3.0
    for recorded, repeated in ((history(), again), (again, history())):
        verdict = compare(recorded, repeated, rtol=1.0)
        assert (verdict.first_step, verdict.where, verdict.largest_difference) == (4, "val_loss", math.inf)


def test_steps_of_one_alone_are_missing() -> None:
    some = history()[lambda frame: ~frame["step"].isin([2, 5])]
    for recorded, repeated in ((history(), some), (some, history())):
        assert compare(recorded, repeated).missing_steps == (2, 5)


def test_a_thinned_record_is_compared_as_far_as_it_goes_and_an_evaluation_more_is_said() -> None:
    recorded = history()[lambda frame: frame["step"].isin([0, 2, 3, 4])]
    recorded.loc[recorded["step"] == 3, list(STEP_COLUMNS)] = math.nan  # of it there is the evaluation alone
    verdict = compare(recorded, as_far_as_recorded(history(), recorded))
    assert (verdict.num_steps, verdict.num_evals) == (2, 2)
    assert (verdict.missing_steps, verdict.first_step) == ((), None)
    assert evaluations_not_recorded(history(), recorded) == [6]
    assert evaluations_not_recorded(recorded, history()) == []
