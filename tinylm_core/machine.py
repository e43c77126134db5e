"""What of a machine decides the bits of a run: its device, its instruction set, its library versions.

torch takes more than a second to load: a config is resolved, and its identity told, without it.
"""

import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib import metadata

version = cache(metadata.version)  # a driver asks for each of its runs, and it is read from a file


# With one of these the same processor gives other bits: another instruction set, other precisions inside a product.
# What ATEN_CPU_CAPABILITY says is the CPU capability itself.
BITS_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
                  "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE")  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A device to train on and what it is good at."""

    device: str  # cpu, cuda:0, mps
    name: str  # the device's own name, or the CPU capability that PyTorch dispatches on
    fast_bf16: bool  # bf16 matrix products run faster than fp32 ones
    fast_fp16: bool  # fp16 matrix products run on hardware


def this_machine(device: str | None = None) -> Machine:
    """The machine this process runs on; without `device` its first GPU, else the CPU. ValueError where none is."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    gpus = ("cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())))
    if device in gpus and torch.cuda.is_available():
        name = torch.cuda.get_device_name(device)
        return Machine(device, name, torch.cuda.get_device_capability(device) >= (8, 0), fast_fp16=True)
    if kind == "mps" and torch.backends.mps.is_available():
        return Machine(device, "mps", fast_bf16=False, fast_fp16=True)
    if kind != "cpu":
        raise ValueError(f"device={device!r} is not on this machine")
    # Without hardware for it a bf16 or fp16 product is emulated, and slow.
    fast_fp16 = bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return Machine(device, cpu_capability(), has_fast_bf16(), fast_fp16)


def check_precision(precision: str, machine: Machine) -> None:
    """ValueError, in one line, for a precision that this machine can't run."""
    if precision == "fp16" and not machine.fast_fp16:
        raise ValueError(f"precision='fp16': {machine.device} ({machine.name}) has no fp16 arithmetic; use bf16")
    if precision == "fp64" and machine.device.startswith("mps"):
        raise ValueError("precision='fp64': mps has no float64; use fp32")


def conditions(device: str, threads: int) -> dict[str, str]:
    """The conditions of law 1: runs of one identity under equal conditions have equal bits."""
    machine = this_machine(device)
    kind = device.partition(":")[0]
    said = " ".join(f"{name}={os.environ[name]}" for name in BITS_VARIABLES if os.environ.get(name))
    return ({"machine.environment": said} if said else {}) | {
        "machine.device": kind if kind == "cpu" else f"{kind} ({machine.name})",
        "machine.threads": str(threads),
        "machine.cpu_capability": machine.name if kind == "cpu" else cpu_capability(),
        "machine.arch": platform.machine(),
        "torch.version": version("torch"),
        "numpy.version": version("numpy"),
        "tokenizers.version": version("tokenizers"),
    }


def cpu_capability() -> str:
    """The instruction set that PyTorch's CPU kernels dispatch on, e.g. AVX512."""
    import torch

    return torch.backends.cpu.get_cpu_capability() + ("+bf16" if has_fast_bf16() else "")


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware; PyTorch has no public question for it."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
