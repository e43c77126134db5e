"""The laws of `run`: pure, resumable, accumulation, equal tokens, the rate used is the rate logged, divergence."""

import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from tinylm_core import optimizer as optimizer_module
from tinylm_core import train as train_module
from tinylm_core.checkpoint import load_model, load_states, save_state, weights_sha256
from tinylm_core.config import RunConfig, resolve
from tinylm_core.corpus import load_corpus
from tinylm_core.data import micro_batch, train_windows
from tinylm_core.machine import Machine, this_machine
from tinylm_core.model import TinyGPT
from tinylm_core.records import EvalRecord, Metrics, StepRecord
from tinylm_core.schedule import learning_rate, warmup_steps
from tinylm_core.state import TrainState
from tinylm_core.train import Pending, Trainer, reproducible, run

REPOSITORY = Path(__file__).parent.parent
Tiny = Callable[..., RunConfig]

# What reads the clock, and so is no part of the bits.
CLOCK = {"timestamp_ms", "tokens_per_second"}


def bits(metrics: Metrics) -> str:
    """All that law 1 promises, every float with all its digits."""
    steps = [{k: v for k, v in asdict(record).items() if k not in CLOCK} for record in metrics.steps]
    evals = [{k: v for k, v in asdict(record).items() if k not in CLOCK} for record in metrics.evals]
    rest = [metrics.state, metrics.weights_sha256, metrics.num_parameters, metrics.vocab_size, metrics.diverged_at]
    return json.dumps([steps, evals, rest])


class Listener:
    """What a run has told, in order."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.evals: list[EvalRecord] = []
        self.batches: list[int] = []

    def on_steps(self, records: list[StepRecord]) -> None:
        self.steps += records
        self.batches.append(len(records))

    def on_eval(self, record: EvalRecord) -> None:
        self.evals.append(record)

    def run(self, config: RunConfig, **options: Any) -> Metrics:
        return run(config, on_steps=self.on_steps, on_eval=self.on_eval, threads=1, **options)


class StopAt:
    """Says yes at the n-th question, counted from 0, and from then on."""

    def __init__(self, n: float) -> None:
        self.n, self.asked = n, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.n


@contextmanager
def trainer_of(config: RunConfig) -> Iterator[Trainer]:
    config = resolve(config, this_machine("cpu"))
    with reproducible("cpu", 1):
        yield Trainer(config, load_corpus(config), "cpu", None, 1e9)


@pytest.fixture
def told_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """should_stop is asked, and a checkpoint kept if due, at every step; an evaluation takes several batches."""
    monkeypatch.setattr(train_module, "FLUSH_STEPS", 1)
    monkeypatch.setattr(train_module, "MAX_CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr("tinylm_core.evaluate.EVAL_BATCH_TOKENS", 128)


def allow_fp16(monkeypatch: pytest.MonkeyPatch, first_scale: float = 2.0**16) -> None:
    """Let the CPU emulate fp16, and start its loss scale where the test wants it."""
    fresh = TrainState.fresh

    def fresh_scaled(config: RunConfig, vocab_size: int, device: str) -> TrainState:
        state = fresh(config, vocab_size, device)
        enabled = config.precision == "fp16"
        return replace(state, scaler=torch.amp.GradScaler("cpu", init_scale=first_scale, enabled=enabled))

    monkeypatch.setattr(train_module, "check_precision", lambda *_: None)
    monkeypatch.setattr(TrainState, "fresh", fresh_scaled)


# --- Law 1: pure


def test_same_config_gives_the_same_bits(tiny: Tiny) -> None:
    assert bits(run(tiny(), threads=1)) == bits(run(tiny(), threads=1))


def test_another_process_gives_the_same_bits(tiny: Tiny) -> None:
    configs = [tiny(precision=precision) for precision in ("fp64", "fp32", "bf16")]
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from test_train import *\n"
        "for config in sys.argv[3:]: print(bits(run(RunConfig.model_validate_json(config), threads=1)))"
    )
    command = [sys.executable, "-c", program, str(REPOSITORY), str(REPOSITORY / "tests")]
    command += [config.model_dump_json() for config in configs]
    here = [bits(run(config, threads=1)) for config in configs]
    # Python's own hash seed is another here, and in every process.
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == here


def test_another_seed_gives_other_bits(tiny: Tiny) -> None:
    first, second = run(tiny(), threads=1), run(tiny(seed=1), threads=1)
    assert first.weights_sha256 != second.weights_sha256
    assert first.steps[0].loss != second.steps[0].loss


def test_the_callers_torch_is_as_it_was_and_changes_no_bits(tiny: Tiny) -> None:
    config = tiny(precision="fp32", d_model=64, max_seq_len=32, train_tokens=256 * 3)
    usual = bits(run(config, threads=1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(1234)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        random_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert bits(run(config, threads=1)) == usual
        with pytest.raises(ValueError, match="training part"):  # given back after a mistake too
            run(config.replace({"max_seq_len": 65_536, "train_tokens": 65_536 * 24}), threads=1)
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.equal(torch.get_rng_state(), random_before)
        assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert bits(run(config, threads=1)) == usual


PRODUCTS = (
    "backends.fp32_precision", "backends.cuda.matmul.fp32_precision", "backends.mkldnn.matmul.fp32_precision",
)  # fmt: skip
WAYS: dict[str, dict[str, str]] = {
    "all": {"backends.fp32_precision": "tf32"},
    "cuda": {"backends.cuda.matmul.fp32_precision": "tf32"},
    "cpu": {"backends.mkldnn.matmul.fp32_precision": "bf16"},
    "cpu apart": {"backends.fp32_precision": "tf32", "backends.mkldnn.matmul.fp32_precision": "ieee"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_callers_newer_settings_of_products_are_as_they_were_and_change_no_bits(tiny: Tiny, way: str) -> None:
    config = tiny(precision="fp32", d_model=64, max_seq_len=32, train_tokens=256 * 3)

    def put(**settings: str) -> None:
        for name, value in settings.items():
            place, _, attribute = name.rpartition(".")
            setattr(attrgetter(place)(torch), attribute, value)

    def told() -> dict[str, str]:
        return {name: attrgetter(name)(torch) for name in PRODUCTS}

    unset = dict.fromkeys(PRODUCTS, "none")
    try:
        put(**unset)
        usual = bits(run(config, threads=1))
        assert told() == unset
        put(**WAYS[way])
        before = told()
        assert bits(run(config, threads=1)) == usual
        assert told() == before
        general, *_ = PRODUCTS
        put(**{general: "ieee"})  # what was not set by itself follows still
        assert told() == dict.fromkeys(PRODUCTS, "ieee") | WAYS[way] | {general: "ieee"}
    finally:
        put(**unset)


def test_a_run_seeds_no_gpu_of_the_caller(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is not in use yet, for which PyTorch keeps the caller's seed."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    run(tiny(), threads=1)
    assert seeded == []


def test_initial_weights_do_not_depend_on_the_callers_default_device(tiny: Tiny) -> None:
    config = resolve(tiny(), this_machine("cpu"))
    with torch.device("meta"):
        elsewhere = TrainState.fresh(config, 16, "cpu").model
    assert weights_sha256(elsewhere) == weights_sha256(TrainState.fresh(config, 16, "cpu").model)


@pytest.mark.usefixtures("told_each_step")
def test_who_listens_and_where_files_go_changes_no_bits(tiny: Tiny, tmp_path: Path) -> None:
    listener = Listener()
    told = listener.run(tiny(), workdir=tmp_path, checkpoint_seconds=0)
    assert listener.steps == told.steps
    assert listener.evals == told.evals
    with pytest.MonkeyPatch.context() as other:
        other.setattr(train_module, "FLUSH_STEPS", 5)
        assert bits(run(tiny(), threads=1)) == bits(told)


# --- Against a plain PyTorch loop


@pytest.mark.parametrize(
    "fields",
    [
        {"norm_first": False, "activation": "relu", "max_grad_norm": 0.5, "schedule": "linear"},
        {"max_grad_norm": None, "warmup_ratio": 0.0, "batch_size": 8, "gradient_accumulation_steps": 1},
        {"tie_embeddings": True, "decay_embeddings": False, "bias": False, "schedule": "wsd", "stride": 3},
    ],
)
def test_run_is_what_a_plain_loop_over_pytorchs_parts_computes(tiny: Tiny, fields: dict[str, Any]) -> None:
    config = resolve(tiny(dropout=0.0, weight_decay=0.3, init_std=0.2).replace(fields), this_machine("cpu"))
    metrics = run(config, threads=1)
    corpus = load_corpus(config)
    windows = train_windows(corpus, config)
    torch.manual_seed(config.seed)
    model = TinyGPT(config, corpus.vocab_size).double()
    embeddings = {id(model.token_embedding.weight), id(model.position_embedding.weight)}
    groups: list[dict[str, Any]] = []
    for parameter in model.parameters():
        decays = parameter.dim() == 2 and (config.decay_embeddings or id(parameter) not in embeddings)
        groups.append({"params": [parameter], "weight_decay": 0.3 if decays else 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, foreach=False)
    for step, record in enumerate(metrics.steps, start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        batch_size = config.batch_size * config.gradient_accumulation_steps
        batch = micro_batch(windows, config.seed, step - 1, batch_size)  # the whole step at once
        loss = F.cross_entropy(model(batch.input_ids).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf)
        optimizer.step()
        assert record.loss == pytest.approx(loss.item(), rel=1e-10)
        assert record.grad_norm == pytest.approx(grad_norm.item(), rel=1e-8)
    val, T = torch.from_numpy(corpus.val.astype(np.int64)), config.max_seq_len
    total = 0.0
    for start in range(0, len(val) - 1, T):
        inputs, labels = val[start : start + T], val[start + 1 : start + T + 1]
        with torch.no_grad():
            total += F.cross_entropy(model(inputs[None, : len(labels)])[0], labels, reduction="sum").item()
    whole = run(config.replace({"eval_tokens": None}), threads=1)
    assert whole.final.val_loss == pytest.approx(total / (len(val) - 1), rel=1e-9)


def test_a_run_on_text_learns_it(tiny: Tiny) -> None:
    metrics = run(tiny(precision="fp32", train_tokens=64 * 300, learning_rate=1e-2, dropout=0.0), threads=1)
    assert metrics.final.val_loss < 0.5 * metrics.evals[0].val_loss
    assert metrics.best.val_loss <= metrics.objective == metrics.final.val_loss
    assert abs(metrics.final.gap) < 0.3


def test_random_tokens_stay_at_the_logarithm_of_the_vocabulary(tiny: Tiny) -> None:
    fields = {"data": "random", "tokenizer": "ids", "vocab_size": 32, "precision": "fp32", "dropout": 0.0}
    metrics = run(tiny(**fields, train_tokens=64 * 300, eval_tokens=8192), threads=1)
    for record in metrics.evals:
        assert abs(record.val_loss - math.log(32)) < 0.02
        assert abs(record.train_loss - math.log(32)) < 0.02
    assert abs(metrics.evals[0].val_loss - math.log(32)) < 0.005


# --- Law 2: resumable

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


@pytest.mark.usefixtures("told_each_step")
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


@pytest.mark.usefixtures("told_each_step")
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
    train_module.FLUSH_STEPS, train_module.MAX_CHECKPOINT_SHARE = 1, math.inf
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
@pytest.mark.usefixtures("told_each_step")
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


@pytest.mark.usefixtures("told_each_step")
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


@pytest.mark.usefixtures("told_each_step")
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


@pytest.mark.usefixtures("told_each_step")
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


@pytest.mark.usefixtures("told_each_step")
def test_checkpoints_are_kept_at_the_interval_that_was_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[int] = []
    for seconds in (0.0, 1e9):
        workdir = tmp_path / str(seconds)
        run(tiny(), threads=1, workdir=workdir, checkpoint_seconds=seconds,
            on_steps=lambda _, workdir=workdir: seen.append(len(states(workdir))))  # fmt: skip
    assert max(seen[: len(seen) // 2]) == 2
    assert max(seen[len(seen) // 2 :]) == 0


# --- Law 3: accumulation


def gradients(config: RunConfig, step: int) -> tuple[float, dict[str, Tensor]]:
    with trainer_of(config) as trainer:
        k = config.gradient_accumulation_steps
        loss = sum(trainer._backward(step * k + i) for i in range(k))
        grads = {name: p.grad for name, p in trainer.state.model.named_parameters() if p.grad is not None}
        return float(loss), grads


@pytest.mark.parametrize(("k", "b"), [(2, 1), (2, 4), (4, 3), (8, 2)])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_accumulated_gradient_equals_large_batch(tiny: Tiny, k: int, b: int, tie_embeddings: bool) -> None:
    fields = {"dropout": 0.0, "train_tokens": 8 * k * b * 6, "init_std": 0.3, "tie_embeddings": tie_embeddings}
    small = gradients(tiny(**fields, batch_size=b, gradient_accumulation_steps=k), 2)
    large = gradients(tiny(**fields, batch_size=k * b, gradient_accumulation_steps=1), 2)
    assert small[0] == pytest.approx(large[0], rel=1e-12)
    assert small[1].keys() == large[1].keys()
    assert len(small[1]) > 20
    for name, gradient in large[1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(small[1][name], gradient, rtol=1e-12, atol=1e-12 * gradient.abs().max().item())


def test_loss_of_a_step_is_the_sum_over_its_tokens_divided_by_their_number(tiny: Tiny) -> None:
    config = resolve(tiny(dropout=0.0, init_std=0.3), this_machine("cpu"))
    with trainer_of(config) as trainer:
        losses = []
        for i in range(2):
            batch = micro_batch(trainer.train_windows, config.seed, i, config.batch_size)
            logits = trainer.state.model(batch.input_ids).detach().numpy()
            log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            losses.append(-np.take_along_axis(log_probabilities, batch.labels.numpy()[..., None], -1))
        _, loss, grad_norm, skipped = trainer.optimizer_step()
        assert loss.item() == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
        assert math.isfinite(grad_norm.item())
        assert not skipped


def test_whole_runs_agree_whatever_the_accumulation(tiny: Tiny) -> None:
    runs = [
        run(tiny(dropout=0.0, batch_size=b, gradient_accumulation_steps=k), threads=1)
        for k, b in [(1, 8), (2, 4), (4, 2), (8, 1)]
    ]
    for other in runs[1:]:
        assert [r.loss for r in other.steps] == pytest.approx([r.loss for r in runs[0].steps], rel=1e-9)
        assert other.final.val_loss == pytest.approx(runs[0].final.val_loss, rel=1e-9)


# --- Law 4: fair comparison


def test_any_accumulation_sees_the_same_tokens_in_the_same_order_and_is_evaluated_after_as_many(tiny: Tiny) -> None:
    seen, evaluated, eval_windows = {}, {}, {}
    for k in (1, 2, 4):
        config = tiny(gradient_accumulation_steps=k, train_tokens=4 * 32 * 6)
        ids: list[Tensor] = []
        with trainer_of(config) as trainer:
            hook = trainer.state.model.register_forward_pre_hook(lambda _, inputs, ids=ids: ids.append(inputs[0]))
            for _ in range(trainer.config.num_steps):
                trainer.optimizer_step()
            hook.remove()
            eval_windows[k] = (trainer.val_windows.starts.tolist(), trainer.train_eval_windows.starts.tolist())
        seen[k] = torch.cat(ids)
        evaluated[k] = [record.tokens for record in run(config, threads=1).evals]
    assert all(torch.equal(seen[1], seen[k]) for k in (2, 4))
    assert seen[1].numel() == 4 * 32 * 6
    assert evaluated[1] == evaluated[2] == evaluated[4] == [0, 256, 512, 768]
    assert eval_windows[1] == eval_windows[2] == eval_windows[4]


def test_every_step_is_told_once_with_its_tokens(tiny: Tiny) -> None:
    metrics = run(tiny(), threads=1)
    assert [record.step for record in metrics.steps] == list(range(1, 13))
    assert [record.tokens for record in metrics.steps] == [64 * step for step in range(1, 13)]
    assert [(record.step, record.tokens) for record in metrics.evals] == [(0, 0), (4, 256), (8, 512), (12, 768)]
    assert all(record.tokens_per_second > 0 for record in metrics.steps)
    stamps = [record.timestamp_ms for record in metrics.steps]
    assert stamps == sorted(stamps)


def test_steps_are_told_in_batches_and_before_an_evaluation(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "FLUSH_SECONDS", 1e9)
    order: list[str] = []
    run(
        tiny(train_tokens=64 * 75, num_evals=3), threads=1,
        on_steps=lambda records: order.append(f"{records[0].step}-{records[-1].step}"),
        on_eval=lambda record: order.append(f"eval {record.step}"),
    )  # fmt: skip
    assert order == ["eval 0", "1-20", "21-25", "eval 25", "26-45", "46-50", "eval 50", "51-70", "71-75", "eval 75"]


def test_a_budget_that_is_no_multiple_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^train_tokens=769 is no multiple of 192 .* train_tokens=768$"):
        run(tiny(train_tokens=769), threads=1, workdir=tmp_path / "work")
    assert not (tmp_path / "work").exists()


# --- Law 5: the rate used is the rate logged


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.3, 0.999])
def test_rate_logged_is_rate_used_is_rate_of_the_schedule(
    tiny: Tiny, schedule: str, warmup_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(schedule=schedule, warmup_ratio=warmup_ratio)
    updates: list[float] = []

    def spied(*arguments: Any, lr: float, **others: Any) -> None:
        updates.append(lr)
        adamw(*arguments, lr=lr, **others)

    monkeypatch.setattr(optimizer_module, "adamw", spied)
    metrics = run(config, threads=1)
    used = [set(updates[start : start + 2]) for start in range(0, len(updates), 2)]  # two parameter groups a step
    assert used == [{record.learning_rate} for record in metrics.steps]
    assert used == [{learning_rate(config, step)} for step in range(1, 13)]
    assert warmup_steps(config) == {0.0: 0, 0.3: 4, 0.999: 12}[warmup_ratio]


# --- fp16 and its skipped steps


def test_fp16_is_refused_where_it_can_not_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)
    monkeypatch.setattr(train_module, "this_machine", lambda _: slow)
    with pytest.raises(ValueError, match=r"^precision='fp16': cpu \(AVX2\) has no fp16 arithmetic; use bf16$"):
        run(tiny(precision="fp16"), threads=1)


def test_a_step_that_loss_scaling_skips_is_logged_and_leaves_the_weights(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scale is so high that gradients really overflow fp16, until halving it has brought them back."""
    allow_fp16(monkeypatch, first_scale=2.0**40)
    config = tiny(precision="fp16", dropout=0.0, train_tokens=64 * 48, num_evals=48)
    metrics = run(config, threads=1)
    assert metrics.state == "COMPLETE"
    skipped = [record.skipped for record in metrics.steps]
    num_skipped = skipped.index(False)
    assert 2 < num_skipped < 30
    assert not any(skipped[num_skipped:])
    assert [record.step for record in metrics.steps] == list(range(1, 49))  # it counts
    assert [r.learning_rate for r in metrics.steps] == [learning_rate(config, step) for step in range(1, 49)]
    assert all(math.isfinite(record.loss) for record in metrics.steps)
    assert [math.isfinite(record.grad_norm) for record in metrics.steps] == [not skip for skip in skipped]
    assert len({record.val_loss for record in metrics.evals[: num_skipped + 1]}) == 1
    assert metrics.evals[num_skipped + 1].val_loss != metrics.evals[0].val_loss


def test_fp16_steps_are_those_of_float32_but_for_rounding(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_fp16(monkeypatch)
    runs = {precision: run(tiny(precision=precision), threads=1) for precision in ("fp32", "bf16", "fp16")}
    for precision in ("bf16", "fp16"):
        assert [r.loss for r in runs[precision].steps] == pytest.approx([r.loss for r in runs["fp32"].steps], rel=5e-3)
        assert [r.grad_norm for r in runs[precision].steps] == pytest.approx(
            [r.grad_norm for r in runs["fp32"].steps], rel=5e-2
        )
        assert bits(runs[precision]) != bits(runs["fp32"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_asks_its_device_for_no_value(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """A GPU would be waited for. Tensors of the meta device have no values, so that asking for one is an error."""
    allow_fp16(monkeypatch)
    monkeypatch.setattr(train_module, "conditions", lambda *_: {})
    monkeypatch.setattr(train_module, "autocast", lambda *_: nullcontext)  # which PyTorch has not for meta
    config = resolve(tiny(precision=precision), this_machine("cpu"))
    trainer = Trainer(config, load_corpus(config), "meta", None, 1e9)
    assert trainer.state.scaler.is_enabled() == (precision == "fp16")
    trainer.state.optimizer._fused = trainer.state.optimizer._step_supports_amp_scaling = True  # as on a GPU
    for _ in range(2):
        _, *told = trainer.optimizer_step()
        for value in told:
            assert value.device.type == "meta"
            with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
                value.item()


# --- Law 11: divergence

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rows", "kept", "diverged_at"),
    [
        ([(1.0, 1.0, False)] * 3, 3, None),
        ([(1.0, 1.0, False), (NAN, 1.0, False), (1.0, 1.0, False)], 1, 7),
        ([(INF, 1.0, False)], 0, 6),
        ([(1.0, INF, False)], 0, 6),
        ([(1.0, NAN, False), (1.0, 1.0, False)], 0, 6),
        ([(1.0, 1.0, False), (1.0, INF, True), (1.0, NAN, True), (1.0, 1.0, False)], 4, None),  # skipped by fp16
        ([(1.0, INF, True), (NAN, INF, True)], 1, 7),  # a loss that isn't finite is no matter of scaling
    ],
)
def test_the_first_number_that_is_not_finite_diverges_unless_it_was_skipped(
    tiny: Tiny, rows: list[tuple[float, float, bool]], kept: int, diverged_at: int | None
) -> None:
    pending = Pending(tiny(), step=5)
    for loss, grad_norm, skipped in rows:
        pending.add(1e-3, torch.tensor(loss), torch.tensor(grad_norm), torch.tensor(skipped))
    records, told = pending.flush()
    assert told == diverged_at
    assert [record.step for record in records] == list(range(6, 6 + kept))
    assert [record.skipped for record in records] == [row[2] for row in rows[:kept]]


@pytest.mark.parametrize("flush_steps", [1, 4, 20])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_divergence_is_a_result_with_the_records_before_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_steps: int, precision: str
) -> None:
    allow_fp16(monkeypatch)
    monkeypatch.setattr(train_module, "FLUSH_STEPS", flush_steps)
    config = tiny(precision=precision, learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=None)
    config = config.replace({"train_tokens": 64 * 24, "num_evals": 1})
    listener = Listener()
    metrics = listener.run(config, workdir=tmp_path)
    assert metrics.state == "DIVERGED"
    assert metrics.diverged_at == len(metrics.steps) + 1 > 1
    assert all(math.isfinite(record.loss) for record in metrics.steps)
    assert all(math.isfinite(record.grad_norm) or record.skipped for record in metrics.steps)
    assert listener.steps == metrics.steps
    assert metrics.objective == math.log(metrics.vocab_size)
    assert metrics.weights_sha256 is None
    assert not (tmp_path / "checkpoint").exists()
    assert bits(run(config, threads=1, workdir=tmp_path)) == bits(metrics)  # and again the same
    monkeypatch.setattr(train_module, "FLUSH_STEPS", 3)
    assert bits(run(config, threads=1)) == bits(metrics)


def test_gradients_that_overflow_at_any_scale_diverge(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving the loss scale again and again must come to an end."""
    allow_fp16(monkeypatch)
    backward = Trainer._backward

    def overflowing(self: Trainer, index: int) -> Tensor:
        loss = backward(self, index)
        next(self.state.model.parameters()).grad[0, 0] = math.inf  # type: ignore[index]
        return loss

    monkeypatch.setattr(Trainer, "_backward", overflowing)
    metrics = run(tiny(precision="fp16", train_tokens=64 * 48), threads=1)
    assert metrics.state == "DIVERGED"
    assert 10 < len(metrics.steps) < 20  # 16 halvings of the first scale
    assert all(record.skipped for record in metrics.steps)


def test_a_model_whose_evaluation_is_not_finite_diverges_at_once(tiny: Tiny) -> None:
    metrics = run(tiny(precision="fp32", init_std=1e30), threads=1)
    assert (metrics.state, metrics.steps, metrics.evals, metrics.diverged_at) == ("DIVERGED", [], [], 0)
    assert metrics.objective == math.log(metrics.vocab_size)


def test_objective_is_at_most_the_logarithm_of_the_vocabulary(tiny: Tiny) -> None:
    metrics = run(tiny(learning_rate=10.0, warmup_ratio=0.0, schedule="constant"), threads=1)
    assert metrics.state == "COMPLETE"
    assert metrics.final.val_loss > math.log(metrics.vocab_size)
    assert metrics.objective == math.log(metrics.vocab_size)


# --- What a run leaves


def test_final_weights_are_those_of_the_digest_and_of_the_last_evaluation(tiny: Tiny, tmp_path: Path) -> None:
    metrics = run(tiny(), threads=1, workdir=tmp_path)
    model, config, tokenizer = load_model(tmp_path / "checkpoint")
    assert config == resolve(tiny(), this_machine("cpu"))
    assert tokenizer is not None
    assert sum(p.numel() for p in model.parameters()) == metrics.num_parameters
    assert weights_sha256(model) == metrics.weights_sha256
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_corpus_of_token_ids_trains_without_a_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(data="random", tokenizer="ids", vocab_size=16)
    assert run(config, threads=1, workdir=tmp_path).vocab_size == 16
    assert load_model(tmp_path / "checkpoint")[2] is None


@pytest.mark.slow
def test_every_compiled_run_of_a_process_is_compiled(tiny: Tiny) -> None:
    """PyTorch by itself runs the same code eagerly once it has compiled it for a few models."""
    config = tiny(train_tokens=64 * 3, precision="fp32", compile=True)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (16, 20, 24):
            assert run(config.replace({"d_model": width}), threads=1).state == "COMPLETE"


@pytest.mark.slow
def test_a_compiled_model_computes_the_same(tiny: Tiny) -> None:
    """Dropout's masks too, which differ from step to step without another compilation."""
    fields = {"dropout": 0.2, "train_tokens": 64 * 3, "precision": "fp32"}
    plain, compiled = (run(tiny(**fields, compile=choice), threads=1) for choice in (False, True))
    assert [r.loss for r in compiled.steps] == pytest.approx([r.loss for r in plain.steps], rel=1e-5)
    assert compiled.final.val_loss == pytest.approx(plain.final.val_loss, rel=1e-5)
