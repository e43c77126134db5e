"""The store reads back plain tables, by SQL and by MLflow's client the same, from a folder and from a real server."""

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from stores import (
    FINGERPRINT,
    START,
    SWEEP_NAMES,
    config_of,
    eval_of,
    new_run,
    steps_of,
    write_experiment,
    write_sweep,
)  # fmt: skip
from synthetic import choice, make_plan

from sweeps.plan.record import TrialRecord
from sweeps.store import Store, read, rows, schema, sql
from sweeps.store.write import Writer
from tinylm_core.config import RunConfig, identity
from tinylm_core.records import Metrics


def planned_sweep(writer: Writer, name: str, tmp_path: Path) -> tuple[str, dict[tuple[int, int], str]]:
    """A sweep of two learning rates and two seeds, of which one run failed, was done again, and one has not started."""
    experiment = writer.experiment(name, "")
    configs = {
        (trial, seed): config_of(learning_rate=rate, seed=seed)
        for trial, rate in enumerate((1e-3, 3e-4))
        for seed in (0, 1)
    }
    trials = [
        TrialRecord(
            number,
            {"learning_rate": rate},
            f"lr={rate}",
            {seed: identity(configs[number, seed], FINGERPRINT, 1) for seed in (0, 1)},
        )
        for number, rate in enumerate((1e-3, 3e-4))
    ]
    plan = replace(
        make_plan({"learning_rate": choice(1e-3, 3e-4)}), name=name, definition="d2abc", trials=tuple(trials)
    )
    for definition, content in (("d1", replace(plan, definition="d1", trials=())), ("d2abc", plan)):
        tags = {schema.ROLE: "summary", schema.DEFINITION: definition}
        start = START if definition == "d1" else START + 1
        summary = writer.create_run(
            experiment, creation_id=definition, name=definition, tags=tags, params={}, start_time_ms=start
        )
        folder = tmp_path / definition
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps(content.to_json()))
        writer.log_artifacts(summary, folder)
    runs = {}
    for (trial, seed), config in list(configs.items())[:3]:
        # The first came from another definition, where it had another number.
        made_by = (
            {"trial": 5, "definition": "d1"} if (trial, seed) == (0, 0) else {"trial": trial, "definition": "d2abc"}
        )
        runs[trial, seed] = run_id = new_run(writer, experiment, config, **made_by)
        evals = [eval_of(0), eval_of(20, val_loss=3 - trial, train_loss=2.5 - trial)]
        steps = steps_of(1, 20)
        writer.log_records(run_id, steps=steps)
        for record in evals:
            writer.log_records(run_id, evals=[record])
        if (trial, seed) != (1, 0):
            done = Metrics("COMPLETE", 1234, 1000, steps, evals, "w" * 64)
            writer.log_summary(run_id, schema.summary_metrics(done), {schema.WEIGHTS: "w" * 64})
            writer.end_run(run_id, state="COMPLETE", end_time_ms=START + 60_000)
    failed = new_run(writer, experiment, configs[0, 0], start_time_ms=START + 99_000)
    writer.end_run(failed, state="FAILED", end_time_ms=START + 100_000)
    writer.resume_run(failed)
    writer.end_run(failed, state="FAILED", end_time_ms=START + 100_000)
    return experiment, runs


@pytest.fixture(params=["sql", "client"])
def reader(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, read as it chooses to, and as it is read where the schema is not the tested one, in small pages."""
    if request.param == "client":
        monkeypatch.setattr(sql, "TESTED_REVISION", "another")
        monkeypatch.setattr(rows, "_PAGE", 2)
        monkeypatch.setattr(read, "_HISTORIES", 2)
    return store


def test_trials_are_the_plans_runs_whoever_made_them(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(SWEEP_NAMES)
    _, runs = planned_sweep(writer, name, tmp_path)
    frame = reader.trials(name)
    assert frame["run_id"].tolist() == [runs[0, 0], runs[0, 1], runs[1, 0]]
    assert frame["trial"].tolist() == [0, 0, 1]
    assert frame["seed"].tolist() == [0, 1, 0]
    assert frame["definition"].tolist() == ["d1", "d2abc", "d2abc"]
    assert frame["setting"].tolist() == ["lr=0.001", "lr=0.001", "lr=0.0003"]
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert frame["learning_rate"].tolist() == [1e-3, 1e-3, 3e-4]
    assert frame["final_val_loss"][:2].tolist() == [3.0, 3.0]
    assert frame["final_gap"][:2].tolist() == [0.5, 0.5]
    assert frame["objective"][:2].tolist() == [3.0, 3.0]
    assert frame["final_tokens_per_second"][0] == 12345.678
    assert frame["duration_seconds"][:2].tolist() == [60.0, 60.0]
    assert pd.isna(frame["duration_seconds"][2])
    assert pd.isna(frame["end_time"][2])
    assert pd.isna(frame["objective"][2])
    assert frame["num_parameters"].tolist() == [1234] * 3
    assert frame["start_time"][0] == pd.Timestamp(START, unit="ms", tz="UTC")
    types = {column: str(dtype) for column, dtype in frame.dtypes.items()}
    assert types["trial"] == types["seed"] == types["vocab_size"] == types["max_tokens"] == types["threads"] == "Int64"
    assert types["learning_rate"] == types["final_val_loss"] == types["max_grad_norm"] == "float64"
    assert types["bias"] == "boolean"
    assert types["start_time"] == types["end_time"] == "datetime64[ms, UTC]"
    assert set(RunConfig.model_fields) <= set(frame.columns)
    empty = reader.trials(name, "d1")
    assert len(empty) == 0
    assert empty.dtypes.equals(frame.dtypes)


def test_history_is_every_step_once(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(SWEEP_NAMES)
    _, runs = planned_sweep(writer, name, tmp_path)
    frame = reader.history(name)
    assert frame["run_id"].unique().tolist() == list(runs.values())
    one = frame[frame["run_id"] == runs[1, 0]]
    assert one["step"].tolist() == list(range(21))
    assert one["train_loss"].tolist()[1:] == [record.loss for record in steps_of(1, 20)]
    assert one["train_tokens"].tolist()[1:] == [record.tokens for record in steps_of(1, 20)]
    assert one["val_loss"].dropna().tolist() == [5.0, 2.0]
    assert one["eval_gap"].dropna().tolist() == [0.5, 0.5]
    assert math.isnan(one["train_loss"].iloc[0])
    assert one["timestamp"].iloc[20] == pd.Timestamp(START + 20, unit="ms", tz="UTC")
    assert reader.history(name, run_ids=[runs[1, 0]]).equals(one.reset_index(drop=True))
    by_id = reader.history(run_ids=[runs[0, 0]])
    assert by_id["trial"].unique().tolist() == [5]
    empty = reader.history(name, "d1")
    assert len(empty) == 0
    assert empty.dtypes.equals(frame.dtypes)


def test_gaps_are_means_over_complete_runs(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(SWEEP_NAMES)
    planned_sweep(writer, name, tmp_path)
    frame = reader.gaps(name)
    assert frame.to_dict("records") == [
        {
            "parameter": "learning_rate",
            "value": 1e-3,
            "num_runs": 2,
            "train_loss": 2.5,
            "val_loss": 3.0,
            "gap": 0.5,
            "gap_standard_error": 0.0,
        }
    ]
    assert reader.gaps(name, "d1").dtypes.equals(frame.dtypes)


def test_read_only_sql_reads_what_mlflows_client_reads(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sql.revision(local.folder / "mlflow.db") == sql.TESTED_REVISION
    writer = local.writer()
    _, runs = planned_sweep(writer, "sweep", tmp_path)
    writer.log_records(runs[1, 0], steps=[replace(steps_of(21, 21)[0], loss=math.nan, grad_norm=math.inf)])
    writer.log_summary(runs[1, 0], {"final/gap": math.nan, "final/val_loss": -math.inf}, {})

    def everything() -> tuple[object, ...]:
        rows = sorted(local.runs("sweep"), key=lambda row: row.run_id)
        history = local.history("sweep")
        return (
            repr(rows),
            history,
            local.trials("sweep"),
            repr(local.find_run(runs[0, 0][:20])),
            local.runs("sweep", "summary"),
            sorted(local.running("sweep")),
        )

    by_sql = everything()
    monkeypatch.setattr(sql, "TESTED_REVISION", "another")
    monkeypatch.setattr(sql, "raw_runs", None)
    monkeypatch.setattr(sql, "points", None)
    by_client = everything()
    assert by_sql[0] == by_client[0]
    pd.testing.assert_frame_equal(by_sql[1], by_client[1])
    pd.testing.assert_frame_equal(by_sql[2], by_client[2])
    assert by_sql[3] == by_client[3]
    assert {row.run_id for row in by_sql[4]} == {row.run_id for row in by_client[4]}
    assert by_sql[5] == by_client[5]
    everyone = [*local.runs("sweep"), *local.runs("sweep", "summary")]
    assert by_sql[5] == sorted(row.run_id for row in everyone if row.status == "RUNNING") != []


def test_plans_are_found_by_definition(reader: Store, writer: Writer, tmp_path: Path) -> None:
    name = next(SWEEP_NAMES)
    planned_sweep(writer, name, tmp_path)
    assert [known.definition for known in reader.definitions(name)] == ["d2abc", "d1"]
    assert reader.plan(name).definition == "d2abc"
    assert reader.plan(name, "d1").definition == "d1"
    assert reader.plan(name, "d2").definition == "d2abc"
    for unknown in ("d", "x"):
        with pytest.raises(ValueError, match="known: d2abc, d1"):
            reader.plan(name, unknown)
    with pytest.raises(ValueError, match="no sweep 'nothing'"):
        reader.plan("nothing")
    experiment = writer.experiment(next(SWEEP_NAMES), "")
    fresh = reader.sweeps()[0]
    with pytest.raises(ValueError, match="has no plan"):
        reader.plan(fresh)
    new_run(writer, experiment)
    assert len(reader.runs(fresh)) == 1


def test_of_a_sweep_that_is_not_there_there_is_nothing_and_who_names_it_is_told(reader: Store, writer: Writer) -> None:
    name = next(SWEEP_NAMES)
    writer.experiment(name, "")
    assert (reader.runs("nothing"), reader.definitions("nothing"), reader.running("nothing")) == ([], [], [])
    assert (reader.run_ids("nothing"), reader.holder("nothing")) == ([], None)
    for ask in (reader.named, reader.plan, reader.trials, reader.history, reader.gaps):
        with pytest.raises(ValueError, match=f"no sweep '{name}s' in .*; did you mean {name}"):
            ask(f"{name}s")
    assert reader.named(name) == reader.named(f"experiments/{name}.py") == name


def test_a_damaged_plan_is_said_to_be_one(local: Store, tmp_path: Path) -> None:
    writer = local.writer()
    planned_sweep(writer, "sweep", tmp_path)
    (tmp_path / "d2abc" / "plan.json").write_text('{"name":')
    writer.log_artifacts(local.definitions("sweep")[0].run_id, tmp_path / "d2abc")
    with pytest.raises(ValueError, match=r"plan.json of run \w+ in .* is damaged"):
        local.plan("sweep")


def test_a_run_is_found_by_the_start_of_its_id(reader: Store, writer: Writer, experiment: str) -> None:
    made = [new_run(writer, experiment) for _ in range(5)]
    assert reader.find_run(made[3]).run_id == made[3]
    assert reader.find_run(made[3][:12]).run_id == made[3]
    for bad in ("abc", "../../x", "ABCDEF", "g" * 8, made[0] + "0", "%%%%"):
        with pytest.raises(ValueError, match="must be 4 to 32"):
            reader.find_run(bad)
    with pytest.raises(ValueError, match="no such run"):
        reader.find_run("0" * 32)


def test_an_ambiguous_start_names_the_runs(local: Store) -> None:
    writer = local.writer()
    experiment = writer.experiment("sweep", "")
    for _ in range(2):
        new_run(writer, experiment)
    with closing(sqlite3.connect(local.folder / "mlflow.db")) as database:
        database.executescript(
            "PRAGMA foreign_keys = OFF; UPDATE tags SET run_uuid = 'abcd' || run_uuid;"
            "UPDATE params SET run_uuid = 'abcd' || run_uuid; UPDATE runs SET run_uuid = 'abcd' || run_uuid;"
        )
    with pytest.raises(ValueError, match="2 runs start so"):
        local.find_run("abcd")


def test_the_only_sweep_needs_no_name(local: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none yet"):
        local.trials()
    writer = local.writer()
    planned_sweep(writer, "one", tmp_path)
    assert len(local.trials()) == 3
    writer.experiment("two", "")
    with pytest.raises(ValueError, match="name one: two, one"):
        local.trials()


def test_a_param_that_somebody_added_in_mlflow_changes_nothing(local: Store, tmp_path: Path, text_file: Path) -> None:
    ids = write_sweep(local, write_experiment(tmp_path, text_file), {(0, 0): ("COMPLETE", 2.0)})
    before = local.find_run(ids[0, 0])
    MlflowClient(local.tracking_uri).log_param(ids[0, 0], "annotator", "me")
    after = local.find_run(ids[0, 0])
    assert (after.config, after.identity) == (before.config, before.identity)
    assert after.config is not None
    assert after.params["annotator"] == "me"


def test_identity_is_computed_on_reading(local: Store) -> None:
    writer = local.writer()
    experiment = writer.experiment("sweep", "")
    config = config_of(seed=3)
    run_id = new_run(writer, experiment, config)
    writer.set_tags(run_id, {schema.IDENTITY: "of an old version"})
    row = local.find_run(run_id)
    assert (row.config, row.seed) == (config, 3)
    assert row.identity == identity(config, FINGERPRINT, 1)
    foreign = writer.create_run(
        experiment,
        creation_id="f",
        name="n",
        tags={schema.IDENTITY: "i"},
        params={"depth": "3", "seed": "1"},
        start_time_ms=START,
    )
    row = local.find_run(foreign)
    assert (row.config, row.seed, row.identity) == (None, 1, "i")
