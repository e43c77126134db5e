"""What this process takes of the machine while it trains: CPU, memory, GPU. Changes nothing of what it computes.

torch is asked where there is a GPU, and is loaded by then.
"""

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
    power = _told(torch.cuda.power_draw, device)
    return held / 1e6, share, _told(torch.cuda.utilization, device), None if power is None else power / 1000


def _told(ask: Callable[[str], float], device: str) -> float | None:
    """None without NVIDIA's own library, or where it can't tell: a slice of a GPU has no load, some cards no sensor."""
    try:
        return ask(device)
    except Exception:  # its errors have no narrower class in common, and their names come with the library
        return None
