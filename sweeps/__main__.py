"""Lists the verbs, and does what one of them does: `python -m sweeps`. Knows of a verb its name and one line."""

import runpy
import shutil
import sys
import textwrap

from sweeps.terminal.command import DONE, EXIT_CODES, USERS_MISTAKE

# The first line of each module's docstring, said here so that none is read or loaded to list them.
VERBS = {
    "export": "Write a sweep as an Optuna study, for Optuna Dashboard and Optuna's own analyses.",
    "ls": "List the sweeps in a store: how far each is, its best setting, when it last ran, its size on disk.",
    "new": "Write an experiment file that runs as it is, sized for a text of yours.",
    "report": "Write a sweep's report from the store alone, half-finished sweeps included.",
    "reproduce": "Train a run again from its record in the store and compare every step.",
    "rm": "Remove a sweep or a run for ever: its record, its artifacts, its report and its work.",
    "run": "Run a sweep, or go on with it.",
    "sample": "Write text with a trained run.",
}


def main(arguments: list[str]) -> int:
    """List the verbs, or do what `python -m sweeps.VERB …` does; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("python -m sweeps.VERB …    (--help says more of each)\n")
        print_columns(VERBS)
        print("\nExit codes:\n")
        print_columns(EXIT_CODES)
        return DONE
    from sweeps.spec.catalog import completed
    from tinylm_core.config import unknown_name

    try:
        verb = completed("verb", arguments[0], VERBS)
        if verb not in VERBS:
            raise ValueError(unknown_name("verb", verb, VERBS))
    except ValueError as error:
        print(f"sweeps: {error} (python -m sweeps lists them)", file=sys.stderr)
        return USERS_MISTAKE
    sys.argv = [verb, *arguments[1:]]
    runpy.run_module(f"sweeps.{verb}", run_name="__main__", alter_sys=True)
    return DONE


def print_columns(rows: dict[str, str]) -> None:
    """A line a row, wrapped at the terminal's width."""
    first = max(map(len, rows)) + 4
    columns = max(first + 20, shutil.get_terminal_size().columns)
    for name, text in rows.items():
        print(textwrap.fill(text, columns, initial_indent=f"  {name}".ljust(first), subsequent_indent=" " * first))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
