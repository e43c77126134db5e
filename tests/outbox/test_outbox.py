"""What the outbox is given is durable first, arrives in order, and is lost by no failure and no kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from launcher import wait_until

from sweeps.outbox import errors, outbox
from sweeps.outbox.disk import DiskSpace
from sweeps.outbox.errors import RefusedError, TrackerAwayError
from sweeps.outbox.journal import Journal, from_line, to_line
from sweeps.outbox.operations import MarkDead, Operation, Records, Unreadable
from sweeps.outbox.outbox import Outbox
from tinylm_core.records import StepRecord

# A driver: it puts operations and a slow sender writes them to a database, each effect once.
DRIVER = """
import sqlite3, sys, time
from pathlib import Path
from sweeps.outbox.disk import DiskSpace
from sweeps.outbox.journal import Journal
from sweeps.outbox.operations import MarkDead
from sweeps.outbox.outbox import Outbox

folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def send(operation, replayed):
    with sqlite3.connect(folder / "tracker.db", timeout=20) as tracker:
        tracker.execute("INSERT OR IGNORE INTO arrived VALUES (?)", (operation.end_time_ms,))
        tracker.execute("INSERT INTO sent VALUES (?, ?)", (operation.end_time_ms, replayed))
    time.sleep(0.002)
outbox = Outbox(Journal(folder / "journal", folder), send, DiskSpace(folder, 600))
for number in range(first, last):
    outbox.put(MarkDead(run_id="r", end_time_ms=number), sync=number % 10 == 0)
    with (folder / "put").open("a") as note:
        print(number, file=note)
    time.sleep(0.001)
assert outbox.close(60)
"""


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.01)


class Tracker:
    """A sender that keeps what arrives and refuses what it is told to."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.replayed: list[bool] = []
        self.refusals: Iterator[bool] = iter(())

    def __call__(self, operation: Operation | Unreadable, replayed: bool) -> None:
        if next(self.refusals, False):
            raise ConnectionError("away")
        self.arrived.append(number_of(operation))
        self.replayed.append(replayed)


def numbered(number: int) -> MarkDead:
    """An operation that is known by a number."""
    return MarkDead(run_id="r", end_time_ms=number)


def number_of(operation: Operation | Unreadable) -> int:
    assert isinstance(operation, MarkDead)
    return operation.end_time_ms


def open_outbox(path: Path, send: Callable[[Operation | Unreadable, bool], object]) -> Outbox:
    return Outbox(Journal(path, path.parent), lambda *call: send(*call) and None, DiskSpace(path.parent, 600))


def test_a_trackers_trouble_is_the_networks_word_and_not_the_libraries_around_it() -> None:
    def call(url: str) -> None:
        try:
            requests.get(url, timeout=5)
        except requests.RequestException as error:
            raise RuntimeError(f"API request to {url} failed with exception {error}") from error

    with pytest.raises(RuntimeError) as error:
        call("http://127.0.0.1:9/api/2.0/mlflow")
    assert errors.reason(error.value) == "http://127.0.0.1:9: Connection refused"
    assert errors.reason(ValueError("what\nit says")) == "ValueError: what it says"
    handled = ValueError("503")
    handled.__context__ = FileNotFoundError(2, "No such file or directory")  # of something else, on the way
    assert errors.reason(handled) == "ValueError: 503"
    assert errors.reason(PermissionError(13, "Permission denied")) == "Permission denied"


def journal_of(num_operations: int) -> bytes:
    return b"".join(to_line(numbered(number), number + 1) + b"\n" for number in range(num_operations))


def put_all(box: Outbox, numbers: range) -> None:
    for number in numbers:
        box.put(numbered(number))


def journal_lines(path: Path) -> list[Operation | Unreadable | None]:
    return [from_line(line, path.parent, number) for number, line in enumerate(path.read_bytes().splitlines(), 1)]


def test_operations_arrive_once_and_in_order(tmp_path: Path) -> None:
    tracker = Tracker()
    box = open_outbox(tmp_path / "journal", tracker)
    put_all(box, range(500))
    assert box.drain(10)
    put_all(box, range(500, 600))
    assert box.close(10)
    assert tracker.arrived == list(range(600))
    assert not any(tracker.replayed)
    assert (tmp_path / "journal").read_bytes() == b""


def test_an_operation_is_in_the_journal_before_it_is_sent(tmp_path: Path) -> None:
    missing = []

    def send(operation: Operation | Unreadable, _: bool) -> None:
        if operation not in journal_lines(tmp_path / "journal"):
            missing.append(operation)

    box = open_outbox(tmp_path / "journal", send)
    put_all(box, range(200))
    assert box.close(10)
    assert not missing


def test_a_synced_operation_is_on_the_disk_when_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), synced.append((tmp_path / "journal").read_bytes()))[0])
    end = threading.Event()
    box = open_outbox(tmp_path / "journal", lambda *_: end.wait(60))
    box.put(numbered(0))
    before = len(synced)
    box.put(numbered(1), sync=True)
    assert len(synced) == before + 1
    last = [from_line(line, tmp_path, number) for number, line in enumerate(synced[-1].splitlines(), 1)]
    assert last == [numbered(0), numbered(1)]
    end.set()
    assert box.close(10)


@pytest.mark.parametrize("refusals", [[True] * 5, [False, True, True, False, False, True], [True, False] * 30])
def test_a_refused_operation_is_sent_until_it_arrives_and_none_overtakes_it(
    tmp_path: Path, refusals: list[bool]
) -> None:
    tracker = Tracker()
    tracker.refusals = iter(refusals)
    box = open_outbox(tmp_path / "journal", tracker)
    put_all(box, range(60))
    assert box.close(20)
    assert tracker.arrived == list(range(60))
    assert box.trouble is None


def test_while_the_tracker_is_away_nothing_waits_for_it_and_trouble_says_why(tmp_path: Path) -> None:
    tracker, away = Tracker(), threading.Event()
    away.set()
    tracker.refusals = iter(away.is_set, None)
    box = open_outbox(tmp_path / "journal", tracker)
    put_all(box, range(100))
    assert not box.drain(0.1)
    assert box.trouble == "ConnectionError: away"
    assert len(journal_lines(tmp_path / "journal")) == 100
    away.clear()
    assert box.close(10)
    assert tracker.arrived == list(range(100))


def records(run: str, step: int) -> Records:
    return Records(run=run, steps=(StepRecord(step, step, 1.0, 0.1, timestamp_ms=step),))


def told(operation: Operation | Unreadable) -> list[tuple[str, int]]:
    assert isinstance(operation, Records)
    return [(operation.run, record.step) for record in operation.steps]


def test_what_has_fallen_behind_goes_by_fewer_calls_in_the_same_order_and_again_where_one_failed(
    tmp_path: Path,
) -> None:
    calls: list[list[tuple[str, int]]] = []
    may_answer = threading.Event()

    def send(operation: Operation | Unreadable, _replayed: bool) -> None:
        may_answer.wait(60)
        calls.append(told(operation))
        if len(calls) == 2:
            raise ConnectionError("the answer was lost")

    box = open_outbox(tmp_path / "journal", send)
    put = [("a", 0), ("b", 1), *(("a", number) for number in range(2, 51)), ("b", 101), ("a", 103)]
    for run, step in put:
        box.put(records(run, step))
    may_answer.set()
    assert box.close(60)
    assert calls[1] == calls[2]  # once more, as a whole
    del calls[1]
    assert [one for call in calls for one in call] == put
    assert {len(call) for call in calls} == {1, outbox.MOST_COALESCED, 49 % outbox.MOST_COALESCED}
    assert journal_lines(tmp_path / "journal") == []


def test_what_an_earlier_process_left_is_not_coalesced_with_what_is_new(tmp_path: Path) -> None:
    left = Journal(tmp_path / "journal", tmp_path)
    for number in (0, 2):
        left.append(records("a", number), sync=True)
    calls: list[tuple[list[tuple[str, int]], bool]] = []
    may_answer = threading.Event()

    def send(operation: Operation | Unreadable, replayed: bool) -> None:
        may_answer.wait(60)
        calls.append((told(operation), replayed))

    box = open_outbox(tmp_path / "journal", send)
    box.put(records("a", 4))
    may_answer.set()
    assert box.close(60)
    assert calls == [([("a", 0), ("a", 2)], True), ([("a", 4)], False)]


def test_what_is_refused_for_good_stops_the_sending_and_stays_in_the_journal(tmp_path: Path) -> None:
    arrived = []

    def send(operation: Operation | Unreadable, _replayed: bool) -> None:
        if operation == numbered(2):
            raise RefusedError("you may not")
        arrived.append(number_of(operation))

    box = open_outbox(tmp_path / "journal", send)
    put_all(box, range(5))
    with pytest.raises(RefusedError, match="you may not"):
        box.drain(60)
    assert box.is_stuck(600, idle=False)
    assert (box.refusal is not None, box.trouble) == (True, "you may not")
    assert box.close(5) is False
    assert arrived == [0, 1]
    assert journal_lines(tmp_path / "journal")[-3:] == [numbered(2), numbered(3), numbered(4)]


def test_a_call_that_takes_long_is_a_tracker_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SLOW_SECONDS", 0.05)
    answers = threading.Event()
    box = open_outbox(tmp_path / "journal", lambda _operation, _replayed: answers.wait(60))
    assert box.is_stuck(0, idle=True) is False
    put_all(box, range(1))
    wait_until(lambda: box.trouble)
    assert str(box.trouble).startswith("no answer for")
    assert box.is_stuck(600, idle=True)
    with pytest.raises(TrackerAwayError):
        box.is_stuck(0.01, idle=True)
    answers.set()
    assert box.close(60)
    assert box.trouble is None


def test_what_has_not_arrived_is_sent_by_the_next_start_before_what_is_new(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.refusals = iter(lambda: len(tracker.arrived) >= 3, None)
    box = open_outbox(tmp_path / "journal", tracker)
    put_all(box, range(10))
    wait_until(lambda: box.trouble, 10)
    assert not box.close(0)
    assert tracker.arrived == [0, 1, 2]

    again = Tracker()
    box = open_outbox(tmp_path / "journal", again)
    put_all(box, range(10, 12))
    assert box.close(10)
    assert [number for number in again.arrived if number >= 3] == list(range(3, 12))
    assert again.arrived == sorted(again.arrived)
    assert again.replayed == [number < 10 for number in again.arrived]


@pytest.mark.parametrize("torn", [to_line(numbered(3), 4)[:20], b"{", to_line(numbered(3), 4)[:-1]])
def test_a_line_that_a_crash_cut_off_is_no_operation(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(journal_of(3) + torn)
    away = Tracker()
    away.refusals = repeat(True)
    box = open_outbox(path, away)
    put_all(box, range(3, 5))
    assert not box.close(0)
    # What was written since stands in its place, for the next start to read.
    tracker = Tracker()
    assert open_outbox(path, tracker).close(10)
    assert tracker.arrived == [0, 1, 2, 3, 4]


lines = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
documents = st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner))


@given(st.lists(lines | documents.map(lambda value: json.dumps(value).encode()), max_size=10))
@example([b"[" * 20_000])
@example([b'{"op": ' * 20_000])
@example([b'{"a":1' + b"0" * 5000 + b"}"])
@example([b'{"op": "\xff"}'])
@example([b"NaN", b"\r", b"\x85", b""])
def test_what_stands_behind_garbage_in_a_journal_is_put_aside(
    tmp_path_factory: pytest.TempPathFactory, garbage: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    rest = b"\n".join([*garbage, to_line(numbered(3), 4), b""]) if garbage else b""
    path.write_bytes(journal_of(3) + rest)
    journal = Journal(path, path.parent)
    assert [one for one in journal.left_over if isinstance(one, MarkDead)] == [numbered(n) for n in range(3)]
    aside = path.with_name("journal.damaged")
    assert (journal.damage or "").endswith("is damaged at line 4") == aside.exists() == bool(garbage)
    if garbage:
        assert aside.read_bytes() == rest
    journal.append(numbered(3), sync=True)
    journal.close()
    assert path.read_bytes() == journal_of(4)


@settings(max_examples=400)
@given(place=st.integers(0, len(journal_of(4)) - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_in_a_journal_becomes_another_operation(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path, content = tmp_path_factory.mktemp("journal") / "journal", bytearray(journal_of(4))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    journal = Journal(path, path.parent)
    journal.close()
    whole_lines = bytes(content[:place]).count(b"\n")
    assert journal.left_over == [numbered(number) for number in range(whole_lines)]
    assert journal.damage or whole_lines >= 2  # the last line, and one that it runs into, a crash may have cut off


def start_driver(folder: Path, first: int, last: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(first), str(last)])


@pytest.mark.parametrize("seconds", [0.05, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_killed_driver_loses_nothing_and_nothing_takes_effect_twice(tmp_path: Path, seconds: float) -> None:
    with closing(sqlite3.connect(tmp_path / "tracker.db")) as tracker:
        tracker.executescript("CREATE TABLE arrived (number INTEGER PRIMARY KEY); CREATE TABLE sent (number, replayed)")
    first = 0
    for _ in range(3):
        driver = start_driver(tmp_path, first, 10_000)
        wait_until(lambda first=first: put_so_far(tmp_path) >= first + 5)
        time.sleep(seconds)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        first = put_so_far(tmp_path) + 1
    assert start_driver(tmp_path, first, first + 10).wait(60) == 0
    with closing(sqlite3.connect(tmp_path / "tracker.db")) as tracker:
        arrived = [number for (number,) in tracker.execute("SELECT number FROM arrived ORDER BY number")]
        sent = [number for (number,) in tracker.execute("SELECT number FROM sent ORDER BY rowid")]
    # The kill may have come between a put and the note of it: that number is put again, by the note's reader.
    assert arrived == list(range(first + 10))
    assert len(sent) >= len(arrived)
    firsts = list(dict.fromkeys(sent))
    assert firsts == sorted(firsts)
    assert (tmp_path / "journal").read_bytes() == b""


def put_so_far(folder: Path) -> int:
    try:
        whole, _, _ = (folder / "put").read_text().rpartition("\n")
    except FileNotFoundError:
        return -1
    return int(whole.rpartition("\n")[2] or -1)


def test_a_call_that_comes_back_after_the_end_leaves_the_journal_to_the_next_start(tmp_path: Path) -> None:
    """A database was locked, say, as a notebook's cell was interrupted, and the next cell goes on."""
    comes_back, stays_away = threading.Event(), threading.Event()
    first = open_outbox(tmp_path / "journal", lambda *_: comes_back.wait())
    first.put(numbered(1), sync=True)
    wait_until(lambda: first._call_since)
    assert not first.close(0)
    second = open_outbox(tmp_path / "journal", lambda *_: stays_away.wait())
    second.put(numbered(2), sync=True)
    comes_back.set()
    first._thread.join()
    assert Journal(tmp_path / "journal", tmp_path).left_over == [numbered(1), numbered(2)]
    stays_away.set()
    assert second.close(10)
