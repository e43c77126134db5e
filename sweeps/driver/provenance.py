"""Where a run comes from: commit and diff, installed versions, machine, command line.

User and password are taken out of addresses; the diff is kept as it is.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from sweeps.store import schema
from sweeps.store.secrets import without_secrets
from tinylm_core.config import NUMERICS_VERSION

MAX_DIFF_BYTES = 1_000_000


@dataclass(frozen=True)
class CodeVersion:
    """The checkout this process runs from; empty where it is an installed package."""

    commit: str
    remote: str
    diff: str  # of tracked files against the commit

    @property
    def is_dirty(self) -> bool:
        """Whether a tracked file differs from the commit."""
        return bool(self.diff)


@cache
def code() -> CodeVersion:
    """Commit, remote and diff of the checkout that holds this file."""
    folder = Path(__file__).parent
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
    if not tracked:
        return CodeVersion("", "", "")
    diff = _git(folder, "diff", "HEAD")
    if len(diff) > MAX_DIFF_BYTES:
        diff = diff[:MAX_DIFF_BYTES] + "\n[cut: the diff is longer]\n"
    remote = without_secrets(_git(folder, "remote", "get-url", "origin").strip())
    return CodeVersion(_git(folder, "rev-parse", "HEAD").strip(), remote, diff)


def _git(folder: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def run_tags(conditions: dict[str, str]) -> dict[str, str]:
    """The tags that say from which code, and under which conditions, a run is made."""
    here = code()
    return conditions | {
        schema.NUMERICS: str(NUMERICS_VERSION),
        schema.COMMIT: here.commit,
        schema.DIRTY: str(here.is_dirty).lower(),
        "mlflow.source.name": "sweeps.run",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.repoURL": here.remote,
        "mlflow.user": os.environ.get("USER", os.environ.get("LOGNAME", "")),
    }


@cache
def environment() -> str:
    """environment.txt: the command, Python, and every installed distribution with its version."""
    command = " ".join(shlex.quote(without_secrets(word)) for word in sys.argv)
    versions = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    return "\n".join([f"# command: {command}", f"# python {sys.version}", *versions, ""])


def versions(environment: str) -> dict[str, str]:
    """Distribution → version, as an environment.txt has them."""
    lines = [line.partition("==") for line in environment.splitlines() if not line.startswith("#")]
    return {name: version for name, equals, version in lines if equals}
