"""The time left, of sweeps on a simulated clock: what has been seen of some runs tells how long the others take."""

import heapq
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launcher import Launcher

from sweeps import Choice, Range, Sweep
from sweeps.plan.plan import Plan, PlannedRun, Trial, make_plan
from sweeps.spec.catalog import Experiment
from sweeps.terminal.tally import Tally
from sweeps.terminal.time_left import Seen, Workload, seconds_left
from sweeps.trainers.tinylm import cost_of
from sweeps.workers.protocol import Steps
from tinylm_core import RunConfig
from tinylm_core.machine import this_machine
from tinylm_core.records import StepRecord

FAIR = 0.2  # of what it really takes
EVALUATION_0, NEWS = 0.03, 0.05  # of a run's work
BEGUN, ENDED = -1.0, -2.0


@dataclass
class Machine:
    """A simulated one. Seconds."""

    slots: int = 2
    opening: float = 0.3
    closing: float = 0.1
    first_opening: float = 1.0  # of the first run in each slot, which waits for imports
    noise: float = 0.0  # of the pace between two news, either way
    second_a_unit: float = 1.0


def looks(
    machine: Machine, workloads: list[Workload], seed: int = 0, off: float = 0.0
) -> Iterator[tuple[float, float, float | None]]:
    """Runs the workloads, and at every news says: the share of the work that is done, the seconds it really takes from
    there, and the seconds that are said. The pace of a setting differs from what its work says by up to `off`."""
    draw = random.Random(seed)
    differs = {setting: 1 + draw.uniform(-off, off) for setting in sorted({workload.setting for workload in workloads})}
    news: list[tuple[float, int, float]] = []  # when, of which workload, and the work done by then, BEGUN or ENDED
    free = [0.0] * machine.slots
    ends: list[float] = []
    for index, workload in enumerate(workloads):
        began = heapq.heappop(free)
        now = began + (machine.first_opening if index < machine.slots else machine.opening)
        pace = machine.second_a_unit * differs[workload.setting]
        done = 0.0
        news.append((began, index, BEGUN))
        while done < workload.work:
            step = min(NEWS * workload.work, workload.work - done) if done else EVALUATION_0 * workload.work
            done, now = done + step, now + step * pace * (1 + draw.uniform(-machine.noise, machine.noise))
            news.append((now, index, workload.work if workload.work - done < 1e-9 else done))
        ends.append(now + machine.closing)
        heapq.heappush(free, ends[-1])
    news += [(end, index, ENDED) for index, end in enumerate(ends)]
    seen: dict[int, Seen] = {}
    total, all_end = sum(workload.work for workload in workloads), max(ends)
    for now, index, done in sorted(news, key=lambda item: (item[0], item[2] != ENDED)):  # a slot is free, then taken
        if done == BEGUN:
            seen[index] = Seen(workloads[index], now)
        elif done == ENDED:
            seen[index].ended = now
        else:
            seen[index].hear(now, done)
        waiting = [workload for other, workload in enumerate(workloads) if other not in seen]
        yield (
            sum(run.done for run in seen.values()) / total,
            all_end - now,
            seconds_left(now, seen.values(), waiting, machine.slots),
        )


def assert_fair(told: Iterator[tuple[float, float, float | None]], spare: float = 1.0) -> None:
    """After a tenth of the work within a fifth, but for `spare` seconds: a second of the last two is no fifth."""
    for share, really, said in told:
        if share >= 0.1:
            assert said is not None
            assert abs(said - really) <= FAIR * really + spare, (share, really, said)


@given(
    num_settings=st.integers(1, 8),
    seeds=st.integers(1, 4),
    slots=st.integers(1, 8),
    shortest=st.floats(10, 100),
    ratio=st.floats(1, 10),
    opening=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_after_a_tenth_of_the_work_it_is_within_a_fifth(
    num_settings: int, seeds: int, slots: int, shortest: float, ratio: float, opening: float, seed: int
) -> None:
    machine = Machine(slots=slots, opening=opening, first_opening=opening + 0.7, noise=0.1)
    draw = random.Random(seed)
    settings = [Workload(f"s{index}", shortest * draw.uniform(1, ratio)) for index in range(num_settings)]
    workloads = [workload for workload in settings for _ in range(seeds)]
    assert_fair(looks(machine, workloads, seed, off=0.05), spare=2)


def test_of_a_steady_machine_it_is_exact_once_every_part_of_a_run_has_been_seen() -> None:
    machine = Machine(first_opening=0.3)
    told = list(looks(machine, [Workload("a", 10.0)] * 5))
    assert [said for _, _, said in told if said is not None]
    for share, really, said in told:
        if share > 0.5:
            assert said == pytest.approx(really, abs=1e-6)


def test_three_runs_in_two_slots_take_two_rounds() -> None:
    seen = [Seen(Workload("a", 100.0), 0.0) for _ in range(2)]
    for run in seen:
        run.hear(0.0, 0.0)
        run.hear(10.0, 10.0)
    assert seconds_left(10.0, seen, [Workload("a", 100.0)], 2) == pytest.approx(90 + 100)
    assert seconds_left(10.0, seen, [], 2) == pytest.approx(90)


def test_the_pace_of_a_setting_is_its_own_and_of_one_not_seen_that_of_its_likes() -> None:
    fast, slow = Seen(Workload("fast", 100.0), 0.0), Seen(Workload("slow", 1000.0), 0.0)
    for run, took in ((fast, 50.0), (slow, 1000.0)):
        run.hear(0.0, 0.0)
        run.hear(took, run.workload.work)
        run.ended = took

    def takes(workload: Workload) -> float:
        left = seconds_left(1000.0, [fast, slow], [workload], 1)
        assert left is not None
        return left

    assert takes(fast.workload) == pytest.approx(50, rel=0.2)
    assert takes(slow.workload) == pytest.approx(1000, rel=0.02)
    assert takes(Workload("like fast", 110.0)) == pytest.approx(55, rel=0.2)
    assert takes(Workload("like slow", 900.0)) == pytest.approx(900, rel=0.02)


def test_what_an_earlier_start_has_done_says_nothing_of_the_pace_and_need_not_be_done_again() -> None:
    run = Seen(Workload("a", 100.0), 0.0)
    run.hear(2.0, 60.0, is_new=False)
    assert seconds_left(2.0, [run], [], 1) is None
    run.hear(3.0, 61.0)
    run.hear(13.0, 71.0)
    assert seconds_left(13.0, [run], [], 1) == pytest.approx(29)


def test_nothing_is_said_before_there_is_a_pace_and_nothing_is_left_of_nothing() -> None:
    assert seconds_left(5.0, [], [Workload("a", 1.0)], 2) is None
    run = Seen(Workload("a", 1.0), 0.0)
    run.hear(1.0, 0.5)
    assert seconds_left(1.0, [run], [], 1) is None
    run.hear(2.0, 1.0)
    run.ended = 2.5
    assert seconds_left(9.0, [run], [], 1) == 0


@pytest.mark.parametrize(
    ("small", "large"),
    [({"d_model": 64}, {"d_model": 128}), ({"num_layers": 2}, {"num_layers": 4}), ({}, {"max_seq_len": 1024})],
)
def test_a_larger_model_costs_more_a_token(small: dict[str, int], large: dict[str, int]) -> None:
    costs = [cost_of(RunConfig().replace(changes), 1000, 100_000) for changes in (small, large)]
    assert costs[0].token < costs[1].token < 20 * costs[0].token
    assert costs[0].evaluation < costs[1].evaluation


# --- What a view hears of the runs


@dataclass
class Heard:
    """A tally of a plan, and a clock that stands still but when told."""

    plan: Plan
    trials: list[Trial]
    results: dict[str, float] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.tally = Tally(self.plan, self.trials, self.results, lambda: self.now)

    def steps(self, run: PlannedRun, *steps: int, ago_ms: int = -1000) -> None:
        per_step = run.config.tokens_per_step
        at = time.time_ns() // 1_000_000 - ago_ms
        records = [StepRecord(step, step * per_step, 3.0, 1e-3, 1.0, 100.0, False, at) for step in steps]
        self.tally.hear(Steps(run.identity, records))


def heard(base: RunConfig, **fields: Any) -> Heard:
    plan = make_plan(Experiment("question", "question.py", "Does it?", Sweep(base=base, **fields)), this_machine("cpu"))
    return Heard(plan, plan.known_trials())


def test_tokens_of_an_earlier_start_are_no_speed_of_this_one(tiny: Callable[..., RunConfig]) -> None:
    one = heard(tiny(), space={})
    (run,) = one.trials[0].runs
    one.tally.start(run)
    one.now = 2.0
    one.steps(run, 1, 2, 3, 4, 5, 6, ago_ms=60_000)
    assert one.tally.look().tokens_per_second == 0
    assert one.tally.look().seconds_left is None
    one.now = 3.0
    one.steps(run, 7)
    one.now = 5.0
    one.steps(run, 8, 9)
    told = one.tally.look()
    assert told.tokens_per_second == pytest.approx(3 * 64 / 5)
    cost = one.plan.trainer.cost(run.config)
    evaluations = cost.evaluation * 4 / cost.token / 64  # in steps; none heard
    assert told.seconds_left == pytest.approx(3 + evaluations, rel=1e-6)


def test_a_run_is_counted_once_however_it_came_to_be_known(tiny: Callable[..., RunConfig]) -> None:
    all_runs = heard(tiny(), space={"learning_rate": Choice(1e-3, 3e-3)}, seeds=2)
    runs = [run for trial in all_runs.trials for run in trial.runs]
    all_runs.results[runs[0].identity] = 1.0
    look = all_runs.tally.look
    assert (look().done_runs, look().total_runs, look().share_done) == (1, 4, 0)
    for run in runs[1:3]:
        all_runs.tally.start(run)
    all_runs.results[runs[1].identity] = 1.0
    all_runs.tally.end(runs[1], "DIVERGED")
    all_runs.tally.end(runs[2], "FAILED")
    assert (look().done_runs, look().failed_runs, look().share_done) == (3, 1, pytest.approx(2 / 3))
    all_runs.tally.start(runs[3])
    all_runs.tally.end(runs[3], "INTERRUPTED")
    assert (look().done_runs, look().share_done) == (3, pytest.approx(2 / 3))


def test_a_proposal_that_is_known_already_makes_no_run(tiny: Callable[..., RunConfig]) -> None:
    space = {"learning_rate": Range(1e-4, 1e-2, log=True)}
    search = heard(tiny(), space=space, search="tpe", num_trials=3)
    assert search.tally.look().total_runs == 3
    search.trials.append(search.plan.trial(0, {"learning_rate": 1e-3}))
    search.trials.append(search.plan.trial(1, {"learning_rate": 1e-3}))
    assert search.tally.look().total_runs == 2


EXPERIMENT = '''"""How long?"""
from sweeps import Choice, Sweep
from tinylm_core import RunConfig

SWEEP = Sweep(
    base=RunConfig(data={data!r}, tokenizer="char", max_seq_len=32, d_model=32, num_heads=2, dropout=0.0,
                   train_tokens={tokens}, num_evals=4, eval_tokens=2048, precision="fp32"),
    space={{"num_layers": Choice(8, 4, 2, 1), "learning_rate": Choice(1e-3, 3e-3)}},
)
'''


@pytest.mark.slow
def test_of_a_real_sweep_of_cheap_and_dear_runs_the_time_left_is_told(
    launcher: Launcher, text_file: Path, tmp_path: Path
) -> None:
    """The median of what is said between a tenth and nine tenths of the work, and a factor of two: others use the
    machine as well, more now and less then, which nobody can tell before. By tokens alone it is twice as long and more.
    """
    file = tmp_path / "how_long.py"
    file.write_text(EXPERIMENT.format(data=str(text_file), tokens=4 * 32 * 8 * 180))
    command = launcher.start("sweeps.run", file, "--store", tmp_path / "store", "--workers", "2", "--json")
    said: list[tuple[float, float]] = []  # when, and the seconds left
    ended, read = 0.0, 0
    while not command.has_ended:
        lines = command.out.splitlines()
        for event in map(json.loads, lines[read:]):
            if event["event"] == "progress" and 0.1 <= event["share_done"] <= 0.9:
                said.append((time.monotonic(), event["seconds_left"]))
            elif event["event"] == "ended":
                ended = time.monotonic()
        read = len(lines)
        time.sleep(0.05)
    assert command.result().code == 0
    assert said
    assert 0.5 < median(left / (ended - when) for when, left in said) < 2
