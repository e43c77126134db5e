"""What every command shares: the --store option, exit codes, one line for a user's mistake. Knows no verb."""

import gc
import io
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from sweeps.outbox.errors import DiskFullError, LeaseLostError, TrackerAwayError, reason
from sweeps.store.faults import is_temporary, is_trackers, refusal
from sweeps.store.secrets import make_discreet
from tinylm_core.durable import is_disk_full

DONE, DONE_WITH_FAILURES, USERS_MISTAKE, OUR_FAULT, COME_BACK_LATER = 0, 1, 2, 70, 75
PAUSED = (130, 143)  # by SIGINT, by SIGTERM
READER_GONE = 141  # as a program that SIGPIPE ends: `… | head` has read enough

# New objects between two looks for garbage. A command imports many that stay, and at 700, Python's own, it looks
# through them again and again: 15 % of the CPU time of a short sweep, 10 % of a dry run's.
GARBAGE_EVERY = 50_000

TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# What is imported, at times long after the start: a file of such a name in the working folder would be found instead.
PACKAGES = (
    "click", "cryptography", "filelock", "matplotlib", "mlflow", "numpy", "optuna", "pandas", "platformdirs", "psutil",
    "pyarrow", "pydantic", "ray", "rich", "safetensors", "scipy", "sklearn", "tinylm_core", "tokenizers", "torch",
)  # fmt: skip

EXIT_CODES = {
    "0": "done",
    "1": "done with failures, or stopped after too many of them (reproduce: different)",
    "2": "a mistake in what was asked, in one line",
    "70": "a fault of the program",
    "75": "the tracker is away, the disk full, --max-hours over, or another driver has followed: go on later",
    "130, 143": "paused by Ctrl-C, by SIGTERM: the same command goes on",
    "141": "whoever read the output is gone, as by `| head`: the same command goes on",
}


class OneOf(click.Choice[str]):
    """One of some names; a misspelt one gets the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self.choices:
            return super().convert(value, param, ctx)
        # pydantic, which only a mistake needs
        from tinylm_core.config import unknown_name

        return self.fail(unknown_name("name", value, self.choices), param, ctx)


class FiniteRange(click.FloatRange):
    """A number within bounds; nan is within all of them, and infinity within some."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is no number that can be used", param, ctx)


def help_of(docstring: str | None) -> str:
    """A verb's --help from its module's docstring, its commands as they stand; Python -OO leaves none."""
    return (docstring or "Its words are left out by Python -OO.").replace("\n\n    ", "\n\n\b\n    ")


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--store DIR|http(s)://…"""
    return click.option(
        "--store",
        metavar="DIR|URL",
        help="A folder or an MLflow server. Default: MLFLOW_TRACKING_URI where it is http(s), else ./mlruns.",
    )(command)


def run_command(command: click.Command) -> None:
    """Run a command and exit with its code: what it returned, 2 for a user's mistake, 70 for a fault of ours."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    _mend_terminal()
    gc.set_threshold(GARBAGE_EVERY)
    try:
        _check_shadows()
        # Not by click's own `main`, which ends by itself, with another code, where nobody reads any more.
        with command.make_context(f"python -m sweeps.{command.name}", sys.argv[1:]) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        code = USERS_MISTAKE
    except DiskFullError as error:
        _say(f"{error}; nothing is lost: make room, and the same command goes on")
        code = COME_BACK_LATER
    except TrackerAwayError as error:
        _say(f"the tracker is away ({error}); nothing is lost: the same command sends the rest and goes on")
        code = COME_BACK_LATER
    except LeaseLostError as error:
        _say(str(error))
        code = COME_BACK_LATER
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except (BrokenPipeError, SystemExit):  # rich makes the one the other
        code = READER_GONE
    except ValueError as error:
        if "SWEEPS_DEBUG" in os.environ:
            traceback.print_exc()
        _say(" ".join(str(error).split()))
        code = USERS_MISTAKE
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not _has_working_folder():
            _say("the working folder was removed; change into one that is there")
            _end(USERS_MISTAKE)
        if isinstance(error, OSError) and is_disk_full(error):
            where = f" ({error.filename})" if error.filename else ""
            _say(f"the disk is full{where}; nothing is lost: make room, and the same command goes on")
            _end(COME_BACK_LATER)
        if isinstance(error, PermissionError) and error.filename:
            _say(f"no permission to write or read {error.filename}; nothing is lost: the same command goes on with it")
            _end(USERS_MISTAKE)
        if _is_tracker_away(error):
            _say(f"the tracker is away ({reason(error)}); nothing is lost: the same command goes on once it is back")
            _end(COME_BACK_LATER)
        if is_trackers(error):
            _say(refusal(error))
            _end(USERS_MISTAKE)
        traceback.print_exc()
        _say("this is a fault of the program, not yours")
        code = OUR_FAULT
    _end(code or DONE)


def _mend_terminal() -> None:
    """Output has no secrets, and a question mark for what its encoding lacks; a width of no column is none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a stream that has become something else since Python began
                stream.reconfigure(errors="replace")
                setattr(sys, name, make_discreet(stream))
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "1").isdecimal() or int(os.environ.get(name, "1")) < 1:
            del os.environ[name]


def _end(code: int) -> NoReturn:
    """End with a code, whatever threads are left: an interpreter that ends waits for them, and some die of it."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        code = code or READER_GONE
    except OSError as error:
        if not is_disk_full(error):
            raise
        code = code or COME_BACK_LATER
    if code in (*PAUSED, READER_GONE) or threading.active_count() > 1:
        os._exit(code)
    gc.freeze()  # an interpreter that ends looks for garbage among all that MLflow and pandas have loaded, for a second
    sys.exit(code)


def _check_shadows() -> None:
    """ValueError where a file in the working folder, which `python -m` searches first, hides a package from us."""
    if not _has_working_folder() or sys.path[0] not in ("", str(Path.cwd())):
        return
    here = Path.cwd()
    for name in PACKAGES:
        for path in (here / f"{name}.py", here / name / "__init__.py"):
            is_ours = name == "tinylm_core" and here == Path(__file__).resolve().parents[2]
            if path.is_file() and not is_ours:
                mine = path.relative_to(here)
                raise ValueError(
                    f"{mine} hides the package {name!r} from Python; rename it, or keep the working folder out of "
                    f"Python's way: python -P -m {' '.join(sys.orig_argv[sys.orig_argv.index('-m') + 1 :])}"
                )


def _has_working_folder() -> bool:
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


def _is_tracker_away(error: Exception) -> bool:
    if type(error).__module__.partition(".")[0] not in ("mlflow", "requests", "urllib3", "sqlite3"):
        return False
    return is_temporary(error)


def _say(line: str) -> None:
    click.echo(f"sweeps: {line}", err=True)
