"""What every place where runs execute must do: a contract suite for `Workers`; another one joins by a line below."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from launcher import wait_until
from runs import LONG, receive_all

from sweeps.trainers.source import Module, SourceCode, source_of
from sweeps.trainers.tinylm import TinyLM
from sweeps.trainers.trainer_file import TrainerFile
from sweeps.workers.local import LocalWorkers
from sweeps.workers.protocol import Died, Ended, Evaluated, Job, Message, Raised, Steps, Used, Workers
from sweeps.workers.training import train_job
from tinylm_core import RunConfig, run
from tinylm_core.machine import this_machine
from tinylm_core.records import EvalRecord, StepRecord

Tiny = Callable[..., RunConfig]
Processes = list[psutil.Process]

# A driver of its own, in a session of its own: it starts two long runs and says who they are.
DRIVER = """
import sys
from pathlib import Path
from sweeps.workers.local import LocalWorkers
from sweeps.workers.protocol import Job

if __name__ == "__main__":
    config, folder = sys.argv[1], Path(sys.argv[2])
    workers = LocalWorkers(["cpu", "cpu"])
    for name in ("a", "b"):
        workers.submit(Job(name, config, folder / name, "cpu", 1))
    heard = set()
    while True:
        for message in workers.receive(1):
            print(type(message).__name__, message.key, flush=True)
"""


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Two slots."""
    made: Workers
    if request.param == "local":
        made = LocalWorkers(["cpu", "cpu"])
    else:
        demand, found = request.getfixturevalue("on_cluster")
        from sweeps.workers.ray.workers import RayWorkers

        made = RayWorkers(demand, found, TinyLM(this_machine("cpu")).corpus_of)
    yield made
    made.kill()


@pytest.fixture
def processes(request: pytest.FixtureRequest, workers: Workers, tmp_path: Path) -> Callable[[str], Processes]:
    """The processes that execute the run of a key."""
    if isinstance(workers, LocalWorkers):
        return lambda key: processes_of(tmp_path / key)
    nodes = request.getfixturevalue("nodes")
    return lambda key: nodes.tasks(f"run {key}")


@pytest.fixture
def job(tiny: Tiny, tmp_path: Path) -> Callable[..., Job]:
    def job(key: str = "a", **changes: object) -> Job:
        return Job(key, tiny(**changes).model_dump_json(), tmp_path / key, "cpu", 1)

    return job


OWN = """
from dataclasses import dataclass
from beside_own import WORD
from sweeps import Choice, Sweep
from tinylm_core.records import EvalRecord, Metrics, StepRecord

@dataclass(frozen=True)
class Config:
    rate: float = 0.5
    num_steps: int = 45
    tokens_per_step: int = 2
    seed: int = 0

def run(config, *, workdir, on_steps, on_eval, **_):
    for step in range(1, config.num_steps + 1):
        on_steps([StepRecord(step, 2 * step, config.rate, config.rate, 1.0)])
    on_eval(EvalRecord(step, 2 * step, 0.5, 0.0, 0.5, 0.0))
    (workdir / "checkpoint").mkdir()
    (workdir / "checkpoint" / "mine.txt").write_text(WORD)
    return Metrics("COMPLETE", 1, 2)

SWEEP = Sweep(base=Config(), space={"rate": Choice(0.5)}, run=run, version=1)
"""


def receive_until(workers: Workers, kind: type, key: str = "a") -> list[Message]:
    messages: list[Message] = []
    wait_until(
        lambda: messages.extend(workers.receive(0.1)) or any(isinstance(m, kind) and m.key == key for m in messages)
    )
    return messages


def numbers(record: StepRecord | EvalRecord) -> tuple[object, ...]:
    """A record without what a clock says."""
    timed = ("timestamp_ms", "tokens_per_second")
    return tuple(getattr(record, name) for name in record.__slots__ if name not in timed)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that write to the log of a run in that folder."""
    found = []
    for process in psutil.process_iter():
        try:
            logs = [Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in (1, 2)]
        except OSError:
            continue
        if any(folder in log.parents for log in logs):
            found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # of an orphan, until init takes note of it
    except psutil.NoSuchProcess:
        return False


def test_records_arrive_in_order_and_are_what_the_run_alone_says(workers: Workers, job: Callable[..., Job]) -> None:
    jobs = [job("a"), job("b", seed=1)]
    for one in jobs:
        workers.submit(one)
    messages = receive_all(workers)
    for one in jobs:
        steps: list[StepRecord] = []
        evals: list[EvalRecord] = []
        metrics = run(
            RunConfig.model_validate_json(one.config), device="cpu", threads=1, on_steps=steps.extend,
            on_eval=evals.append,
        )  # fmt: skip
        heard = [message for message in messages if message.key == one.key]
        assert [numbers(r) for m in heard if isinstance(m, Steps) for r in m.records] == list(map(numbers, steps))
        assert [numbers(m.record) for m in heard if isinstance(m, Evaluated)] == list(map(numbers, evals))
        assert isinstance(heard[-1], Ended)
        assert heard[-1].metrics.weights_sha256 == metrics.weights_sha256
        assert [numbers(r) for r in heard[-1].metrics.steps] == list(map(numbers, steps))
        assert (one.workdir / "checkpoint" / "model.safetensors").exists()
        assert (one.workdir / "samples.txt").read_text()


def test_what_a_run_takes_of_its_machine_is_told_while_it_trains(workers: Workers, job: Callable[..., Job]) -> None:
    workers.submit(job(**LONG))
    messages = receive_until(workers, Used)
    used = next(message.record for message in messages if isinstance(message, Used))  # a slow node tells more at once
    assert used.cpu_percent > 0
    assert 50 < used.memory_megabytes < 20_000  # torch alone takes more than the former
    assert 0 < used.memory_percent < 100
    assert used.gpu_memory_megabytes is None
    workers.pause()
    assert isinstance(receive_all(workers)[-1], Ended)


def test_a_trainer_goes_with_its_job_wherever_that_is(workers: Workers, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    beside = {"beside_own": Module(nowhere / "beside_own.py", b"WORD = 'kept'")}
    trainer = TrainerFile("1", SourceCode(Module(nowhere / "own.py", OWN.encode()), beside))
    workers.submit(Job("a", '{"rate": 0.25}', tmp_path / "a", "cpu", 1, trainer))
    messages = receive_all(workers)
    steps = [record for message in messages if isinstance(message, Steps) for record in message.records]
    assert [(record.step, record.learning_rate) for record in steps] == [(step, 0.25) for step in range(1, 46)]
    assert isinstance(messages[-1], Ended), messages[-1]
    assert messages[-1].metrics.steps == steps
    assert (tmp_path / "a" / "checkpoint" / "mine.txt").read_text() == "kept"


STARTS_OTHERS = """
import os, subprocess
from dataclasses import dataclass
import torch
from sweeps import Choice, Sweep
from tinylm_core.records import EvalRecord, Metrics, StepRecord

@dataclass(frozen=True)
class Config:
    seed: int = 0
    num_steps: int = 2
    tokens_per_step: int = 2

def run(config, *, workdir, on_steps, should_stop, **_):
    loader = torch.utils.data.DataLoader(torch.arange(4.0), num_workers=1)
    limits = subprocess.run(["sh", "-c", "echo $OMP_NUM_THREADS $MKL_NUM_THREADS"], capture_output=True, text=True)
    child = subprocess.Popen(["sleep", "777"])
    apart = subprocess.Popen(["sleep", "777"], start_new_session=True)
    (workdir / "told.txt").write_text(f"{child.pid} {apart.pid} {limits.stdout.strip()} {sum(map(float, loader))}")
    on_steps([StepRecord(1, 2, 1.0, 0.1)])
    while not should_stop():
        pass
    return Metrics("INTERRUPTED", 1, 2)

SWEEP = Sweep(base=Config(), space={}, run=run, version=1)
"""


@pytest.mark.parametrize("end", ["pause", "kill"])
def test_what_a_run_starts_has_its_threads_and_ends_with_it(tmp_path: Path, end: str) -> None:
    """Children in its process group and out of it; a DataLoader's workers, which Python lets no daemon have."""
    (tmp_path / "starts_others.py").write_text(STARTS_OTHERS)
    workers = LocalWorkers(["cpu"], has_own_trainer=True)
    workers.submit(job_that_starts_others(tmp_path))
    receive_until(workers, Steps)
    started = started_by_the_run(tmp_path)
    getattr(workers, end)()
    receive_all(workers)
    wait_until(lambda: not any(map(is_alive, started)), 5)
    workers.kill()


def test_what_a_run_starts_ends_when_its_driver_is_killed(tmp_path: Path) -> None:
    (tmp_path / "starts_others.py").write_text(STARTS_OTHERS)
    root = Path(__file__).parents[2]
    program = (
        "import sys, time; from pathlib import Path\n"
        "from sweeps.workers.local import LocalWorkers; from test_workers import job_that_starts_others\n"
        "workers = LocalWorkers(['cpu'], has_own_trainer=True)\n"
        "workers.submit(job_that_starts_others(Path(sys.argv[1])))\n"
        "while True: print(workers.receive(1), flush=True)\n"
    )
    path = os.pathsep.join(map(str, (root, root / "tests", Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout
        while b"Steps" not in driver.stdout.readline():
            pass
        started = started_by_the_run(tmp_path)
        driver.kill()
        wait_until(lambda: not any(map(is_alive, started)), 5)


def job_that_starts_others(folder: Path) -> Job:
    path = folder / "starts_others.py"
    return Job("a", "{}", folder / "a", "cpu", 1, TrainerFile("1", source_of(path, path.read_bytes())))


def started_by_the_run(folder: Path) -> list[psutil.Process]:
    """What `STARTS_OTHERS` says that it has started; it has the run's threads."""
    child, apart, *told = (folder / "a" / "told.txt").read_text().split()
    assert told == ["1", "1", "6.0"]
    started = [psutil.Process(int(child)), psutil.Process(int(apart))]
    assert all(map(is_alive, started))
    return started


def test_a_text_that_has_changed_since_the_plan_is_not_trained_on(workers: Workers, job: Callable[..., Job]) -> None:
    planned = replace(job(), fingerprint="0" * 64)
    workers.submit(planned)
    (message,) = [message for message in receive_all(workers) if not isinstance(message, Used)]
    assert isinstance(message, Raised), message
    assert re.search("data='.*' has changed since this was planned: its fingerprint was 000000000000", message.error)


RAISES = r"""
class Mute(Exception):
    def __str__(self):
        raise RuntimeError("lost for words")

def run(config, **_):
    raise [ValueError("no such file: caf\udce9.txt\x07"), SystemExit("bye"), Mute()][config["which"]]
"""


@pytest.mark.parametrize(
    ("which", "said"),
    [
        (0, r"ValueError: no such file: caf\udce9.txt\x07"),
        (1, "SystemExit: bye"),
        (2, "Mute: (RuntimeError in its __str__)"),
    ],
)
def test_whatever_a_run_raises_is_told_in_words_that_can_be_kept(tmp_path: Path, which: int, said: str) -> None:
    space: dict[str, Any] = {}
    exec(RAISES, space)
    heard: list[Message] = []
    job = Job("a", "", tmp_path, "cpu", 1, lambda _, **__: space["run"]({"which": which}))
    train_job(job, heard.append, lambda: False, 30.0)
    assert isinstance(heard[-1], Raised)
    assert heard[-1].error == said
    assert heard[-1].traceback.encode()


def test_there_is_room_for_as_many_jobs_as_slots(workers: Workers, job: Callable[..., Job]) -> None:
    assert not workers.is_busy()
    assert workers.next_device() == "cpu"
    workers.submit(job("a"))
    assert workers.has_room()
    workers.submit(job("b"))
    assert not workers.has_room()
    receive_all(workers)
    assert workers.has_room()
    workers.submit(job("c"))
    assert isinstance(receive_all(workers)[-1], Ended)


def test_nothing_said_is_no_message(workers: Workers) -> None:
    assert workers.receive(0.01) == []


def test_a_paused_run_ends_interrupted_and_goes_on_to_the_same_bits(
    workers: Workers, job: Callable[..., Job], tiny: Tiny
) -> None:
    config = {"train_tokens": 64 * 3 * 200}
    workers.submit(job("a", **config))
    before = receive_until(workers, Steps)
    workers.pause()
    last = (before + receive_all(workers))[-1]
    assert isinstance(last, Ended)
    assert last.metrics.state == "INTERRUPTED"
    assert list((job("a").workdir).glob("state-*.safetensors"))
    workers.submit(job("a", **config))
    again = receive_all(workers)
    assert isinstance(again[-1], Ended)
    alone = run(tiny(**config), device="cpu", threads=1)
    assert again[-1].metrics.weights_sha256 == alone.weights_sha256
    told = [record for message in again if isinstance(message, Steps) for record in message.records]
    assert list(map(numbers, told)) == list(map(numbers, alone.steps))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_told_with_the_reason(
    workers: Workers, job: Callable[..., Job], processes: Callable[[str], Processes], number: signal.Signals
) -> None:
    workers.submit(job("a", **LONG))
    workers.submit(job("b"))
    receive_until(workers, Steps, "a")
    (process,) = processes("a")
    process.send_signal(number)
    messages = receive_until(workers, Died, "a")
    (died,) = [message for message in messages if isinstance(message, Died)]
    if isinstance(workers, LocalWorkers):
        assert died.reason == f"the worker was killed by {number.name}"
    else:
        assert re.fullmatch(r"the worker on .+ \(127\.0\.0\.1\) was lost: [^\n]+", died.reason)
    assert workers.has_room()
    assert not any(isinstance(message, Raised) for message in messages + receive_all(workers))


def test_a_run_that_raises_is_told_with_its_traceback(workers: Workers, job: Callable[..., Job]) -> None:
    workers.submit(job("a", max_tokens=8))
    (raised,) = [message for message in receive_all(workers) if not isinstance(message, Used)]
    assert isinstance(raised, Raised)
    assert "the training part has 8 tokens" in raised.error
    assert raised.error.startswith("ValueError: data=")
    assert "\n" not in raised.error
    assert "Traceback" in raised.traceback
    assert "train_windows" in raised.traceback


def test_killed_workers_are_gone(
    workers: Workers, job: Callable[..., Job], processes: Callable[[str], Processes]
) -> None:
    workers.submit(job("a", **LONG))
    receive_until(workers, Steps)
    (process,) = processes("a")
    workers.kill()
    assert not workers.is_busy()
    wait_until(lambda: not is_alive(process), 10)


@pytest.fixture
def driver(tiny: Tiny, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A driver whose workers are at work, with noise in each: an audit hook that prints when the data is opened."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def loud(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('train.bin'):\n"
        "        print('NOISE'); os.write(1, b'NOISE'); os.write(2, b'NOISE')\n"
        "sys.addaudithook(loud)\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, script, tiny(**LONG).model_dump_json(), tmp_path],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout
        said: set[str] = set()
        while not {"Steps a\n", "Steps b\n"} <= said:
            line = process.stdout.readline()
            assert line, "the driver has ended"
            said.add(line)
        # What a run takes of its machine is told a second into it, which a busy machine may need to start two.
        assert said <= {f"{kind} {key}\n" for kind in ("Steps", "Evaluated", "Used") for key in "ab"}, said
        yield process
    finally:
        process.kill()
        process.wait()


def test_workers_die_with_their_driver(driver: "subprocess.Popen[str]", tmp_path: Path) -> None:
    found = processes_of(tmp_path)
    assert len(found) == 2
    driver.kill()
    wait_until(lambda: not any(map(is_alive, found)), 2)


def test_the_server_of_workers_dies_with_its_driver_while_it_still_loads(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "def slow(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'torch':\n"
        "        os.write(1, b'loading\\n')\n"
        "        time.sleep(60)\n"
        "sys.addaudithook(slow)\n"
    )
    root = str(Path(__file__).parents[2])
    program = (
        "import time; from sweeps.workers.local import start_server\n"
        "start_server(has_own_trainer=False); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}, stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout
        assert driver.stdout.readline() == "loading\n"
        below = psutil.Process(driver.pid).children(recursive=True)
        assert any("forkserver" in " ".join(process.cmdline()) for process in below)
        driver.kill()
        wait_until(lambda: not any(map(is_alive, below)), 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_the_workers_to_their_driver(
    driver: "subprocess.Popen[str]", tmp_path: Path, number: int
) -> None:
    found = processes_of(tmp_path)
    for process in psutil.Process(driver.pid).children(recursive=True):
        process.send_signal(number)
    time.sleep(0.5)
    assert all(map(is_alive, found))


def test_a_pool_of_a_trainers_ends_by_the_signal_that_its_worker_leaves_to_the_driver() -> None:
    code = (
        "import multiprocessing, os, signal\n"
        "from sweeps.workers.local import _leave_signals_to_the_driver\n"
        "_leave_signals_to_the_driver()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "with multiprocessing.get_context('fork').Pool(1) as pool:\n"
        "    print(pool.map(abs, [-1]))\n"
        "print('goes on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[1]\ngoes on\n"), done


def test_what_a_run_prints_goes_to_its_log_and_not_to_the_driver(
    driver: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    driver.kill()
    assert driver.stdout
    assert "NOISE" not in driver.stdout.read()
    for name in ("a", "b"):
        assert "NOISE" in (tmp_path / name / "worker.log").read_text()
