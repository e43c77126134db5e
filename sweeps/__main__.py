"""Lists the verbs: `python -m sweeps`. A verb is a module here that can be run; its docstring says what it does."""

import ast
import runpy
import sys
from pathlib import Path

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
        width = max(map(len, known))
        print("python -m sweeps.VERB …    (--help says more of each)\n")
        for name, what in known.items():
            print(f"  {name:{width}}  {what}")
        return 0
    verb = arguments[0]
    if verb not in known:
        from tinylm_core.config import unknown_name

        print(f"sweeps: {unknown_name('verb', verb, known)} (python -m sweeps lists them)", file=sys.stderr)
        return 2
    sys.argv = arguments
    runpy.run_module(f"sweeps.{verb}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
