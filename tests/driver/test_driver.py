"""The loop of a sweep with real workers, store and outbox: nothing runs twice, nothing is lost, and order rules."""

import errno
import math
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from launcher import wait_until
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps import Choice, Range, Sweep
from sweeps.driver import artifacts, run_folder
from sweeps.driver.execute import NO_LIMITS, Limits, Outcome, execute
from sweeps.outbox.work import locked_work
from sweeps.plan.plan import Plan, PlannedRun, make_plan
from sweeps.search.ask_tell import Setting, TrialSearch
from sweeps.spec.catalog import Experiment
from sweeps.spec.space import Space
from sweeps.store import Store, open_store
from sweeps.workers.local import LocalWorkers
from sweeps.workers.protocol import Ended, Evaluated, Job, Message, NoSpace, Raised, Steps, Workers
from tinylm_core import RunConfig, run
from tinylm_core.machine import conditions, this_machine
from tinylm_core.records import EvalRecord, Metrics

Tiny = Callable[..., RunConfig]


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    return open_store(shutil.copytree(empty_store, tmp_path / "store"))


def plan_of(base: RunConfig, space: Space, **fields: Any) -> Plan:
    sweep = Sweep(base=base, space=space, **fields)
    return make_plan(Experiment("question", "question.py", "Does it?", sweep), this_machine("cpu"))


@dataclass
class Watcher:
    """A view that remembers, and does something of the test's own when it hears something."""

    on_message: Callable[[Message], None] = lambda _: None
    begun: list[PlannedRun] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    num_messages: int = 0

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def started(self, run: PlannedRun) -> None:
        self.begun.append(run)

    def heard(self, message: Message) -> None:
        self.num_messages += 1
        self.on_message(message)

    def ended(self, run: PlannedRun, state: str, _: float | None) -> None:
        self.states[run.name] = state

    def tick(self) -> None:
        return None


class PausedAtOnce(LocalWorkers):
    """Workers that are told to pause as the last of so many jobs begins, however slow their driver is then."""

    def __init__(self, *slots: str, num_jobs: int = 1) -> None:
        super().__init__(slots)
        self._num_left = num_jobs

    def submit(self, job: Job) -> None:
        super().submit(job)
        self._num_left -= 1
        if self._num_left == 0:
            self.pause()


def objective(config: RunConfig) -> float:
    return 2 + (math.log10(config.learning_rate) + 2.5) ** 2 + config.dropout / 10 + config.seed / 100


class Instant:
    """Runs that are done at once, in any order: for what depends on the order alone, hundreds of times."""

    def __init__(self, num_slots: int, seed: int) -> None:
        self._free, self._jobs, self._choose = num_slots, list[Job](), random.Random(seed).randrange

    def has_room(self) -> bool:
        return len(self._jobs) < self._free

    def next_device(self) -> str:
        return "cpu"

    def conditions(self, device: str) -> dict[str, str]:
        return conditions(device, 1)

    def waits_for(self) -> str | None:
        return None

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def receive(self, _: float) -> list[Message]:
        if not self._jobs:
            return []
        job = self._jobs.pop(self._choose(len(self._jobs)))
        config = RunConfig.model_validate_json(job.config)
        loss = objective(config)
        record = EvalRecord(config.num_steps, config.train_tokens, loss, 0.1, loss, 0.1, 1)
        metrics = Metrics("COMPLETE", 10, 100, [], [record], "0" * 64)
        return [Evaluated(job.key, record), Ended(job.key, metrics)]

    def pause(self) -> None:
        return None

    def kill(self) -> None:
        self._jobs.clear()


class Troubled(Instant):
    """Of which a job ends as it is told to, or else is complete."""

    def __init__(self, trouble: Callable[[Job], Message | None]) -> None:
        super().__init__(1, 0)
        self._trouble = trouble

    def receive(self, timeout: float) -> list[Message]:
        if self._jobs and (message := self._trouble(self._jobs[0])):
            self._jobs.pop()
            return [message]
        return super().receive(timeout)


def go(
    plan: Plan,
    store: Store,
    workers: Workers | None = None,
    watcher: Watcher | None = None,
    pause_after: float = math.inf,
    limits: Limits = NO_LIMITS,
) -> tuple[Outcome, Watcher]:
    """One start of the sweep, which pauses after so many messages."""
    watcher = watcher or Watcher()
    with locked_work(store, "question") as outbox:
        outcome = execute(
            plan,
            workers or LocalWorkers(["cpu", "cpu"]),
            store,
            outbox,
            lambda *_: watcher,
            lambda: watcher.num_messages >= pause_after,
            limits=limits,
        )
        outbox.drain(60)
    return outcome, watcher


def kept_runs(store: Store) -> list[Run]:
    client = MlflowClient(store.tracking_uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "question"]
    return list(client.search_runs([experiment.experiment_id], "tags.`sweep.role` = 'run'"))


def steps_of(store: Store, made: Run) -> list[tuple[int, float]]:
    points = MlflowClient(store.tracking_uri).get_metric_history(made.info.run_id, "train/loss")
    return [(point.step, point.value) for point in points]


def kill_worker(store: Store, identity: str) -> None:
    """Kill the process that writes the log of the run."""
    log = store.folder / "work" / "question" / "runs" / identity[:16] / "worker.log"
    for process in psutil.process_iter():
        try:
            found = Path(f"/proc/{process.pid}/fd/1").readlink() == log
        except OSError:
            continue
        if found:
            process.send_signal(signal.SIGKILL)


def settings(store: Store) -> list[dict[str, Any]]:
    return [trial.setting for trial in store.plan("question").trials]


# --- Coverage (law 9)


def test_a_known_result_is_not_made_again_whichever_definition_made_it(tiny: Tiny, store: Store) -> None:
    first = plan_of(tiny(), {"learning_rate": Choice(1e-3, 3e-3)}, seeds=2)
    _, watcher = go(first, store)
    assert len(watcher.begun) == 4
    _, watcher = go(first, store)
    assert watcher.begun == []
    wider = plan_of(tiny(), {"learning_rate": Choice(3e-3, 1e-2), "bias": Choice(True, False)}, seeds=1)
    _, watcher = go(wider, store)
    assert [run.label for run in watcher.begun] == ["lr=3e-3 bias=False", "lr=0.01 bias=True", "lr=0.01 bias=False"]
    identities = [made.data.tags["run.identity"] for made in kept_runs(store)]
    assert len(identities) == len(set(identities)) == 7
    trials = store.trials("question", wider.sweep.definition)
    assert len(trials) == 4
    assert trials["objective"].notna().all()


def test_one_config_is_run_once_however_often_it_is_proposed(tiny: Tiny, store: Store) -> None:
    plan = plan_of(tiny(), {"bias": Choice(True, False)}, search="tpe", num_trials=8, concurrency=6)
    _, watcher = go(plan, store, Instant(1, 0))
    assert len(settings(store)) == 8
    assert len(watcher.begun) == len(kept_runs(store)) == 2
    assert plan_of(tiny(), {"d_ff": Choice(None, 64)}).num_trials == 2
    _, watcher = go(plan_of(tiny(), {"d_ff": Choice(None, 64)}), store, Instant(2, 0))
    assert len(watcher.begun) == 0  # None is 4 * 16, and that has a bias too


def test_the_definition_that_was_run_last_is_the_one_that_is_shown(tiny: Tiny, store: Store) -> None:
    """Also where it was the first, and nothing of it was left to train."""
    first = plan_of(tiny(), {"dropout": Choice(0.0, 0.1)})
    second = plan_of(tiny(weight_decay=0.2), {"dropout": Choice(0.0, 0.1)})
    for plan in (first, second, first):
        go(plan, store, Instant(2, 0))
        assert store.plan("question").definition == plan.sweep.definition
    assert [known.definition for known in store.definitions("question")] == [
        first.sweep.definition,
        second.sweep.definition,
    ]


# --- Order (law 10)

NUM_TRIALS = 16  # Optuna's TPE draws the first 10 at random
SPACE: Space = {"learning_rate": Range(1e-4, 1e-1, log=True), "dropout": Range(0.0, 0.4)}


@pytest.fixture(scope="module")
def expected(tiny: Tiny, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The trials of a sweep whose runs were made one after the other."""
    store = open_store(shutil.copytree(empty_store, tmp_path_factory.mktemp("expected") / "store"))
    go(searching(tiny), store, Instant(1, 0))
    return settings(store)


def searching(tiny: Tiny, num_trials: int = NUM_TRIALS) -> Plan:
    return plan_of(tiny(), SPACE, search="tpe", num_trials=num_trials, concurrency=3, seeds=2)


def test_before_a_trial_exactly_those_are_told_that_its_concurrency_allows(
    tiny: Tiny, expected: list[dict[str, Any]]
) -> None:
    """The fold of law 10, written out: trials 0 … k - 3 before trial k, in order, each with its mean over the seeds."""
    plan = searching(tiny)
    search, asked = TrialSearch(plan.sweep), list[Setting]()
    for k in range(NUM_TRIALS):
        if k >= 3:
            told = [tiny(seed=seed).replace(asked[k - 3]) for seed in (0, 1)]
            search.tell(k - 3, sum(map(objective, told)) / 2)
        asked.append(search.ask())
    assert asked == expected


@pytest.mark.parametrize(("num_slots", "seed"), [(2, 0), pytest.param(4, 1, marks=pytest.mark.slow), (100, 2)])
def test_the_order_in_which_runs_end_changes_no_trial(
    tiny: Tiny, store: Store, expected: list[dict[str, Any]], num_slots: int, seed: int
) -> None:
    go(searching(tiny), store, Instant(num_slots, seed))
    assert settings(store) == expected


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_pauses_change_no_trial(tiny: Tiny, store: Store, expected: list[dict[str, Any]], every: int) -> None:
    for attempt in range(60):
        outcome, _ = go(searching(tiny), store, Instant(3, attempt), pause_after=every)
        if not outcome.paused:
            break
    assert settings(store) == expected
    assert (
        len({made.data.tags["run.identity"] for made in kept_runs(store) if made.info.status == "FINISHED"})
        == 2 * NUM_TRIALS
    )


def test_pauses_change_no_trial_of_a_constrained_search(tiny: Tiny, store: Store) -> None:
    """What was refused is in the study of the one that never stopped, and not in the others."""
    fields: dict[str, Any] = {"search": "tpe", "num_trials": NUM_TRIALS, "concurrency": 3}
    plan = plan_of(tiny(), SPACE, allowed=lambda c: c.learning_rate * c.dropout <= 1e-3, **fields)
    search, asked = TrialSearch(plan.sweep), list[Setting]()
    for k in range(NUM_TRIALS):
        if k >= 3:
            search.tell(k - 3, objective(tiny().replace(asked[k - 3])))
        asked.append(search.ask())
    while go(plan, store, Instant(3, len(asked)), pause_after=9)[0].paused:
        pass
    assert settings(store) == asked
    assert all(plan.sweep.allows(setting) for setting in asked)


def test_more_trials_go_on_from_the_first_ones(tiny: Tiny, store: Store, expected: list[dict[str, Any]]) -> None:
    go(searching(tiny, 12), store, Instant(2, 0))
    _, watcher = go(searching(tiny), store, Instant(2, 1))
    assert settings(store) == expected
    assert {run.trial for run in watcher.begun} == set(range(12, NUM_TRIALS))


# --- Failures (law 11)


@pytest.fixture
def two_texts(text_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    return text_file, other


def test_a_run_that_raises_fails_the_others_go_on_and_the_next_start_makes_a_new_one(
    tiny: Tiny, store: Store, two_texts: tuple[Path, Path]
) -> None:
    good, other = map(str, two_texts)
    plan = plan_of(tiny(), {"data": Choice(good, other), "dropout": Choice(0.0, 0.1)})
    text = two_texts[1].read_text()
    watcher = Watcher(lambda _: two_texts[1].unlink(missing_ok=True))
    outcome, _ = go(plan, store, LocalWorkers(["cpu"]), watcher)
    assert set(outcome.failed) == {run.name for run in watcher.begun if run.config.data == other}
    assert all("ValueError" in error for error in outcome.failed.values())
    assert not outcome.paused
    failed = [made for made in kept_runs(store) if made.data.tags["trial.state"] == "FAILED"]
    assert len(failed) == 2
    assert {made.info.status for made in failed} == {"FAILED"}
    client = MlflowClient(store.tracking_uri)
    path = client.download_artifacts(failed[0].info.run_id, "traceback.txt")
    assert "load_corpus" in Path(path).read_text()
    assert sum(made.info.status == "FINISHED" for made in kept_runs(store)) == 2

    two_texts[1].write_text(text)
    outcome, watcher = go(plan, store)
    assert outcome.failed == {}
    assert len(watcher.begun) == 2
    runs = kept_runs(store)
    assert len(runs) == 6
    assert {made.data.tags.get("sweep.retry_of") for made in runs} == {None, *(made.info.run_id for made in failed)}
    assert len({made.data.tags["run.identity"] for made in runs if made.info.status == "FINISHED"}) == 4


def test_a_run_that_diverges_is_a_result_with_the_worst_value(tiny: Tiny, store: Store) -> None:
    plan = plan_of(tiny(), {"learning_rate": Choice(1e-3, 1e300)})
    outcome, watcher = go(plan, store)
    assert outcome.failed == {}
    assert sorted(watcher.states.values()) == ["COMPLETE", "DIVERGED"]
    (diverged,) = [made for made in kept_runs(store) if made.data.tags["trial.state"] == "DIVERGED"]
    assert diverged.info.status == "FINISHED"
    assert diverged.data.metrics["objective"] == math.log(int(diverged.data.tags["model.vocab_size"]))
    assert "weights.sha256" not in diverged.data.tags
    assert all(math.isfinite(value) for _, value in steps_of(store, diverged))
    assert len(steps_of(store, diverged)) == int(diverged.data.tags["trial.diverged_at"]) - 1
    _, watcher = go(plan, store)
    assert watcher.begun == []


# --- Killed workers


@pytest.mark.parametrize(("num_kills", "state"), [(2, "COMPLETE"), pytest.param(3, "FAILED", marks=pytest.mark.slow)])
def test_a_killed_worker_goes_on_twice_to_the_same_bits(tiny: Tiny, store: Store, num_kills: int, state: str) -> None:
    config = tiny(train_tokens=64 * 3 * 100)
    plan = plan_of(config, {"dropout": Choice(0.1)})
    identity = plan.known_trials()[0].runs[0].identity
    kills: list[int] = []

    def kill(message: Message) -> None:
        if isinstance(message, Steps) and len(kills) < min(num_kills, len(watcher.begun)):
            kills.append(message.records[-1].step)
            kill_worker(store, identity)

    watcher = Watcher(kill)
    outcome, _ = go(plan, store, watcher=watcher)
    assert len(kills) == num_kills
    (made,) = kept_runs(store)
    assert made.data.tags["trial.state"] == state
    assert len(watcher.begun) == min(num_kills, 2) + 1
    if state == "FAILED":
        assert list(outcome.failed.values()) == ["the worker was killed by SIGKILL"]
        return
    alone = run(config, device="cpu", threads=1)
    assert steps_of(store, made) == [(record.step, record.loss) for record in alone.steps]
    assert made.data.tags["weights.sha256"] == alone.weights_sha256


def test_a_driver_that_died_while_it_gathered_the_files_goes_on(tiny: Tiny, store: Store) -> None:
    config = tiny(train_tokens=64 * 3 * 40)
    plan = plan_of(config, {})
    outcome, _ = go(plan, store, PausedAtOnce("cpu"), pause_after=1)
    assert outcome.paused
    (workdir,) = (store.folder / "work" / "question" / "runs").iterdir()
    for name in ("checkpoint", "artifacts/checkpoint"):
        (workdir / name).mkdir(parents=True)
        (workdir / name / "model.safetensors").write_text("half")
    go(plan, store)
    (made,) = kept_runs(store)
    assert made.data.tags["trial.state"] == "COMPLETE"
    alone = run(config, device="cpu", threads=1)
    assert steps_of(store, made) == [(record.step, record.loss) for record in alone.steps]
    client = MlflowClient(store.tracking_uri)
    weights = Path(client.download_artifacts(made.info.run_id, "checkpoint/model.safetensors"))
    assert weights.stat().st_size > 1000
    wait_until(lambda: not workdir.exists(), 10)


def test_a_disk_that_fills_up_as_a_run_begins_or_ends_is_waited_for(
    tiny: Tiny, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the files that the driver writes of a run meets a full disk at first."""
    written, write, copy = set[str](), artifacts.write_durably, shutil.copy

    def full_at_first(name: str) -> None:
        if name not in written:
            written.add(name)
            raise OSError(errno.ENOSPC, "No space left on device")

    def writing(path: Path, content: bytes) -> None:
        if "runs" in path.parts:
            full_at_first(path.name)
        write(path, content)

    def copying(source: Path, target: Path) -> None:
        full_at_first(target.name)
        copy(source, target)

    for module in (artifacts, run_folder):
        monkeypatch.setattr(module, "write_durably", writing)
    monkeypatch.setattr(shutil, "copy", copying)
    config = tiny()
    outcome, _ = go(plan_of(config, {}), store)
    assert (outcome.paused, outcome.failed) == (False, {})
    assert {"run.json", "config.json", "history.parquet"} <= written
    (made,) = kept_runs(store)
    client = MlflowClient(store.tracking_uri)
    kept = {file.path for file in client.list_artifacts(made.info.run_id)}
    assert {"config.json", "history.parquet", "checkpoint"} <= kept
    assert made.data.tags["weights.sha256"] == run(config, device="cpu", threads=1).weights_sha256


def test_a_run_that_finds_no_room_where_the_stores_disk_has_some_fails_in_the_end(tiny: Tiny, store: Store) -> None:
    """A trainer's own folder on another disk is full, say: waiting for the store's would wait for ever."""
    error = "OSError: [Errno 28] No space left on device: '/scratch/x'"

    def trouble(job: Job) -> Message | None:
        return NoSpace(job.key, error, f"Traceback\n{error}") if '"learning_rate": 0.003' in job.config else None

    plan = plan_of(tiny(), {"learning_rate": Choice(3e-3, 1e-3)})
    outcome, watcher = go(plan, store, Troubled(trouble))
    assert (outcome.paused, list(outcome.failed.values())) == (False, [error])
    assert [run.label for run in watcher.begun] == ["lr=3e-3"] * 3 + ["lr=1e-3"]
    assert sorted(watcher.states.values()) == ["COMPLETE", "FAILED"]


def test_a_sweep_of_which_nothing_is_left_has_not_stopped_whatever_failed(tiny: Tiny, store: Store) -> None:
    def trouble(job: Job) -> Message | None:
        return Raised(job.key, "ValueError: no", "Traceback") if '"learning_rate": 0.003' in job.config else None

    last, first = (plan_of(tiny(), {"learning_rate": Choice(*rates)}) for rates in ((1e-3, 3e-3), (3e-3, 1e-3)))
    outcome, _ = go(first, store, Troubled(trouble), limits=Limits(max_failures=1))
    assert (outcome.paused, len(outcome.failed), outcome.has_results) == (True, 1, False)
    outcome, _ = go(last, store, Troubled(trouble), limits=Limits(max_failures=1))
    assert (outcome.paused, len(outcome.failed), outcome.has_results) == (False, 1, True)


def test_an_interrupted_run_is_never_continued_under_other_conditions(tiny: Tiny, store: Store) -> None:
    plan = plan_of(tiny(train_tokens=64 * 3 * 40), {})
    outcome, _ = go(plan, store, PausedAtOnce("cpu"), pause_after=1)
    assert outcome.paused
    (workdir,) = (store.folder / "work" / "question" / "runs").iterdir()
    note = workdir / "run.json"
    note.write_text(note.read_text().replace('"machine.threads": "1"', '"machine.threads": "2"'))
    go(plan, store)
    before, after = sorted(kept_runs(store), key=lambda made: made.info.start_time)
    assert [made.data.tags["trial.state"] for made in (before, after)] == ["INTERRUPTED", "COMPLETE"]
    assert after.data.tags["sweep.retry_of"] == before.info.run_id
    assert [step for step, _ in steps_of(store, after)] == list(range(1, 121))


# --- Out of time


def test_a_sweep_out_of_time_keeps_what_it_has_and_goes_on_to_the_same_bits(tiny: Tiny, store: Store) -> None:
    config = tiny(train_tokens=64 * 3 * 40)
    plan = plan_of(config, {"learning_rate": Choice(1e-3, 3e-3)})
    outcome, watcher = go(plan, store, limits=Limits(end=0.0))
    assert (outcome.paused, outcome.out_of_time, outcome.has_results, watcher.begun) == (True, True, False, [])

    watcher = Watcher()
    workers = PausedAtOnce("cpu", num_jobs=2)
    two_have_begun = Limits(end=2, clock=lambda: len(watcher.begun))
    outcome, _ = go(plan, store, workers, watcher, limits=two_have_begun)
    assert (outcome.paused, outcome.out_of_time, outcome.has_results) == (True, True, True)
    assert sorted(made.info.status for made in kept_runs(store)) == ["FINISHED", "KILLED"]

    outcome, watcher = go(plan, store, LocalWorkers(["cpu"]))
    assert (outcome.paused, outcome.out_of_time) == (False, False)
    assert len(watcher.begun) == 1
    for made in kept_runs(store):
        alone = run(
            config.replace({"learning_rate": float(made.data.params["learning_rate"])}), device="cpu", threads=1
        )
        assert steps_of(store, made) == [(record.step, record.loss) for record in alone.steps]
        assert made.data.tags["weights.sha256"] == alone.weights_sha256


def test_a_sweep_that_is_told_to_pause_or_fails_too_often_is_not_called_out_of_time(tiny: Tiny, store: Store) -> None:
    plan = plan_of(tiny(), {"learning_rate": Choice(1e-3, 3e-3)})
    outcome, _ = go(plan, store, Instant(1, 0), pause_after=0, limits=Limits(end=0.0))
    assert (outcome.paused, outcome.out_of_time) == (True, False)
    outcome, _ = go(plan, store, Instant(1, 0))
    assert (outcome.paused, outcome.out_of_time) == (False, False)
