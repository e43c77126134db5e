"""PyTorch's settings under which the same inputs give the same bits (law 1). Knows nothing of what is computed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch

DETERMINISTIC = 2  # PyTorch's debug mode in which what has no deterministic algorithm is an error


@contextmanager
def reproducible(device: str, threads: int, *, compiles: bool = False) -> Iterator[None]:
    """The settings under which the same inputs give the same bits; the caller's are given back afterwards."""
    threads_before, deterministic_before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # a module with a property, of which its types don't know
    fills_before = memory.fill_uninitialized_memory
    dtype_before = torch.get_default_dtype()
    cuda = device.startswith("cuda")
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Pinned to its GPU, so that it holds no memory of the first one.
    pinned = torch.cuda.device(device) if cuda else nullcontext()
    with torch.random.fork_rng(devices=[device] if cuda else []), pinned, full_precision_products():
        torch.set_num_threads(threads)
        if cuda:
            _set_deterministic(DETERMINISTIC, compiles)
            memory.fill_uninitialized_memory = False  # nothing here reads such memory
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            if cuda:
                _set_deterministic(deterministic_before, compiles)
                memory.fill_uninitialized_memory = fills_before
            torch.set_default_dtype(dtype_before)


def _set_deterministic(mode: int, compiles: bool) -> None:
    """PyTorch has two settings for it. The one that its compiler hears of loads that, for a second of each process."""
    if compiles:
        torch.use_deterministic_algorithms(mode != 0)
    torch.set_deterministic_debug_mode(mode)


@contextmanager
def full_precision_products() -> Iterator[None]:
    """Products of float32 matrices in float32 and no shorter type; the caller's settings are given back afterwards.

    PyTorch has an older setting for it and, since 2.9, a newer one. Where the newer was used the older can't be read.
    """
    backends: Any = torch.backends
    newer = [backends.cuda.matmul, backends.mkldnn.matmul] if hasattr(backends, "fp32_precision") else []
    newer_before = [matmul.fp32_precision for matmul in newer]
    older_before = None
    with suppress(RuntimeError):
        older_before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if older_before is not None:
            torch.set_float32_matmul_precision(older_before)
        for matmul, before in zip(newer, newer_before, strict=True):
            matmul.fp32_precision = "none"  # as the setting for all of PyTorch says
            if matmul.fp32_precision != before:
                matmul.fp32_precision = before
