"""Configs with all kinds of types, and values that are hard to draw: trained, found again and reproduced."""

import json
from pathlib import Path

import pytest
from launcher import Launcher
from small_sweeps import Kept

HEAD = """\"\"\"What?\"\"\"
from dataclasses import dataclass, field
from typing import Literal

from sweeps import Choice, Sweep
from tinylm_core.records import EvalRecord, Metrics, StepRecord


@dataclass(frozen=True)
class Inner:
    names: frozenset[str] = frozenset({"alpha", "beta", "gamma", "delta"})


@dataclass(frozen=True)
class Config:
    FIELDS
    num_steps: int = 20
    tokens_per_step: int = 8
    seed: int = 0


def train(config, *, on_steps, on_eval, should_stop, **_):
    import zlib
    told = repr(sorted((name, type(value).__name__, len(str(value))) for name, value in vars(config).items()))
    loss = 2.0 + zlib.crc32(told.encode()) % 1000 / 1e4
    on_eval(EvalRecord(0, 0, loss, 0.01, loss, 0.01))
    for step in range(1, config.num_steps + 1):
        loss -= RATE * (loss - 1)
        on_steps([StepRecord(step, step * config.tokens_per_step, loss, 0.1)])
    on_eval(EvalRecord(step, step * config.tokens_per_step, loss + WORSE, 0.01, loss, 0.01))
    return Metrics("COMPLETE", num_parameters=1, vocab_size=8)


"""


@pytest.mark.slow
def test_every_type_is_trained_found_again_by_another_process_and_reproduced(
    launcher: Launcher, tmp_path: Path
) -> None:
    fields = (
        "beta: float | str = 'auto'; act: Literal['relu', 'gelu'] = 'relu'; k: Literal[1, 2, 4] = 2; "
        "prompt: str = 'a' * 7000 + 'b'; inner: Inner = field(default_factory=Inner); clip: float | None = None; "
        "of: tuple[int, ...] = (1, 2); s: frozenset[str] = frozenset({'one', 'two', 'three', 'four'})"
    )
    rate = "(0.1 if config.beta == 'auto' else 0.1 * config.beta) * (1 if config.prompt.endswith('b') else 0.5)"
    head = HEAD.replace("FIELDS", fields.replace("; ", "\n    ")).replace("RATE", f"({rate})").replace("WORSE", "0")
    (tmp_path / "typed.py").write_text(
        head + 'SWEEP = Sweep(base=Config(), run=train, version=1, space={"beta": Choice("auto", 0.5)})\n'
    )
    for _ in range(2):
        done = launcher.run("sweeps.run", "typed.py", "--store", "store", cwd=tmp_path)
        assert done.code == 0, done
    kept = Kept(tmp_path / "store", "typed")
    assert len(kept.runs) == 2  # the second start found them
    for run in kept.runs:
        again = launcher.run("sweeps.reproduce", run.info.run_id, "--store", "store", cwd=tmp_path)
        assert again.code == 0, again
        assert "bit-identical over 20 steps, 2 evaluations" in again.out
    pinned = launcher.run("sweeps.run", "typed.py", "--set", "k=4", "--store", "store", "--quiet", cwd=tmp_path)
    assert pinned.code == 0, pinned
    one, _ = (run for run in kept.runs if run.data.params["k"] == "4")
    config = json.loads(kept.artifact(one, "config.json").read_text())
    assert (config["k"], config["act"]) == (4, "relu")


@pytest.mark.slow
def test_what_can_not_be_drawn_costs_a_figure_and_not_the_answer(launcher: Launcher, tmp_path: Path) -> None:
    """Values 300 decades apart, scripts that no font has, in a file that says its encoding."""
    head = HEAD.replace("FIELDS", "a: float = 1.0  # caf\xe9\n    s: str = 'x'").replace("RATE", "0.1")
    worse = "0.1 * (config.a > 1) + 0.01 * len(config.s) + 0.001 * config.seed"
    space = '{"a": Choice(1.0, 1e300), "s": Choice("\\u65e5\\u672c", "emoji \\U0001f600", "e\\u0301")}'
    text = (
        head.replace("WORSE", worse) + f"SWEEP = Sweep(base=Config(), run=train, version=1, seeds=2, space={space})\n"
    )
    (tmp_path / "far.py").write_bytes(f"# -*- coding: latin-1 -*-\n{text}".encode("latin-1"))
    done = launcher.run("sweeps.run", "far.py", "--store", "store", cwd=tmp_path)
    assert done.code == 0, done
    assert "Best of 6 settings is a=1" in done.out
    assert "Glyph" not in done.err
    page = (tmp_path / "store" / "reports" / "far" / "index.html").read_text()
    assert "日本" in page
