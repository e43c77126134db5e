"""What the benchmarks share: sides measured in turn, medians, commands timed whole, a line for each goal."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from sweeps.spec.config_type import parsed
from tinylm_core.config import RunConfig

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
}


@dataclass(frozen=True)
class Goal:
    """A figure, what it should be, and which way is better."""

    name: str
    figure: float
    goal: float
    unit: str
    at_least: bool = True

    def __str__(self) -> str:
        met = self.figure >= self.goal if self.at_least else self.figure <= self.goal
        wanted = f"{'at least' if self.at_least else 'at most'} {self.goal:g} {self.unit}"
        verdict = "met" if met else f"missed by {abs(self.figure / self.goal - 1):.0%}"
        return f"{self.name:58} {self.figure:9.3g} {self.unit:10} {wanted:22} {verdict}"


def wait_for(device: str) -> None:
    """Until a GPU has done all that it was told; a CPU has."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def changes_of(assignments: Iterable[str]) -> dict[str, object]:
    """`--set FIELD=VALUE`s of a `RunConfig`."""
    pairs = (text.partition("=")[::2] for text in assignments)
    return {name: parsed(RunConfig, name, value) for name, value in pairs}


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each side's measurements, taken in turn so that a machine's moods meet all of them."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            measured[name].append(side())
            print(f"  round {number + 1}: {name} {measured[name][-1]:.4g}", flush=True)
    return {name: median(values) for name, values in measured.items()}


def command_environment() -> dict[str, str]:
    """What a command of this checkout is started with."""
    return os.environ | ENVIRONMENT


def timed(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> float:
    """Seconds that `python COMMAND` takes, imports and all. Its output is shown where it fails."""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=command_environment() | dict(env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    elapsed = time.monotonic() - started
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        )
    return elapsed


def text_file() -> Path | None:
    """Real text, where SWEEPS_TEST_TEXT names some; else the built-in corpus is used."""
    named = os.environ.get("SWEEPS_TEST_TEXT")
    return Path(named) if named else None
