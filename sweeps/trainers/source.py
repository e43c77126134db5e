"""The code of a trainer of the user's own: the file it stands in and the modules beside it, as they were read.

A worker trains with these, wherever it is and whatever became of the files since. Knows nothing of what the code does.
"""

import ast
import hashlib
import io
import sys
import tokenize
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

OURS = ("sweeps", "tinylm_core", "experiments")  # their version is another tag


@dataclass(frozen=True)
class Module:
    """A module's file and what stood in it."""

    path: Path
    content: bytes


@dataclass(frozen=True)
class SourceCode:
    """An experiment file, and the modules that it or they import from beside it, by name."""

    file: Module
    modules: Mapping[str, Module]

    @cached_property
    def sha256(self) -> str:
        """Hex, of what may change a training: the modules, and the file but for its docstring and its sweep."""
        digest = hashlib.sha256()
        for statement in training_statements(self.file.content):
            digest.update(statement.encode() + b"\0")
        for name, module in sorted(self.modules.items()):
            digest.update(f"{name}\0{hashlib.sha256(module.content).hexdigest()}\0".encode())
        return digest.hexdigest()

    def place_in(self, error: BaseException) -> str | None:
        """The file and line in this code where an error was raised, or where that was called which raised it."""
        paths = {str(module.path): module.path for module in (self.file, *self.modules.values())}
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename in paths:
                return f"{paths[frame.filename].name}, line {frame.lineno}"
        return None

    def import_from_here(self) -> None:
        """From now on this process imports the modules as they are here, and neither as their files are now nor as an
        earlier run in it had them."""
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        sys.meta_path[:] = [_Finder(self.modules), *others]
        for name in self.modules:
            sys.modules.pop(name, None)


def source_of(path: Path, content: bytes) -> SourceCode:
    """The code of an experiment file that was read. ValueError for a module that is no Python. Executes nothing.

    What functions import when they are called counts too; what is found only by a name made at run time does not.
    """
    modules: dict[str, Module] = {}
    waiting = [("", content)]
    while waiting:
        importer, source = waiting.pop()
        for name in _imported_names(source, importer):
            if name not in modules and (file := _file_beside(name, path.parent)) is not None:
                modules[name] = Module(file, file.read_bytes())
                try:
                    ast.parse(modules[name].content)
                except (SyntaxError, ValueError) as error:
                    raise ValueError(f"{file}: {error}") from None
                package = name if file.name == "__init__.py" else name.rpartition(".")[0]
                waiting.append((package, modules[name].content))
    return SourceCode(Module(path, content), modules)


def training_statements(content: bytes) -> Iterator[str]:
    """The source of a file's statements but for its docstring and, of `SWEEP = …`, all but the trainer it names."""
    text = _text(content)
    for number, statement in enumerate(ast.parse(content).body):
        is_docstring = number == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if is_docstring:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "SWEEP" for target in targets):
            keywords = [node for node in ast.walk(statement) if isinstance(node, ast.keyword) and node.arg == "run"]
            yield from (ast.get_source_segment(text, keyword.value) or "" for keyword in keywords)
        else:
            yield ast.get_source_segment(text, statement) or ""


def _text(content: bytes) -> str:
    """A Python source, in the encoding that it says it has."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode(encoding)


def _imported_names(content: bytes, package: str) -> Iterator[str]:
    """The dotted names that a module of a package imports, those of the packages that they are in, and what may be
    modules in them."""
    for node in ast.walk(ast.parse(content)):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                parents = package.split(".")[: 1 - node.level or None] if node.level else []
                module = ".".join([*parents, *([node.module] if node.module else [])])
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            case _:
                continue
        for parts in (name.split(".") for name in names if not name.startswith(".")):
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _file_beside(name: str, folder: Path) -> Path | None:
    """The file of a module in a folder, unless it is ours or one of its name is installed, which would be imported."""
    first = name.partition(".")[0]
    inside = folder.joinpath(*name.split("."))
    file = next(filter(Path.is_file, (inside / "__init__.py", inside.with_suffix(".py"))), None)
    if file is None or first in OURS:
        return None
    found = PathFinder.find_spec(first, [*sys.path, str(folder)])  # as an experiment file is executed
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or [])]
    here = {str(place) for place in (folder / first, folder / first / "__init__.py", folder / f"{first}.py")}
    return file if here & set(places) else None


class _Finder(MetaPathFinder, InspectLoader):
    """Imports modules from what was read of them."""

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self._modules = modules

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname not in self._modules:
            return None
        file = self._modules[fullname].path
        spec = spec_from_loader(fullname, self, origin=str(file), is_package=file.name == "__init__.py")
        if spec is not None:
            spec.has_location = True  # it has a `__file__`
            if spec.submodule_search_locations is not None:
                spec.submodule_search_locations.append(str(file.parent))
        return spec

    def get_source(self, fullname: str) -> str:
        return _text(self._modules[fullname].content)

    def get_code(self, fullname: str) -> CodeType:
        module = self._modules[fullname]
        code: CodeType = compile(module.content, module.path, "exec")
        return code
