"""Real PostgreSQL and MariaDB servers, each on a port and in a folder of its own."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from celery_locks.testing.local import processes
from celery_locks.testing.local.executables import NO_POSTGRESQL, NodeFailed, postgresql
from celery_locks.testing.local.programs import NOBODY
from celery_locks.testing.nodes.ports import free_port
from tests.support import report
from tests.support.waiting import eventually

#: Holds what an address must not be confused by.
PASSWORD = "p@ss:w/rd%#?"


S = TypeVar("S", bound="DatabaseServer")


class DatabaseServer(ABC):
    """A server of one's own, on 127.0.0.1, with the user ``locks`` and the database ``locks``.

    Args:
        options: Further options of its command line.
    """

    #: What the closing lines call it.
    name: str
    scheme: str

    def __init__(self, *options: str) -> None:
        self.folder = processes.make_folder()
        self.port = 0
        self.user = NOBODY if os.geteuid() == 0 else None
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self._own(self.data)

    # --- Its life ---

    def start(self) -> None:
        """Starts the server and waits until it serves. Started again, it comes back on the same port.

        Raises:
            NodeFailed: It does not start; says what it logged.
        """
        if not any(self.data.iterdir()):
            self._make_data()
        for _ in range(1 if self.port else 20):
            port = self.port or free_port()
            if self._start_on(port):
                self.port = port
                self._prepare()
                report.ran_on(self.name)
                return
        raise NodeFailed(f"{self.name} does not start: {self.log()[-2000:]}")

    def stop(self) -> None:
        """Ends the server in good order, whoever is connected, and keeps its port."""
        self.resume()
        self._end(grace=20)

    def kill(self) -> None:
        """Ends the server by SIGKILL, with all its processes: one that is left might still answer."""
        self._signal(signal.SIGKILL)
        self._end(grace=0)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops all its processes where they are: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        if self.running:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the server and removes its data."""
        self._end(grace=0)
        processes.remove_folder(self.folder)

    def __enter__(self: S) -> S:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What the server has logged so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- How to reach it ---

    def url(self, *, port: int | None = None, password: str = PASSWORD, query: str = "") -> str:
        """The address of its database; ``port`` is that of a proxy before it."""
        secret = quote(password, safe="")
        return f"{self.scheme}://locks:{secret}@127.0.0.1:{port or self.port}/locks{query and '?' + query}"

    # --- What differs ---

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Why there is no such server on this machine; empty where there is one. The closing lines say it too."""

    @abstractmethod
    def _make_data(self) -> None:
        """Fills its folder."""

    @abstractmethod
    def _command(self, port: int) -> list[str | Path]:
        """What is run."""

    def _prepare(self) -> None:
        """What is left to do once it serves."""

    # --- Inside ---

    def _own(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user, self.user)

    def _run(self, *argv: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            user=self.user,
            group=self.user,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise NodeFailed(f"{argv[0]} failed: {done.stdout.decode(errors='replace')[-2000:]}")

    def _start_on(self, port: int) -> bool:
        """Whether the server came up on this port; False when it was taken meanwhile."""
        with (self.folder / "log").open("ab") as log:
            log.write(b"--- start\n")
            log.flush()
            self._process = processes.start(self._command(port), output=log, cwd=self.folder, user=self.user)
        eventually(lambda: self._serves(port) or not self.running, 60, f"{self.name} neither serves nor ends", 0.02)
        if self.running:
            return True
        self._end(grace=0)
        if "in use" in self.log().rpartition("--- start")[2]:
            return False
        raise NodeFailed(f"{self.name} does not start: {self.log()[-2000:]}")

    def _serves(self, port: int) -> bool:
        """Whether it takes connections, by its own word: on the port it may be another one that answers."""
        if not self._ready(self.log().rpartition("--- start")[2]):
            return False
        with socket.create_connection(("127.0.0.1", port), 5):
            return True

    @abstractmethod
    def _ready(self, log: str) -> bool:
        """Whether it has logged that it serves."""

    def _signal(self, sig: int) -> None:
        assert self._process is not None
        pids = [*processes.children(self._process.pid), self._process.pid]
        for pid in pids if sig == signal.SIGCONT else reversed(pids):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, sig)

    def _end(self, *, grace: float) -> None:
        if self._process is not None:
            processes.end(
                self._process, grace=grace, sig=signal.SIGINT if self.scheme == "postgresql" else signal.SIGTERM
            )
            self._process = None


# --- PostgreSQL ---


@functools.cache
def postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs; ``None``, and a word in the closing lines, where there are none."""
    try:
        return postgresql()
    except NodeFailed as error:
        report.could_not_have("PostgreSQL", str(error))
        return None


class PostgresServer(DatabaseServer):
    name = "PostgreSQL"
    scheme = "postgresql"

    @classmethod
    def missing(cls) -> str:
        return "" if postgres_binaries() else NO_POSTGRESQL

    def _make_data(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self._own(secret)
        login: list[str | Path] = ["--username", "locks", "--pwfile", secret, "--auth", "scram-sha-256"]
        self._run(
            self._program("initdb"), "--pgdata", self.data, "--no-sync", "--locale", "C", "--encoding", "UTF8", *login
        )

    def _program(self, name: str) -> Path:
        folder = postgres_binaries()
        if folder is None:
            raise NodeFailed(NO_POSTGRESQL)
        return folder / name

    def _command(self, port: int) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",  # the machine won't lose power
            "max_connections": 200,
            "dynamic_shared_memory_type": "mmap",  # in its own folder: a killed server leaves nothing in /dev/shm
            "autovacuum_naptime": "10min",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", self.data, *given, *self._options]

    def _ready(self, log: str) -> bool:
        return "ready to accept connections" in log

    def _prepare(self) -> None:
        import psycopg

        with psycopg.connect(self.url().removesuffix("locks") + "postgres", autocommit=True) as db:
            if db.execute("SELECT 1 FROM pg_database WHERE datname = 'locks'").fetchone() is None:
                db.execute("CREATE DATABASE locks")


# --- MariaDB ---

_HOW_TO_GET_MARIADB = "no mariadbd on the PATH: apt-get install mariadb-server-core mariadb-client-core bring one"


@functools.cache
def mariadb_binary() -> Path | None:
    """MariaDB's server; ``None`` where there is none."""
    found = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    if found is None or shutil.which("mariadb-install-db") is None:
        report.could_not_have("MariaDB", _HOW_TO_GET_MARIADB)
        return None
    return Path(found)


class MariaDBServer(DatabaseServer):
    name = "MariaDB"
    scheme = "mysql"

    @classmethod
    def missing(cls) -> str:
        return "" if mariadb_binary() else _HOW_TO_GET_MARIADB

    def _make_data(self) -> None:
        make = shutil.which("mariadb-install-db")
        if make is None:
            raise NodeFailed(_HOW_TO_GET_MARIADB)
        self._run(
            make,
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--datadir={self.data}",
            f"--tmpdir={self.data}",  # a server that starts removes all temporary files that it finds there
        )

    def _command(self, port: int) -> list[str | Path]:
        binary = mariadb_binary()
        assert binary is not None
        settings = {
            "datadir": self.data,
            "port": port,
            "bind-address": "127.0.0.1",
            "socket": self.data / "socket",
            "pid-file": self.data / "pid",
            "tmpdir": self.data,
            "innodb-flush-log-at-trx-commit": 2,  # the machine won't lose power
            "innodb-buffer-pool-size": "32M",
            "max-connections": 200,
        }
        return [binary, "--no-defaults", *(f"--{name}={value}" for name, value in settings.items()), *self._options]

    def _ready(self, log: str) -> bool:
        return "ready for connections" in log

    def _prepare(self) -> None:
        import pymysql

        socket_ = str(self.data / "socket")
        with pymysql.connect(unix_socket=socket_, user="root", autocommit=True) as db, db.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS locks")
            cursor.execute("CREATE USER IF NOT EXISTS locks@'127.0.0.1' IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT ALL ON locks.* TO locks@'127.0.0.1'")
