"""What every command shares: the --store option, exit codes, one line for a user's mistake. Knows no verb."""

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from sweeps.outbox.errors import DiskFullError, TrackerAwayError, reason
from sweeps.store.place import without_user_info
from tinylm_core.durable import is_disk_full

DONE, DONE_WITH_FAILURES, USERS_MISTAKE, OUR_FAULT, COME_BACK_LATER = 0, 1, 2, 70, 75
PAUSED = (130, 143)  # by SIGINT, by SIGTERM

# New objects between two looks for garbage. A command imports many that stay, and at 700, Python's own, it looks
# through them again and again: 15 % of the CPU time of a short sweep, 10 % of a dry run's.
GARBAGE_EVERY = 50_000

TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

EXIT_CODES = {
    "0": "done",
    "1": "done with failures, or stopped after too many of them (reproduce: different)",
    "2": "a mistake in what was asked, in one line",
    "70": "a fault of the program",
    "75": "the tracker is away, the disk full, or --max-hours are over: the same command goes on later",
    "130, 143": "paused by Ctrl-C, by SIGTERM: the same command goes on",
}


class OneOf(click.Choice[str]):
    """One of some names; a misspelt one gets the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self.choices:
            return super().convert(value, param, ctx)
        # pydantic, which only a mistake needs
        from tinylm_core.config import unknown_name

        return self.fail(unknown_name("name", value, self.choices), param, ctx)


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
    gc.set_threshold(GARBAGE_EVERY)
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        _say(error.format_message())
        code = USERS_MISTAKE
    except DiskFullError as error:
        _say(f"{error}; nothing is lost: make room, and the same command goes on")
        code = COME_BACK_LATER
    except TrackerAwayError as error:
        _say(f"the tracker is away ({error}); nothing is lost: the same command sends the rest and goes on")
        code = COME_BACK_LATER
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except ValueError as error:
        if "SWEEPS_DEBUG" in os.environ:
            traceback.print_exc()
        _say(" ".join(str(error).split()))
        code = USERS_MISTAKE
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):
            where = f" ({error.filename})" if error.filename else ""
            _say(f"the disk is full{where}; nothing is lost: make room, and the same command goes on")
            sys.exit(COME_BACK_LATER)
        if isinstance(error, PermissionError) and error.filename:
            _say(f"no permission to write or read {error.filename}; nothing is lost: the same command goes on with it")
            sys.exit(USERS_MISTAKE)
        if _is_tracker_away(error):
            _say(f"the tracker is away ({reason(error)}); nothing is lost: the same command goes on once it is back")
            sys.exit(COME_BACK_LATER)
        traceback.print_exc()
        _say("this is a fault of the program, not yours")
        code = OUR_FAULT
    if code in PAUSED:  # an interpreter waits for its threads, one that waits for a tracker too, and some die of it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    gc.freeze()  # an interpreter that ends looks for garbage among all that MLflow and pandas have loaded, for a second
    sys.exit(code or DONE)


def _is_tracker_away(error: Exception) -> bool:
    if type(error).__module__.partition(".")[0] not in ("mlflow", "requests", "urllib3", "sqlite3"):
        return False
    # MLflow, which has been loaded where this matters
    from sweeps.store import is_temporary

    return is_temporary(error)


def _say(line: str) -> None:
    click.echo(f"sweeps: {without_user_info(line)}", err=True)
