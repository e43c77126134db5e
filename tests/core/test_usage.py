"""What is told of the machine while a run trains."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from tinylm_core import usage


class NVMLError(Exception):
    """As NVIDIA's own library has it: no RuntimeError."""


def refused(_device: str) -> float:
    raise NVMLError("Not Supported")


@pytest.mark.parametrize(
    ("load", "power", "told"),
    [
        (lambda _: 87, lambda _: 250_000, (87, 250.0)),
        (refused, lambda _: 250_000, (None, 250.0)),
        (lambda _: 87, refused, (87, None)),
        (refused, refused, (None, None)),
    ],
)
def test_what_a_gpu_does_not_tell_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, load: object, power: object, told: tuple[float | None, float | None]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=8e9))
    monkeypatch.setattr(torch.cuda, "utilization", load)
    monkeypatch.setattr(torch.cuda, "power_draw", power)
    record = usage._look(psutil.Process(), "cuda:0")
    assert (record.gpu_memory_megabytes, record.gpu_memory_percent) == (2000, 25)
    assert (record.gpu_utilization_percent, record.gpu_power_watts) == told
