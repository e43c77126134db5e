"""What a sweep stands on and what can go wrong with it: a real MLflow server, a proxy that breaks what passes through
it, a database that somebody else has locked, a disk that is full."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from launcher import Command, Launcher, wait_until

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` on a database and a folder of artifacts of its own; killed and started again on the same port."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.backend = f"sqlite:///{folder}/mlflow.db"
        self._launcher = launcher
        self._command: Command | None = None

    def start(self) -> None:
        self._command = self._launcher.start(
            "tests.served", "server", "--workers", 1, "--host", "127.0.0.1", "--port", self.port,
            "--backend-store-uri", self.backend,
            "--artifacts-destination", self.folder / "artifacts",
            cwd=self.folder, env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        assert self._command is not None
        assert not self._command.has_ended, (self._command.out + self._command.err)[-2000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        if self._command is not None:
            self._command.signal_all(signal.SIGKILL)
            self._command.result()
            self._command = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


class Proxy:
    """Passes requests on to a server, and breaks the share of the writing ones that it is told to, by a seed.

    lost: the server does what is asked, the client never hears of it. refused: 503, nothing is done. reset: of all
    requests, reading ones too, the connection is closed, nothing is done. `denied` maps how a request starts, such as
    `GET /api`, to the status that it gets, and `echoes` is what that answer says beside the request's Authorization.
    """

    def __init__(
        self, server: Server, *, lost: float = 0, refused: float = 0, reset: float = 0, seed: int = 0, echoes: str = ""
    ) -> None:
        self.server, self.lost, self.refused, self.reset = server, lost, refused, reset
        self.denied: dict[str, int] = {}
        self.echoes = echoes
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._mended = threading.Event()
        self._mended.set()
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._listener.daemon_threads = True
        self._listener.block_on_close = False
        self.uri = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def hang(self) -> None:
        """From now on no request is answered, not those on their way either, until mended."""
        self._mended.clear()

    def mend(self) -> None:
        """What hung is closed without an answer; from now on all goes through."""
        self.lost = self.refused = self.reset = 0
        self._mended.set()

    def fate(self, method: str, path: str = "") -> str:
        with self._lock:
            drawn = self._random.random() if method in ("POST", "PATCH") else 1.0
            fate = "lost" if drawn < self.lost else "refused" if drawn < self.lost + self.refused else "passed"
            if self._random.random() < self.reset:
                fate = "reset"
            if self.status_for(method, path):
                fate = "denied"
            if not self._mended.is_set():
                fate = "hung"
            self.counts[fate] += 1
        return fate

    def status_for(self, method: str, path: str) -> int | None:
        """The status of a request that is denied."""
        return next((code for start, code in self.denied.items() if f"{method} {path}".startswith(start)), None)

    def wait_for_mending(self) -> bool:
        """Whether it hung."""
        hung = not self._mended.is_set()
        self._mended.wait()
        return hung

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.mend()
        self._listener.shutdown()
        self._listener.server_close()


def folder_beside(folder: Path, uri: str) -> Path:
    """What a command that was started in `folder` keeps there of the store behind an address."""
    return folder / "mlruns" / "servers" / uri.removeprefix("http://").replace(":", "_")


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            fate = proxy.fate(self.command, self.path)
            if fate == "refused":
                self._answer(503, [], b"away for a moment")
                return
            if fate == "denied":
                status = proxy.status_for(self.command, self.path) or 403
                said = f"{proxy.echoes} {self.headers['Authorization']}"
                code = "UNAUTHENTICATED" if status == 401 else "PERMISSION_DENIED"
                content = json.dumps({"error_code": code, "message": said}).encode()
                self._answer(status, [("Content-Type", "application/json")], content)
                return
            if fate == "reset":
                self.close_connection = True
                return
            if fate == "hung":
                proxy.wait_for_mending()
                self.close_connection = True
                return
            server = http.client.HTTPConnection("127.0.0.1", proxy.server.port, timeout=120)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "transfer-encoding", "content-length")
            }
            try:
                with contextlib.closing(server):
                    server.request(self.command, self.path, body, headers)
                    answer = server.getresponse()
                    content = answer.read()
            except (OSError, http.client.HTTPException):
                self.close_connection = True
                return
            if fate == "lost" or proxy.wait_for_mending():
                self.close_connection = True
                return
            self._answer(answer.status, answer.getheaders(), content)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            with contextlib.suppress(OSError):  # the client has gone meanwhile
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on  # noqa: N815

    return Handler


class Lock:
    """Another program that holds the write lock of a SQLite database until it is left or `seconds` have passed."""

    CODE = (
        "import sqlite3, sys, time\n"
        "database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
        "database.execute('ROLLBACK')\n"
    )

    def __init__(self, database: Path, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(database), str(seconds)], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"locked\n"

    def wait(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class SmallDisk:
    """A tmpfs of a few megabytes, mounted where only the commands that `command` enters see it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        mount = f"mount -t tmpfs -o size={megabytes}m tmpfs '{folder}' && echo ready && exec sleep 1000"
        self._holder = subprocess.Popen(
            [*unshare, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            self.__exit__(None, None, None)
            raise OSError("no tmpfs can be mounted in a namespace here")
        self.outside = Path(f"/proc/{self._holder.pid}/root{folder}")

    def command(self, *arguments: object) -> list[str]:
        """A command line that does `python ARGUMENTS` where the disk is mounted."""
        as_user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        enter = ["nsenter", "-t", str(self._holder.pid), "-m", *as_user, "--wd=."]
        return [*enter, sys.executable, *map(str, arguments)]

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.outside / "filler").open("ab", buffering=0) as filler:
            while filler.write(b"\0" * 65536):
                pass
        with contextlib.suppress(OSError), (self.outside / "filler").open("ab", buffering=0) as filler:
            while filler.write(b"\0" * 4096):
                pass

    def make_room(self) -> None:
        (self.outside / "filler").unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.kill()
        self._holder.communicate()
