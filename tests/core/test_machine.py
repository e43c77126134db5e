"""What a machine can do, and the conditions under which bits are equal."""

import json

import pytest
import torch

from tinylm_core.machine import BITS_VARIABLES, Machine, check_precision, conditions, this_machine

PLAIN = Machine("cpu", "AVX2", fast_bf16=False, fast_fp16=False)


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    for device in ("tpu", "cuda:99" if not torch.cuda.is_available() else "tpu:0"):
        with pytest.raises(ValueError, match=f"device='{device}' is not on this machine"):
            this_machine(device)


def test_a_gpu_beyond_the_last_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda": "A", "cuda:0": "A", "cuda:1": "B"}.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert [this_machine(device).name for device in (None, "cuda", "cuda:0", "cuda:1")] == ["A", "A", "A", "B"]
    for device in ("cuda:2", "cuda:7", "cuda:x", "cuda:-1", "cuda:"):
        with pytest.raises(ValueError, match=f"device='{device}' is not on this machine"):
            this_machine(device)


def test_a_cpu_is_always_there() -> None:
    machine = this_machine("cpu")
    assert machine.device == "cpu"
    assert torch.backends.cpu.get_cpu_capability() in machine.name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_every_machine_runs_what_can_be_emulated(precision: str) -> None:
    check_precision(precision, PLAIN)


def test_a_precision_that_can_not_run_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^precision='fp16': cpu \(AVX2\) has no fp16 arithmetic; use bf16$"):
        check_precision("fp16", PLAIN)
    with pytest.raises(ValueError, match=r"^precision='fp64': mps has no float64; use fp32$"):
        check_precision("fp64", Machine("mps", "mps", fast_bf16=False, fast_fp16=True))
    check_precision("fp16", Machine("cuda:0", "H200", fast_bf16=True, fast_fp16=True))


def test_conditions_tell_what_the_bits_depend_on() -> None:
    told = conditions("cpu", 3)
    assert told == json.loads(json.dumps(told))
    assert told["machine.device"] == "cpu"
    assert told["machine.threads"] == "3"
    # A wheel may leave its build out.
    assert told["torch.version"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert told != conditions("cpu", 4)


def test_a_variable_that_changes_bits_is_a_condition_and_no_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BITS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "machine.environment" not in conditions("cpu", 1)  # as of runs from before it was recorded
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert conditions("cpu", 1)["machine.environment"] == "ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE"
