"""Operations that were coalesced on their way leave what they would have left one by one."""

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_plan

from sweeps.outbox.operations import End, Open, Records, Start, coalesced
from sweeps.outbox.sender import Sender
from sweeps.store import open_store, schema
from tinylm_core.records import EvalRecord, StepRecord, UsageRecord

NOW = 1_700_000_000_000


def step(number: int) -> StepRecord:
    return StepRecord(number, 8 * number, 1 / number, 0.1, 1.0, 100.0, False, NOW + number)


def evaluation(number: int) -> EvalRecord:
    return EvalRecord(number, 8 * number, 2.0, 0.1, 1.9, 0.1, NOW + number)


def usage(number: int) -> tuple[int, UsageRecord]:
    return number, UsageRecord(NOW + number, 99.0, 100.0 + number, 1.0)


TOLD = st.one_of(
    st.builds(lambda start, count: {"steps": tuple(step(start + k) for k in range(count))}, st.integers(1, 9),
              st.integers(1, 9)),
    st.builds(lambda number: {"evals": (evaluation(number),)}, st.integers(0, 9)),
    st.builds(lambda number: {"usage": (usage(number),)}, st.integers(0, 9)),
)  # fmt: skip


def test_what_was_coalesced_is_what_it_was_made_of(empty_store: Path, tmp_path: Path) -> None:
    store = open_store(Path(shutil.copytree(empty_store, tmp_path / "store")))
    sender = Sender(store, "question")
    plan = make_plan({})
    sender(Open(run="s", name="summary", note="", tags={}, plan=plan), False)
    made: list[str] = []

    def histories(operations: list[Records]) -> dict[str, list[tuple[int, int, float]]]:
        made.append(f"run{len(made)}")
        sender(Start(run=made[-1], name="one", tags={schema.ROLE: "run"}, params={}, start_time_ms=NOW), False)
        for operation in operations:
            sender(replace(operation, run=made[-1]), False)
        (run_id,) = [row.run_id for row in store.runs("question") if row.tags[schema.CREATION] == made[-1]]
        client = store.writer()._client
        names = [*schema.HISTORY_METRICS, *schema.USAGE_METRICS]
        return {
            name: [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, name)]
            for name in names
        }

    @given(st.lists(TOLD, min_size=1, max_size=6))
    @settings(max_examples=10)
    def check(told: list[dict[str, Any]]) -> None:
        operations = [Records(run="x", **one) for one in told]
        whole: Any = functools.reduce(lambda one, other: coalesced(one, other), operations)
        assert histories([whole]) == histories(operations)

    check()


def test_only_records_of_one_run_are_coalesced() -> None:
    one = Records(run="a", steps=(step(1),))
    assert coalesced(one, Records(run="a", steps=(step(2),))) == Records(run="a", steps=(step(1), step(2)))
    assert coalesced(one, Records(run="b", steps=(step(2),))) is None
    assert coalesced(one, End(run="a", state="COMPLETE", end_time_ms=0)) is None
