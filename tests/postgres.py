"""A real PostgreSQL of a test's own on 127.0.0.1, and an MLflow server on it. Skipped where PostgreSQL isn't installed.

Debian: apt-get install postgresql. It refuses to run as root, so for root it runs as the user `postgres`.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest
from launcher import Launcher, wait_until
from servers import Server, free_port

USER, DATABASE, PASSWORD = "mlflow", "mlflow", "elephant77"


def find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


class Postgres:
    """A database server in a folder of its own; crashed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        binaries = find_binaries()
        if binaries is None:
            pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
        self._binaries, self._folder = binaries, folder
        self._user = "postgres" if os.geteuid() == 0 else None
        self.port = free_port()
        self.uri = f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"
        self._server: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "password").write_text(PASSWORD)
        if self._user:
            for path in (folder, folder / "password"):
                shutil.chown(path, self._user)
            for parent in folder.parents:  # pytest's folders are closed to other users
                if parent.owner() == "root" and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                    parent.chmod(0o755)
        self._run("initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", f"--pwfile={folder}/password")

    def _run(self, program: str, *words: object) -> None:
        command = [str(self._binaries / program), *map(str, words)]
        done = subprocess.run(command, user=self._user, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done

    def start(self) -> None:
        options = ("-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), *options]
        log = (self._folder / "log").open("ab")
        self._server = subprocess.Popen(command, user=self._user, cwd=self._folder, stdout=log, stderr=log)
        wait_until(self.answers, 60)

    def answers(self) -> bool:
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def execute(self, statement: str, database: str = DATABASE) -> str:
        """What a statement answers."""
        command = [str(self._binaries / "psql"), "-qtA", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(
            [*command, "-d", database, "-c", statement], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    def create_database(self) -> None:
        self.execute(f"CREATE DATABASE {DATABASE}", "postgres")

    def crash(self) -> None:
        """As if the machine had lost its power: what it has committed is there when it starts again."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.crash()


class ServerOnPostgres(Server):
    """`mlflow server` whose database is a PostgreSQL's; artifacts are in its folder."""

    def __init__(self, launcher: Launcher, folder: Path, database: Postgres) -> None:
        super().__init__(launcher, folder)
        self.backend = database.uri
