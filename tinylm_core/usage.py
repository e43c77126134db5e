"""What this process takes of the machine while it trains: CPU, memory, GPU. Changes nothing of what it computes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from tinylm_core.records import UsageRecord

FIRST_SECONDS = 1.0  # then twice as long each time, so that a run of seconds has a few
MOST_SECONDS = 10.0


@contextmanager
def watched(say: Callable[[UsageRecord], None], device: str) -> Iterator[None]:
    """Look at this process now and then, by a thread of its own, and `say` what is found; nothing once this is left."""
    over = threading.Event()

    def watch() -> None:
        process = psutil.Process()
        process.cpu_percent()  # the first look has nothing to compare with
        pause = FIRST_SECONDS
        while not over.wait(pause):
            say(_look(process, device))
            pause = min(2 * pause, MOST_SECONDS)

    thread = threading.Thread(target=watch, name="usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look(process: psutil.Process, device: str) -> UsageRecord:
    resident = process.memory_info().rss
    return UsageRecord(
        time.time_ns() // 1_000_000,
        process.cpu_percent(),
        resident / 1e6,
        resident / psutil.virtual_memory().total * 100,
        *_look_at_gpu(device),
    )


def _look_at_gpu(device: str) -> tuple[float | None, float | None, float | None, float | None]:
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None, None, None, None
    held = torch.cuda.memory_reserved(device)
    share = held / torch.cuda.get_device_properties(device).total_memory * 100
    try:
        return held / 1e6, share, torch.cuda.utilization(device), torch.cuda.power_draw(device) / 1000
    except (ImportError, RuntimeError):  # without NVIDIA's own library, or where a virtual GPU tells nothing
        return held / 1e6, share, None, None
