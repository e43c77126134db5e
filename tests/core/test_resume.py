"""Law 2: stopped anywhere and started again, a run comes to the bits of one never stopped."""

import json
import math
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from runs import Listener, StopAt, allow_fp16, bits

from tinylm_core import pending
from tinylm_core import train as train_module
from tinylm_core.checkpoint import load_states, save_state
from tinylm_core.config import RunConfig
from tinylm_core.train import run

REPOSITORY = Path(__file__).parents[2]
Tiny = Callable[..., RunConfig]


VARIANTS: dict[str, dict[str, Any]] = {
    "fp64": {},
    "bf16": {"precision": "bf16", "max_grad_norm": None},
    "fp16": {"precision": "fp16"},
    "postnorm": {"precision": "fp32", "norm_first": False, "tie_embeddings": True, "schedule": "wsd", "stride": 3},
}


@pytest.fixture(params=[*list(VARIANTS)[:3], pytest.param("postnorm", marks=pytest.mark.slow)])
def resumed_config(request: pytest.FixtureRequest, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    allow_fp16(monkeypatch, first_scale=2.0**20)  # so high that the first three of six steps are skipped
    return tiny(**VARIANTS[request.param], dropout=0.2, num_evals=2, eval_tokens=200, train_tokens=64 * 6)


@pytest.mark.usefixtures("reported_each_step")
def test_resumed_run_equals_uninterrupted_run_wherever_it_stopped(resumed_config: RunConfig, tmp_path: Path) -> None:
    never = StopAt(math.inf)
    uninterrupted = run(resumed_config, threads=1, should_stop=never)
    assert never.asked >= 6 + 3 * 4
    if resumed_config.precision == "fp16":
        assert {record.skipped for record in uninterrupted.steps} == {False, True}
    for n in range(never.asked):
        workdir, before, after = tmp_path / str(n), Listener(), Listener()
        stopped = before.run(resumed_config, workdir=workdir, should_stop=StopAt(n))
        assert stopped.state == "INTERRUPTED"
        assert stopped.weights_sha256 is None
        resumed = after.run(resumed_config, workdir=workdir)
        assert bits(resumed) == bits(uninterrupted)
        # The whole history is told again, what was told before with the times of then.
        assert repr(after.steps) == repr(resumed.steps)
        assert after.evals == resumed.evals
        assert repr(after.steps[: len(before.steps)]) == repr(before.steps)  # a skipped step's norm is NaN
        assert after.evals[: len(before.evals)] == before.evals


@pytest.mark.usefixtures("reported_each_step")
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    resumed_config: RunConfig, tmp_path: Path
) -> None:
    starts = 0
    while True:
        metrics = run(resumed_config, threads=1, workdir=tmp_path, should_stop=StopAt(4))
        starts += 1
        if metrics.state == "COMPLETE":
            break
        assert starts < 20
    assert starts > 3
    assert bits(metrics) == bits(run(resumed_config, threads=1))


def test_a_finished_run_started_again_tells_its_history_and_computes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    first, second = Listener(), Listener()
    metrics = first.run(tiny(), workdir=tmp_path)
    assert second.run(tiny(), workdir=tmp_path) == metrics
    assert (second.steps, second.evals) == (first.steps, first.evals)


def train_until_killed(config: str, workdir: Path, started: Connection) -> None:
    """In a process of its own: a checkpoint at every step."""
    pending.FLUSH_STEPS, train_module.MAX_CHECKPOINT_SHARE = 1, math.inf
    started.send("started")
    run(RunConfig.model_validate_json(config), workdir=workdir, threads=1, checkpoint_seconds=0)


@pytest.mark.parametrize("variant", ["fp64", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_killed_run_equals_uninterrupted_run(tiny: Tiny, tmp_path: Path, variant: str, seed: int) -> None:
    config = tiny(**VARIANTS[variant], dropout=0.2, train_tokens=64 * 48)
    uninterrupted = run(config, threads=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tinylm_core.train"])
    delays = random.Random(seed)
    kills = 0
    longest = 0.4
    while kills < 5:
        ours, theirs = context.Pipe()
        process = context.Process(target=train_until_killed, args=(config.model_dump_json(), tmp_path, theirs))
        process.start()
        theirs.close()
        assert ours.poll(60)
        ours.recv()
        time.sleep(delays.uniform(0, longest))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:  # it was faster than we were
            longest /= 2
            for state in tmp_path.glob("state-*"):
                state.unlink()
    listener = Listener()
    assert bits(listener.run(config, workdir=tmp_path)) == bits(uninterrupted)
    assert [record.step for record in listener.steps] == list(range(1, 49))


def flipped(content: bytes, where: float) -> bytes:
    position = int(where * (len(content) - 1))
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "length flipped": lambda content: flipped(content, 0.0),
    "header flipped": lambda content: flipped(content, 0.01),
    "weights flipped": lambda content: flipped(content, 0.5),
    "last byte flipped": lambda content: flipped(content, 1.0),
}


def states(workdir: Path) -> list[Path]:
    return sorted(workdir.glob("state-*.safetensors"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("reported_each_step")
def test_a_damaged_state_is_noticed_and_the_one_before_or_the_start_serves(
    damage: str, tiny: Tiny, tmp_path: Path
) -> None:
    uninterrupted = run(tiny(), threads=1)
    run(tiny(), threads=1, workdir=tmp_path, checkpoint_seconds=0, should_stop=StopAt(25))
    newest, before = next(load_states(tmp_path), None), states(tmp_path)
    assert newest is not None
    step = int(newest[1]["step"])
    assert [int(path.name.split("-")[1]) for path in before] == [step - 1, step]
    for number_damaged, first_told in [(1, step - 1), (2, 1)]:
        workdir = tmp_path / str(number_damaged)
        workdir.mkdir()
        for i, path in enumerate(reversed(before)):
            content = path.read_bytes()
            (workdir / path.name).write_bytes(DAMAGES[damage](content) if i < number_damaged else content)
        listener = Listener()
        assert bits(listener.run(tiny(), workdir=workdir)) == bits(uninterrupted)
        assert listener.batches[0] == first_told


@pytest.mark.usefixtures("reported_each_step")
def test_what_is_computed_after_damage_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    """Or a run that is stopped often would begin at the start for ever."""
    run(tiny(), threads=1, workdir=tmp_path, checkpoint_seconds=0, should_stop=StopAt(25))
    for path in states(tmp_path):
        path.write_bytes(b"")
    run(tiny(), threads=1, workdir=tmp_path, checkpoint_seconds=0, should_stop=StopAt(18))
    kept = next(load_states(tmp_path), None)
    assert kept is not None
    assert int(kept[1]["step"]) > 0
    assert len(states(tmp_path)) <= 2
    assert bits(run(tiny(), threads=1, workdir=tmp_path)) == bits(run(tiny(), threads=1))


@pytest.mark.usefixtures("reported_each_step")
def test_under_other_conditions_a_run_starts_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(), threads=1, workdir=tmp_path, checkpoint_seconds=0, should_stop=StopAt(25))
    saved = next(load_states(tmp_path), None)
    assert saved is not None
    tensors, metadata = saved
    conditions = json.loads(metadata["conditions"])
    uninterrupted = bits(run(tiny(), threads=1))
    assert conditions["machine.threads"] == "1"
    for name in conditions:
        workdir, listener = tmp_path / name, Listener()
        other = json.dumps(conditions | {name: "another"}, sort_keys=True)
        save_state(workdir, int(metadata["step"]), tensors, metadata | {"conditions": other})
        stopped = listener.run(tiny(), workdir=workdir, checkpoint_seconds=0, should_stop=StopAt(18))
        assert listener.batches[0] == 1
        # What is computed under these conditions is gone on from, the abandoned state notwithstanding.
        again = Listener()
        assert bits(again.run(tiny(), workdir=workdir)) == uninterrupted
        assert again.batches[0] == len(stopped.steps) > 0


@pytest.mark.usefixtures("reported_each_step")
def test_another_number_of_threads_starts_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(train_tokens=64 * 3, eval_tokens=64)
    stopped = run(config, threads=1, workdir=tmp_path, should_stop=StopAt(6))
    assert len(stopped.steps) > 1
    batches: list[int] = []
    metrics = run(config, threads=2, workdir=tmp_path, on_steps=lambda records: batches.append(len(records)))
    assert batches == [1, 1, 1]
    assert bits(metrics) == bits(run(config, threads=2))


def test_the_state_of_another_config_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny(), threads=1, workdir=tmp_path, should_stop=StopAt(10))
    with pytest.raises(ValueError, match=r"^workdir=.*another run.*empty folder$"):
        run(tiny(learning_rate=0.5), threads=1, workdir=tmp_path)
    assert run(tiny(), threads=1, workdir=tmp_path).state == "COMPLETE"


def test_without_a_workdir_a_stopped_run_leaves_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tiny(), threads=1, should_stop=lambda: True).state == "INTERRUPTED"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("reported_each_step")
def test_checkpoints_are_kept_at_the_interval_that_was_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[int] = []
    for seconds in (0.0, 1e9):
        workdir = tmp_path / str(seconds)
        run(tiny(), threads=1, workdir=workdir, checkpoint_seconds=seconds,
            on_steps=lambda _, workdir=workdir: seen.append(len(states(workdir))))  # fmt: skip
    assert max(seen[: len(seen) // 2]) == 2
    assert max(seen[len(seen) // 2 :]) == 0
