"""Finds experiment files and loads the sweep each declares. Knows no store, and runs no sweep."""

import ast
import hashlib
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from sweeps.spec.command import Command
from sweeps.spec.naming import check_name
from sweeps.spec.sweep import Sweep
from tinylm_core.config import explain, unknown_name

UNKNOWN_KEYWORD = re.compile(r"Sweep\.__init__\(\) got an unexpected keyword argument '(\w+)'.*")
SWEEP_ARGUMENTS = [field.name for field in fields(Sweep) if field.init]


@dataclass(frozen=True)
class Experiment:
    """A sweep with the name and the words its file gives it."""

    name: str  # the file's stem
    file: str | None  # where it stands: relative to the folder that holds `experiments`, else the absolute path
    docstring: str
    sweep: Sweep
    path: Path | None = None  # the file, and its content as it was read
    source: bytes = b""
    flags: tuple[tuple[str, str], ...] = ()  # with their values: what a command line has changed of the file

    @property
    def question(self) -> str:
        """The first line of the docstring."""
        return self.docstring.strip().partition("\n")[0]

    @property
    def command(self) -> Command:
        """What runs it again: the name, or the file, and what was changed; a call where it stands in no file."""
        if self.file is None:
            return Command(self.name, is_call=True)
        comes_along = self.file == f"experiments/{self.name}.py"
        return Command(self.name if comes_along else self.file, self.flags)

    @property
    def made_by(self) -> str:
        """The file, as the store keeps it."""
        return self.file or "run_sweep"


def experiments_folder() -> Path:
    """The folder of the experiments that come with the project: beside this package, whatever else has its name."""
    return Path(__file__).resolve().parents[2] / "experiments"


def list_experiments() -> dict[str, str]:
    """Name → question of every included experiment, without running any."""
    files = sorted(experiments_folder().glob("*.py"))
    return {file.stem: first_line(file) for file in files if not file.stem.startswith("_")}


def first_line(file: Path) -> str:
    """The question that a file puts, the first line of its docstring; empty where it puts none or can't be read."""
    try:
        docstring = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    except (SyntaxError, ValueError):  # reported when it is loaded
        docstring = ""
    return docstring.strip().partition("\n")[0]


def load_experiment(name_or_path: str) -> Experiment:
    """The experiment of that name, or in that file. ValueError, in one line, for one that isn't there or raises."""
    if name_or_path.endswith(".py") or "/" in name_or_path:
        file = Path(name_or_path).resolve()
        if not file.is_file():
            raise ValueError(f"no experiment file at {name_or_path}")
    else:
        known = list_experiments()
        is_here = name_or_path not in known and Path(f"{name_or_path}.py").is_file()
        name = name_or_path if is_here else completed("experiment", name_or_path, known)
        if name not in known:
            here = f"; {name}.py is a file here: python -m sweeps.run {name}.py" if is_here else ""
            raise ValueError(unknown_name("experiment", name, known) + f" (python -m sweeps.run --list){here}")
        file = experiments_folder() / f"{name}.py"
    check_name(file.stem)
    root = experiments_folder().parent
    relative = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
    source = file.read_bytes()
    sweep, docstring = executed(source, file)
    return Experiment(file.stem, relative, docstring, sweep, file, source)


def sweep_name(name_or_path: str, known: Iterable[str]) -> str:
    """The name under which a store that knows these keeps the sweep of that name, of that start of one, or file."""
    return Path(name_or_path).stem if name_or_path.endswith(".py") else completed("sweep", name_or_path, known)


def completed(what: str, name: str, known: Iterable[str]) -> str:
    """The only known name that starts so, or the name as it is where none does. ValueError where several do."""
    starting = [other for other in known if other.startswith(name)] if name else []
    if name in starting or not starting:
        return name
    if len(starting) > 1:
        raise ValueError(f"{what} {name!r}: {len(starting)} names start so: {', '.join(starting)}")
    return starting[0]


def executed(source: bytes, file: Path) -> tuple[Sweep, str]:
    """The sweep that an experiment file of this content declares, and its docstring. ValueError where it raises.

    As for any Python script, what stands beside the file can be imported.
    """
    name = f"_experiment_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # where dataclasses and pydantic look names up
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever a user's file raises is reported with its own line
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        message = explain(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        if isinstance(error, TypeError) and (keyword := UNKNOWN_KEYWORD.fullmatch(message)):
            error = ValueError(message := unknown_name("argument of Sweep", keyword[1], SWEEP_ARGUMENTS))
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{file.name}, line {line}: {kind}{message}") from None
    sweep = getattr(module, "SWEEP", None)
    if not isinstance(sweep, Sweep):
        raise ValueError(f"{file.name} must define SWEEP = Sweep(…)")
    return sweep, ast.get_docstring(ast.parse(source), clean=False) or file.stem
