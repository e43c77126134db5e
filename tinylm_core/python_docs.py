"""The built-in corpus: the documentation of the running Python's standard library, English prose on every machine."""

import ast
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

NOT_LIBRARY = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}


def python_docs(library: Path) -> list[str]:
    """Docstrings and reference paragraphs, ordered by digest so that training and validation read alike."""
    pieces = {piece for piece in _pieces(library) if piece and piece.isascii()}
    if not pieces:
        raise ValueError(f"the standard library's source is not in {library}; name another corpus")
    return sorted(pieces, key=lambda piece: hashlib.sha256(piece.encode()).digest())


def _pieces(library: Path) -> Iterator[str]:
    """Read from the source's syntax tree: importing these modules has effects."""
    for path in library.rglob("*.py"):
        place = path.relative_to(library)
        if NOT_LIBRARY.intersection(place.parts) or place.as_posix() == "pydoc_data/topics.py":
            continue
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""
    topics = library / "pydoc_data" / "topics.py"
    for node in _parsed(topics).body if topics.exists() else []:
        if isinstance(node, ast.Assign):
            for topic in ast.literal_eval(node.value).values():
                # By paragraph, because some topics repeat others, and a repeated one would validate on what it trained.
                yield from topic.split("\n\n")


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # some distributions keep templates and Python 2 there
            return ast.Module(body=[], type_ignores=[])
