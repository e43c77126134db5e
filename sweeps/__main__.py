"""Lists the verbs: `python -m sweeps`. A verb is a module here that can be run; its docstring says what it does."""

import ast
import runpy
import shutil
import sys
import textwrap
from pathlib import Path

from sweeps.terminal.command import DONE, EXIT_CODES, USERS_MISTAKE

RUNNABLE = 'if __name__ == "__main__":'


def verbs() -> dict[str, str]:
    """Verb → the first line of its docstring, without importing any."""
    sources = {file.stem: file.read_text() for file in sorted(Path(__file__).parent.glob("[!_]*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        for name, source in sources.items()
        if f"\n{RUNNABLE}" in source
    }


def main(arguments: list[str]) -> int:
    """List the verbs, or do what `python -m sweeps.VERB …` does; returns the exit code."""
    known = verbs()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("python -m sweeps.VERB …    (--help says more of each)\n")
        print_columns(known)
        print("\nExit codes:\n")
        print_columns(EXIT_CODES)
        return DONE
    from sweeps.spec.catalog import completed
    from tinylm_core.config import unknown_name

    try:
        verb = completed("verb", arguments[0], known)
        if verb not in known:
            raise ValueError(unknown_name("verb", verb, known))
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
