"""Rows of a store become tables, and links to MLflow's pages: without a store."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from stores import FINGERPRINT, START, config_of
from synthetic import make_plan

from sweeps.plan.record import PlanRecord, TrialRecord
from sweeps.spec.config_type import to_params
from sweeps.store import frames, rows, schema, sql, ui
from tinylm_core.config import RunConfig
from tinylm_core.records import Metrics


def row_of(config: RunConfig, **changes: object) -> schema.RunRow:
    row = rows.run_row(
        sql.RawRun(
            "r",
            "t000",
            "1",
            "FINISHED",
            START,
            START + 1,
            to_params(config),
            {schema.STATE: "COMPLETE", schema.FINGERPRINT: FINGERPRINT, schema.NUMERICS: "1"},
            {},
        )
    )
    return replace(row, **changes)


def plan_of(*identities: str) -> PlanRecord:
    trials = [TrialRecord(number, {"seed": 0}, str(number), {0: planned}) for number, planned in enumerate(identities)]
    return replace(make_plan({}), trials=tuple(trials))


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        (["COMPLETE", "RUNNING", "FAILED"], 0),
        (["FAILED", "RUNNING", "INTERRUPTED"], 1),
        (["FAILED", "INTERRUPTED"], 1),
        (["FAILED", "DIVERGED", "RUNNING"], 1),
    ],
)
def test_of_equal_runs_a_result_counts_then_a_running_one_then_the_newest(states: list[str], chosen: int) -> None:
    rows = [
        row_of(
            config_of(), run_id=str(number), state=state, start_time=pd.Timestamp(START + number, unit="ms", tz="UTC")
        )
        for number, state in enumerate(states)
    ]
    for order in (rows, rows[::-1]):
        frame = frames.trials_frame(order, plan_of(str(rows[0].identity)))
        assert frame["run_id"].tolist() == [str(chosen)]


def test_a_plan_of_an_older_version_finds_its_runs() -> None:
    row = row_of(config_of())
    old = replace(row, tags=row.tags | {schema.IDENTITY: "as it was"})
    assert len(frames.trials_frame([old], plan_of("as it was"))) == 1
    assert len(frames.trials_frame([old], plan_of(str(row.identity)))) == 1
    assert len(frames.trials_frame([old], plan_of("other"))) == 0


def test_other_summary_metrics_become_columns() -> None:
    row = row_of(config_of(), metrics={"final/accuracy": 0.5, "best/x/y": 1.0, "train/loss": 2.0})
    frame = frames.trials_frame([row], plan_of(str(row.identity)))
    assert frame["final_accuracy"].tolist() == [0.5]
    assert frame["best_x_y"].tolist() == [1.0]
    assert "train_loss" not in frame.columns


def test_a_value_that_is_none_has_its_gap_too() -> None:
    rows = [
        row_of(
            config_of(max_grad_norm=norm, seed=seed),
            run_id=f"{norm}{seed}",
            metrics={"final/val_loss": 3.0 + seed, "final/train_loss": 2.0, "final/gap": 1.0 + seed},
        )
        for norm in (None, 0.5)
        for seed in (0, 1, 2)
    ]
    trials = frames.trials_frame(rows, plan_of(*(str(row.identity) for row in rows)))
    table = frames.gaps_frame(trials, ["max_grad_norm", "precision"])
    assert table["parameter"].tolist() == ["max_grad_norm", "max_grad_norm", "precision"]
    assert table["value"].tolist() == [0.5, None, "fp32"]
    assert table["num_runs"].tolist() == [3, 3, 6]
    np.testing.assert_allclose(table["gap"], 2.0)
    np.testing.assert_allclose(table["gap_standard_error"][:2], np.std([1, 2, 3], ddof=1) / math.sqrt(3))


def test_a_value_there_twice_counts_once_the_later() -> None:
    runs = pd.DataFrame([("r", 0, 0)], columns=["run_id", "trial", "seed"])
    points = [("r", "train/loss", 1, START + later, float(later)) for later in (2, 1)]
    frame = frames.history_frame(points, runs)
    assert frame["train_loss"].tolist() == [2.0]


def test_summary_metrics_of_a_run_without_evaluations() -> None:
    diverged = Metrics("DIVERGED", 1, 1000, [], [], None, diverged_at=1)
    assert schema.summary_metrics(diverged) == {"objective": math.log(1000)}
    assert schema.summary_metrics(Metrics("INTERRUPTED", 1, 1000, [], [], None)) == {}


def test_the_port_of_the_local_ui_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPS_UI_PORT", "5055")
    assert ui.ui_base("sqlite:////tmp/mlflow.db") == "http://127.0.0.1:5055"
    for wrong in ("x", "0", "65536", "-1", "5" * 50):
        monkeypatch.setenv("SWEEPS_UI_PORT", wrong)
        with pytest.raises(ValueError, match=f"SWEEPS_UI_PORT={wrong}: must be a port"):
            ui.local_ui_port()


def test_links_open_on_the_runs_and_the_best_of_them() -> None:
    base = ui.ui_base("sqlite:////tmp/mlflow.db")
    assert ui.runs_page(base, "7") == (
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART"
    )
    assert ui.runs_page("http://host", "7", ui.view_key(ui.BEST, "d1")) == (
        "http://host/#/experiments/7/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=d1-best"
    )
    assert ui.ui_base("https://me:secret@host:5000/mlflow/") == "https://host:5000/mlflow"
