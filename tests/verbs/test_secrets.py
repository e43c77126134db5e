"""No secret that a command was given is printed, logged or recorded, whatever a server answers."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import Proxy, Server
from small_sweeps import GRID, write_experiment

from sweeps.store.secrets import Discreet, make_discreet, without_secrets

ROOT = Path(__file__).parents[2]
SECRET = "hunter22"


def test_user_and_password_of_an_address_are_left_out() -> None:
    text = "GET https://me:pa55word@host:5000/a, then http://host/b?x=a@b and file:///c@d"
    assert without_secrets(text) == "GET https://host:5000/a, then http://host/b?x=a@b and file:///c@d"


def test_secrets_that_a_process_was_given_are_hidden_and_other_values_are_not() -> None:
    program = (
        "import sys\n"
        "from sweeps.store.secrets import without_secrets\n"
        "sys.stdout.write(without_secrets('hunter22 false bWU6aHVudGVyMjM= hunter23 x'))"
    )
    environment = os.environ | {"MLFLOW_TRACKING_TOKEN": "hunter22", "TOKENIZERS_PARALLELISM": "false", "API_KEY": "x"}
    done = subprocess.run(
        [sys.executable, "-c", program, "--store", "http://me:hunter23@host"],
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "*** false *** *** x"


def test_a_discreet_stream_is_a_stream_of_the_same_kind() -> None:
    below = io.BytesIO()
    stream = make_discreet(io.TextIOWrapper(below, encoding="ascii", errors="replace"))
    assert isinstance(stream, Discreet)
    assert stream.write("see http://me:secret@host, ±") == 28
    stream.flush()
    assert below.getvalue() == b"see http://host, ?"


@pytest.mark.slow
def test_a_planted_secret_is_nowhere(tmp_path: Path, text_file: Path, server: Server) -> None:
    """In the address, in the header that the address becomes, and in what a server that refuses says back."""
    folder = tmp_path / "here"
    file = write_experiment(folder, GRID, text_file, tokens=32 * 12)
    raises = file.with_name("raises.py")
    raises.write_text(RAISES)
    said = []
    with Proxy(server, echoes=SECRET) as proxy:
        address = proxy.uri.replace("://", f"://me:{SECRET}@")

        def command(verb: str, *words: object) -> "subprocess.CompletedProcess[str]":
            done = subprocess.run(
                [sys.executable, "-m", f"sweeps.{verb}", *map(str, words), "--store", address],
                cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            said.append(done.stdout + done.stderr)
            return done

        assert command("run", file).returncode == 0
        assert command("run", raises).returncode == 1
        for verb, *words in (("ls",), ("report", "question"), ("export", "question", "--optuna", "sqlite:///study.db")):
            command(verb, *words)
        proxy.denied = {"DELETE /api/2.0/mlflow-artifacts": 403}
        assert "artifacts" in " ".join(command("rm", "question", "--yes").stderr.split())
        for status, word in ((401, "MLFLOW_TRACKING_PASSWORD"), (403, "--allowed-hosts")):
            proxy.denied = {"GET /": status, "POST /": status}
            for verb, *words in (("ls",), ("report", "raises"), ("run", file, "--wait", 0)):
                done = command(verb, *words)
                assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (2, True, False), done
    everything = b"".join(
        path.read_bytes() for root in (folder / "mlruns", server.folder) for path in root.rglob("*") if path.is_file()
    )
    assert not [text for text in said if SECRET in text]
    assert SECRET.encode() not in everything


RAISES = '''"""Does a trainer tell?"""
import sys
from dataclasses import dataclass

from sweeps import Choice, Sweep


@dataclass(frozen=True)
class Config:
    rate: float = 0.5
    num_steps: int = 2
    tokens_per_step: int = 2
    seed: int = 0


def run(config, **_):
    print("asking http://me:hunter22@elsewhere/data")
    raise OSError("http://me:hunter22@elsewhere/data is away")

SWEEP = Sweep(base=Config(), space={"rate": Choice(0.5)}, run=run, version=1)
'''
