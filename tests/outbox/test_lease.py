"""Of two drivers of a sweep on a server one drives, by no clock but one's own; a real server, a real PostgreSQL."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from stores import SWEEP_NAMES

from sweeps.outbox import lock, tenure
from sweeps.outbox.errors import LeaseLostError
from sweeps.outbox.lock import LockHeldError, sole_driver
from sweeps.outbox.tenure import Tenure
from sweeps.store import Store, open_store

LEASE = 3.0  # seconds, in place of a minute


@pytest.fixture
def served(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    if any_store.is_local:
        pytest.skip("of a folder the file lock decides")
    for module in (lock, tenure):
        monkeypatch.setattr(module, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(tenure, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(lock, "QUIET_SECONDS", 1.0)
    return any_store


def elsewhere(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same server, seen from a machine that shares no file with others."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    return open_store(store.tracking_uri, create=True)


def held(store: Store, name: str, **how: Any) -> tuple[Any, Tenure]:
    context = sole_driver(store, name, begins=True, **how)
    holder = context.__enter__()
    return context, Tenure(store, name, holder, store.writer)


def test_an_epoch_is_won_once_however_many_race_for_it(served: Store) -> None:
    name = next(SWEEP_NAMES)
    served.writer().experiment(name, None)

    def race(nonce: str) -> str | None:
        leases = open_store(served.tracking_uri).experiments.leases(name)
        assert leases is not None
        return nonce if leases.claim(1, nonce) else None

    with ThreadPoolExecutor(6) as pool:
        won = [nonce for nonce in pool.map(race, (f"racer{number}" for number in range(6))) if nonce]
    leases = served.experiments.leases(name)
    assert leases is not None
    assert [leases.winner(1)] == won
    assert leases.claim(1, won[0])  # whose answer was lost asks again
    assert leases.winner(2) is None


def test_who_gives_signs_of_life_is_not_followed_and_who_gives_none_is(
    served: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(SWEEP_NAMES)
    context, first = held(served, name)
    first.beat()
    other = elsewhere(served, tmp_path / "other", monkeypatch)
    with pytest.raises(LockHeldError, match="is being run by process"), sole_driver(other, name):
        pass
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            first.beat()

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(LockHeldError, match="is being run by process"):
        held(other, name)
    stop.set()
    beating.join()
    said: list[str] = []
    started = time.monotonic()
    context_of_other, second = held(other, name, say=said.append)  # it has fallen silent
    assert time.monotonic() - started > LEASE
    assert ["giving it" in line for line in said] == [True]
    assert second.epoch == first.epoch + 1
    second.beat()
    with pytest.raises(LeaseLostError):
        first.beat()
    context_of_other.__exit__(None, None, None)
    context.__exit__(None, None, None)


def test_who_was_asleep_goes_on_unless_another_has_followed(
    served: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(SWEEP_NAMES)
    context, first = held(served, name)
    first.beat()
    time.sleep(LEASE + 0.5)
    first.beat()
    assert first.epoch == 2
    context_of_other, second = held(elsewhere(served, tmp_path / "other", monkeypatch), name, takes_over=True)
    assert second.epoch == 3
    time.sleep(LEASE + 0.5)
    with pytest.raises(LeaseLostError):
        first.beat()
    for one in (context, context_of_other):
        one.__exit__(None, None, None)


def test_who_has_released_a_sweep_is_followed_at_once_and_so_is_a_folders_own_dead_driver(
    served: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(SWEEP_NAMES)
    context, first = held(served, name)
    first.beat()
    context.__exit__(None, None, None)  # as if it had been killed: nothing is released
    started = time.monotonic()
    context, second = held(served, name)
    assert (second.epoch, time.monotonic() - started < LEASE) == (2, True)
    second.release()  # a command that had nothing to send gave no sign of life before
    context.__exit__(None, None, None)
    context, third = held(elsewhere(served, tmp_path / "other", monkeypatch), name)
    assert (third.epoch, time.monotonic() - started < 2 * LEASE) == (3, True)
    context.__exit__(None, None, None)


TAGS = ("[]", "null", '{"host": "x\\u001b[31m", "pid": 1, "since": 1e300}', '{"epoch": -1}', "x" * 99)


@pytest.mark.parametrize("tag", TAGS)
def test_what_a_tag_says_of_a_holder_is_bounded_and_clean(served: Store, tag: str) -> None:
    name, said = next(SWEEP_NAMES), list[str]()
    experiment = served.writer().experiment(name, None)
    served.writer()._client.set_experiment_tag(experiment, "sweep.holder", tag)
    context, mine = held(served, name, say=said.append)
    assert mine.epoch >= 1
    assert all(line.isprintable() for line in said)
    assert bool(said) == ("host" in tag)
    context.__exit__(None, None, None)
