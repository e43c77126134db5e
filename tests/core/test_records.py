"""What a run says of itself: the numbers derived from its records."""

import math
from dataclasses import replace

from tinylm_core.records import EndState, EvalRecord, Metrics

EVAL = EvalRecord(0, 0, 3.0, 0.1, 2.5, 0.1, 0)


def metrics(*val_losses: float, state: EndState = "COMPLETE") -> Metrics:
    evals = [replace(EVAL, step=step, val_loss=loss) for step, loss in enumerate(val_losses)]
    return Metrics(state, 10, 20, [], evals, None)


def test_gap_is_validation_minus_train() -> None:
    assert EVAL.gap == 0.5


def test_perplexity_is_the_exponential_of_the_loss_and_never_an_error() -> None:
    assert EVAL.val_perplexity == math.exp(3.0)
    assert replace(EVAL, val_loss=1e6).val_perplexity == math.inf


def test_final_is_the_last_evaluation_and_best_the_first_of_the_lowest() -> None:
    measured = metrics(3.0, 1.0, 1.0, 2.0)
    assert measured.final.val_loss == 2.0
    assert measured.best.step == 1
    assert measured.objective == 2.0


def test_objective_is_never_worse_than_guessing() -> None:
    assert metrics(3.0, 50.0).objective == math.log(20)
    assert metrics(3.0, 1.0, state="DIVERGED").objective == math.log(20)
    assert metrics(state="DIVERGED").objective == math.log(20)
