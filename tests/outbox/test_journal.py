"""An operation comes out of a journal as it was put; what an earlier version left there is read as what it was."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from synthetic import lr_warmup_space, make_plan

from sweeps.outbox import operations
from sweeps.outbox.journal import from_line, to_line
from sweeps.outbox.operations import Ask, Dataset, End, Open, Operation, Publish, Records, RemoveRun, Start, Unreadable
from sweeps.store.holder import Holder
from tinylm_core.records import EvalRecord, StepRecord, UsageRecord

ROOT = Path("/somewhere/a store")
TEXT = st.text(max_size=20)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
TIME = st.integers(0, 2**53)
FLOAT = st.floats(allow_nan=False)
FOLDERS = st.sampled_from(["work/question/runs/abc", "work/q/reproduction", "reports/question"])
STEPS = st.builds(StepRecord, step=TIME, tokens=TIME, loss=FLOAT, learning_rate=FLOAT, grad_norm=FLOAT,
                  tokens_per_second=FLOAT, skipped=st.booleans(), timestamp_ms=TIME)  # fmt: skip
EVALS = st.builds(EvalRecord, step=TIME, tokens=TIME, val_loss=FLOAT, val_loss_standard_error=FLOAT, train_loss=FLOAT,
                  train_loss_standard_error=FLOAT, timestamp_ms=TIME)  # fmt: skip
USAGE = st.builds(UsageRecord, timestamp_ms=TIME, cpu_percent=FLOAT, memory_megabytes=FLOAT, memory_percent=FLOAT,
                  gpu_utilization_percent=st.none() | FLOAT)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "holder": st.builds(Holder, host=TEXT, pid=TIME, since=FLOAT, nonce=TEXT, epoch=TIME, beat=TIME),
    "run": TEXT, "run_id": TEXT, "name": TEXT, "note": TEXT, "summary": TEXT, "definition": TEXT, "artifact_path": TEXT,
    "tags": TEXTS, "params": TEXTS, "metrics": st.dictionaries(TEXT, FLOAT, max_size=3),
    "start_time_ms": TIME, "end_time_ms": TIME, "is_new": st.booleans(), "temporary": st.booleans(),
    "plan": st.just(make_plan(lr_warmup_space())), "trial": st.sampled_from(make_plan(lr_warmup_space()).trials),
    "dataset": st.none() | st.builds(Dataset, name=TEXT, digest=TEXT, source=TEXT),
    "steps": st.lists(STEPS, max_size=3).map(tuple), "evals": st.lists(EVALS, max_size=3).map(tuple),
    "usage": st.lists(st.tuples(TIME, USAGE), max_size=3).map(tuple),
    "state": st.sampled_from(["COMPLETE", "DIVERGED", "FAILED", "INTERRUPTED"]),
    "artifacts": st.none() | FOLDERS, "workdir": st.none() | FOLDERS, "folder": FOLDERS,
}  # fmt: skip


def of(kind: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{field.name: FIELDS[field.name] for field in fields(kind) if field.name != "op"})


@given(st.one_of([of(kind) for kind in get_args(Operation)]))
def test_an_operation_comes_back_as_it_was_put(operation: Operation) -> None:
    assert from_line(to_line(operation), ROOT) == operation


def test_numbers_that_json_has_no_word_for_come_back() -> None:
    end = End(run="r", state="DIVERGED", end_time_ms=1, metrics={"objective": math.inf, "final/gap": math.nan})
    read = from_line(to_line(end), ROOT)
    assert isinstance(read, End)
    assert read.metrics["objective"] == math.inf
    assert math.isnan(read.metrics["final/gap"])


def test_each_operation_has_a_name_of_its_own() -> None:
    names = [kind.__dataclass_fields__["op"].default for kind in get_args(Operation)]
    assert len(set(names)) == len(names)
    exported = [thing for thing in vars(operations).values() if isinstance(thing, type) and hasattr(thing, "op")]
    assert set(exported) == set(get_args(Operation))


@pytest.mark.parametrize(
    ("field", "value"),
    [("workdir", "/tmp"), ("workdir", "work/../../x"), ("artifacts", "mlflow.db"), ("workdir", "work"),
     ("state", "DONE"), ("end_time_ms", "soon"), ("metrics", {"loss": "low"})],
)  # fmt: skip
def test_what_is_no_operation_is_refused_where_it_is_made(field: str, value: object) -> None:
    whole: dict[str, Any] = {"run": "r", "state": "COMPLETE", "end_time_ms": 1}
    with pytest.raises(ValidationError, match=field):
        End(**whole | {field: value})


def test_an_operation_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        Publish(run="r", folder="reports/q", artifact_path=None).folder = "work/q"  # type: ignore[misc]


def line(**content: object) -> bytes:
    return json.dumps(content).encode()


def test_lines_of_the_version_before_are_read_as_what_they_were() -> None:
    """It named folders from the root of the file system, and none by an empty text."""
    work = f"{ROOT}/work/question/runs/abc"
    end = {"op": "end", "run": "r", "state": "COMPLETE", "end_time_ms": 1, "metrics": {}, "tags": {}}
    same = End(run="r", state="COMPLETE", end_time_ms=1)
    assert from_line(line(**end, artifacts=f"{work}/artifacts", workdir=work), ROOT) == replace(
        same, artifacts="work/question/runs/abc/artifacts", workdir="work/question/runs/abc"
    )
    assert from_line(line(**end, artifacts="", workdir=""), ROOT) == same
    assert from_line(line(op="remove_run", run_id="i", workdir=""), ROOT) == RemoveRun(run_id="i")
    start = {"op": "start", "run": "r", "name": "n", "tags": {}, "params": {"a": "1"}, "start_time_ms": 5}
    data = {"name": "text", "digest": "d", "source": "text.txt"}
    assert from_line(line(**start, summary="s", dataset=data), ROOT) == Start(
        run="r", name="n", tags={}, params={"a": "1"}, start_time_ms=5, summary="s", dataset=Dataset(**data)
    )
    step = {"step": 1, "tokens": 8, "loss": 2.5, "learning_rate": 0.1, "grad_norm": math.nan,
            "tokens_per_second": 9.0, "skipped": False, "timestamp_ms": 3}  # fmt: skip
    read = from_line(line(op="records", run="r", steps=[step]), ROOT)
    assert isinstance(read, Records)
    assert (read.steps[0].loss, read.evals, read.usage) == (2.5, (), ())


def test_a_plan_whose_command_was_kept_as_text_is_read_as_what_it_was() -> None:
    plan = make_plan(lr_warmup_space())
    content = plan.to_json() | {"command": str(plan.command)}
    opened = {"op": "open", "run": "s", "name": "summary", "note": "", "tags": {}, "plan": content}
    assert from_line(line(**opened), ROOT) == Open(run="s", name="summary", note="", tags={}, plan=plan)
    trial = plan.trials[1]
    asked = line(op="ask", summary="s", trial=trial.to_json())
    assert from_line(asked, ROOT) == Ask(summary="s", trial=trial)


def test_a_folder_of_a_store_that_has_moved_since_is_refused_in_one_line() -> None:
    """Only earlier versions wrote where the store was."""
    read = from_line(line(op="publish", run="r", folder="/another/work/q/corpus", artifact_path="corpus"), ROOT)
    assert read == Unreadable("operation 'publish': folder: '/another/work/q/corpus' is no folder of this store")
    assert from_line(line(op="pickle", run="r"), ROOT) == Unreadable("operation 'pickle' is none of this version")
