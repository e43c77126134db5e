"""The house as its files say it: which file imports which, and on which floor each room stands.

An import inside a function counts as one; what only a type checker reads, under TYPE_CHECKING, does not.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("tinylm_core", "sweeps", "experiments")
FILES = {
    path.relative_to(REPOSITORY).as_posix(): path
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
}

# From the top floor down: what each room may import of the others.
ROOMS: dict[str, frozenset[str]] = {
    name: frozenset(below.split())
    for name, below in {
        "verbs": "session terminal driver answer outbox store analysis plan search workers spec core",
        "session": "terminal driver answer outbox store analysis plan workers spec core",
        "terminal": "driver answer outbox store analysis plan trainers workers spec core",
        "driver": "outbox store analysis plan search trainers workers spec core",
        "answer": "outbox store analysis plan search spec core",
        "outbox": "store plan spec core",
        "store": "plan spec core",
        "analysis": "plan spec core",
        "plan": "trainers spec core",
        "search": "spec core",
        "trainers": "spec core",
        "workers": "core",
        "spec": "core",
        "core": "",
    }.items()
}
SESSION = ("sweeps/api.py", "sweeps/session.py")


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in FILES}


def room_of(file: str) -> str | None:
    """The room of a file; None for the package's own `__init__`, and for experiments, which are data."""
    package, *folders, _ = file.split("/")
    if package == "experiments" or file == "sweeps/__init__.py":
        return None
    if package == "tinylm_core":
        return "core"
    if folders:
        return folders[0]
    return "session" if file in SESSION else "verbs"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of it but what only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from nodes(child)


@cache
def imports(file: str) -> frozenset[str]:
    """Dotted names a file imports anywhere in it: `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in nodes(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def imported_files(file: str) -> frozenset[str]:
    """The files of ours that a file imports: of `from a import b` that of a.b where it is one, else a's."""
    found: set[str] = set()
    for node in nodes(ast.parse(FILES[file].read_text())):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            names = (name if name in MODULES else str(node.module) for name in whole)
        found |= {MODULES[name] for name in names if name in MODULES}
    return frozenset(found - {file})


def importers(name: str) -> set[str]:
    """The files that import a module or a part of it."""
    return {file for file in FILES if any(f"{found}.".startswith(f"{name}.") for found in imports(file))}


def strangers() -> list[str]:
    """Imports of a file from a room that its own may not know, a line each; an arrow up is one of them."""
    return [
        f"{file} imports {other}"
        for file in sorted(FILES)
        for other in sorted(imported_files(file))
        if (room := room_of(file)) and (far := room_of(other)) and far != room and far not in ROOMS[room]
    ]


def upward() -> list[str]:
    """Imports from a room that stands above, a line each."""
    floors = {room: number for number, room in enumerate(reversed(ROOMS))}
    return [
        f"{file} imports {other}"
        for file in sorted(FILES)
        for other in sorted(imported_files(file))
        if (room := room_of(file)) and (far := room_of(other)) and floors[far] > floors[room]
    ]


def layers(edges: Mapping[str, Iterable[str]]) -> tuple[list[list[str]], list[str]]:
    """Names by floor, from the ground up; and what is left, which imports itself in a circle."""
    floors: list[list[str]] = []
    done: set[str] = set()
    while ready := sorted(name for name in edges if name not in done and set(edges[name]) <= done):
        floors.append(ready)
        done |= set(ready)
    return floors, sorted(edges.keys() - done)


def file_layers() -> tuple[list[list[str]], list[str]]:
    """The files by floor, and those in a circle, or above one."""
    return layers({file: imported_files(file) for file in FILES})


def package_layers() -> tuple[list[list[str]], list[str]]:
    """The rooms, and the files that stand beside them, by floor; and those in a circle."""
    unit = {file: _unit(file) for file in FILES}
    edges: dict[str, set[str]] = {name: set() for name in unit.values()}
    for file, name in unit.items():
        edges[name] |= {unit[other] for other in imported_files(file)} - {name}
    return layers(edges)


def _unit(file: str) -> str:
    package, *folders, _ = file.split("/")
    return file if package == "sweeps" and not folders else "/".join([package, *folders[:1]]) + "/"


def lengths() -> dict[str, int]:
    """Lines of each file of the house, the longest first; experiments are data."""
    counted = {file: len(path.read_text().splitlines()) for file, path in FILES.items() if room_of(file)}
    return dict(sorted(counted.items(), key=lambda item: -item[1]))


def described() -> str:
    """The house in words: its floors, what runs up or in circles, and how long its files are."""
    floors, circling = package_layers()
    longest = lengths()
    lines = [f"floor {len(floors) - i:2}  {', '.join(names)}" for i, names in enumerate(reversed(floors))]
    lines += [f"circles: {len(circling)}", *circling, f"imports that run up: {len(upward())}", *upward()]
    file, number = next(iter(longest.items()))
    lines.append(f"{len(longest)} files, longest {file} with {number} lines, median {median(longest.values()):.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(described())
