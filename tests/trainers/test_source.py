"""The code of a trainer of one's own: what of it is told apart, and that a worker has it as it was read."""

import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.trainers.source import SourceCode, source_of

FILE = '''"""How fast?"""
from beside import rate
from sweeps import Choice, Sweep

def run(config, **_):
    from pack.deep import depth
    return rate + depth

SWEEP = Sweep(base=None, space={"rate": Choice(1, 2)}, run=run, version=1)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an experiment file and what it imports from beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # what is installed comes first, as for an experiment
    (tmp_path / "pack").mkdir()
    files = {
        "own.py": FILE,
        "beside.py": "import json\nrate = 1\n",
        "other.py": "",
        "json.py": "",  # as the standard library's, which is imported
        "pack/__init__.py": "",
        "pack/deep.py": "from . import deeper\ndepth = deeper.depth\n",
        "pack/deeper.py": "depth = 2\n",
        "pack/other.py": "",
        "sweeps.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    sys.path_importer_cache.clear()
    return tmp_path


def read(folder: Path) -> SourceCode:
    return source_of(folder / "own.py", (folder / "own.py").read_bytes())


def test_what_a_file_imports_from_beside_it_belongs_to_it_and_nothing_else(folder: Path) -> None:
    assert set(read(folder).modules) == {"beside", "pack", "pack.deep", "pack.deeper"}


@pytest.mark.parametrize(
    ("name", "old", "new", "is_other"),
    [
        ("own.py", "rate + depth", "rate - depth", True),
        ("own.py", "run=run", "run=lambda config, **_: 0", True),
        ("own.py", "How fast?", "How slow?", False),
        ("own.py", "Choice(1, 2)", "Choice(1, 2, 3)", False),
        ("own.py", "\n\nSWEEP", "\n# A comment between two statements\n\nSWEEP", False),
        ("beside.py", "rate = 1", "rate = 2", True),
        ("pack/deeper.py", "depth = 2", "depth = 3", True),
        ("pack/other.py", "", "new = 1", False),
        ("other.py", "", "new = 1", False),
    ],
)
def test_the_digest_is_of_what_may_change_a_training(
    folder: Path, name: str, old: str, new: str, is_other: bool
) -> None:
    before = read(folder).sha256
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new) if old else new)
    assert (read(folder).sha256 != before) is is_other


def test_a_module_that_is_no_python_is_named(folder: Path) -> None:
    (folder / "pack" / "deeper.py").write_text("depth = = 2\n")
    with pytest.raises(ValueError, match=r"deeper\.py: invalid syntax"):
        read(folder)


def test_a_process_imports_the_modules_as_they_were_read(folder: Path) -> None:
    program = f"""
import sys
from pathlib import Path
sys.path.append({str(folder)!r})
from sweeps.trainers.source import source_of
file = Path({str(folder)!r}) / "own.py"
source = source_of(file, file.read_bytes())
(file.parent / "beside.py").write_text("rate = 100")
(file.parent / "pack" / "deeper.py").unlink()
source.import_from_here()
from pack.deep import depth
import beside, pack
print(beside.rate, depth, beside.__file__, pack.__path__)
again = source_of(file, file.read_bytes().replace(b"from pack.deep import depth", b"depth = 0"))
again.import_from_here()  # of a later run in the same process
import beside as later
print(later.rate, sum(type(finder).__module__ == source_of.__module__ for finder in sys.meta_path))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == [f"1 2 {folder / 'beside.py'} ['{folder / 'pack'}']", "100 1"], ended


def test_an_error_is_placed_where_the_code_called_what_raised_it(folder: Path) -> None:
    source = read(folder)
    space: dict[str, object] = {}
    exec(compile(b"import json\ndef parse():\n    json.loads('{')\n", folder / "beside.py", "exec"), space)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        space["parse"]()  # type: ignore[operator]
    assert source.place_in(error.value) == "beside.py, line 3"
    with pytest.raises(ZeroDivisionError) as elsewhere:
        1 / 0  # noqa: B018
    assert source.place_in(elsewhere.value) is None
