"""Real Redis and Valkey servers: one starts in some 50 ms, on a port and in a folder of its own."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import redis

from celery_locks.testing.local import processes
from celery_locks.testing.local.executables import NO_REDIS, REDIS_VARIABLE, NodeFailed, redis_servers
from celery_locks.testing.nodes.ports import free_port
from tests.support import report
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Binary:
    """A program that serves Redis' protocol."""

    path: Path
    flavour: str  # "Redis" or "Valkey"
    version: str

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


@functools.cache
def all_binaries() -> tuple[Binary, ...]:
    """One program of each flavour that can be had, the preferred one first; empty where there is none."""
    found: dict[str, Binary] = {}
    for path in redis_servers():
        binary = _look_at(path)
        found.setdefault(binary.flavour, binary)
    if REDIS_VARIABLE not in os.environ:
        for flavour in {"Redis", "Valkey"} - set(found):
            report.could_not_have(flavour, f"no {flavour.lower()}-server on the PATH")
    return tuple(found.values())


def default_binary() -> Binary:
    """The program that tests run on unless they ask for each.

    Raises:
        NodeFailed: None was found; says how to get one.
    """
    if not all_binaries():
        raise NodeFailed(NO_REDIS)
    return all_binaries()[0]


def _look_at(path: Path) -> Binary:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NodeFailed(f"{path} does not run: {error}") from error
    match = re.search(r"(Redis|Valkey) server v=(\S+)", said)
    if match is None:
        raise NodeFailed(f"{path} is no Redis or Valkey server: --version says {said!r}")
    return Binary(path, match[1], match[2])


class RedisServer:
    """A server of one's own, on 127.0.0.1 and on a Unix socket.

    Args:
        binary: What to run; the preferred one if not given.
        password: Of the default user; may hold any character.
        users: ACL users: name to rules, say ``{"locks": "on >secret ~* &* +@all"}``.
        appendonly: Whether every write is on disk before it is answered, so that it survives a `kill`.
        maxmemory_policy: What is evicted when memory runs out, say ``"allkeys-lru"``.
        options: Further settings, as in the server's configuration file.
        tls: Whether its port speaks TLS, and no other does; the options name the certificates.
    """

    def __init__(
        self,
        binary: Binary | None = None,
        *,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        appendonly: bool = False,
        maxmemory_policy: str | None = None,
        options: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:
        self.binary = binary or default_binary()
        self.password = password
        self.folder = processes.make_folder()
        self.socket_path = self.folder / "server.sock"
        self.port = 0
        self._users = dict(users or {})
        self._tls = tls
        self._settings = {"databases": "512", "save": "86400 1"}  # with a save point, a stopped server leaves its data
        if appendonly:
            self._settings |= {"appendonly": "yes", "appendfsync": "always"}
        if maxmemory_policy:
            self._settings["maxmemory-policy"] = maxmemory_policy
        self._settings |= options or {}
        self._process: subprocess.Popen[bytes] | None = None

    # --- Its life ---

    def start(self) -> RedisServer:
        """Starts the server and waits until it serves. Started again, it comes back on the same port.

        Raises:
            NodeFailed: It does not start; says what it logged.
        """
        tries = 1 if self.port else 20
        for _ in range(tries):
            port = self.port or free_port()
            if self._start_on(port):
                self.port = port
                report.ran_on(str(self.binary))
                return self
        raise NodeFailed(f"{self.binary} does not start: {self.log()[-2000:]}")

    def stop(self) -> None:
        """Ends the server in good order, with its data written to disk, and keeps its port."""
        self.resume()
        self._end(grace=10)

    def kill(self) -> None:
        """Ends the server by SIGKILL. Without ``appendonly`` its data is gone."""
        self._end(grace=0)

    def restart(self, *, keep_data: bool = True) -> None:
        """Stops the server and starts it again on the same port."""
        self.stop()
        if not keep_data:
            self.forget_data()
        self.start()

    def pause(self) -> None:
        """Stops the process where it is (SIGSTOP): connections stay open, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """Ends the server and removes its data."""
        self._end(grace=0)
        processes.remove_folder(self.folder)

    def __enter__(self) -> RedisServer:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- How to reach it ---

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def url(
        self,
        db: int = 0,
        *,
        scheme: str = "redis",
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> str:
        """The address of one of its databases.

        Args:
            db: The database.
            scheme: ``redis``, or what else the client calls it.
            port: That of a proxy before the server, if not its own.
            user: An ACL user.
            password: Of that user; without one, the default user's.
        """
        secret = self.password if password is None else password
        login = f"{quote(user or '', safe='')}:{quote(secret, safe='')}@" if secret is not None else ""
        return f"{scheme}://{login}127.0.0.1:{port or self.port}/{db}"

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client for looking at what is in the server, by its Unix socket: no proxy or port is in between."""
        options = {"password": self.password, "decode_responses": True, **options}
        return redis.Redis(unix_socket_path=str(self.socket_path), db=db, **options)

    def log(self) -> str:
        """What the server has logged so far."""
        with suppress(FileNotFoundError):
            return (self.folder / "log").read_text(errors="replace")
        return ""

    # --- Inside ---

    def _start_on(self, port: int) -> bool:
        """Whether the server came up on this port; False when the port was taken meanwhile."""
        config = self.folder / "server.conf"
        config.touch(mode=0o600)
        config.write_text(self._configuration(port))
        with (self.folder / "log").open("ab") as log:
            self._process = processes.start([self.binary.path, config], output=log, cwd=self.folder)
        eventually(lambda: self._answers() or not self.running, 20, f"{self.binary} neither serves nor ends", 0.003)
        if self.running:
            return True
        self._end(grace=0)
        if "Address already in use" in self.log():
            return False
        raise NodeFailed(f"{self.binary} does not start: {self.log()[-2000:]}")

    def _configuration(self, port: int) -> str:
        listens = f"port 0\ntls-port {port}" if self._tls else f"port {port}"
        lines = [f"bind 127.0.0.1\n{listens}", f"unixsocket {_quoted(str(self.socket_path))}"]
        lines += [f"{name} {value}" for name, value in self._settings.items()]
        if self.password is not None:
            lines.append(f"requirepass {_quoted(self.password)}")
        for name, rules in self._users.items():
            lines.append(" ".join(["user", name, *map(_quoted, rules.split())]))
        return "\n".join(lines) + "\n"

    def _answers(self) -> bool:
        """Whether it serves. Its socket is asked: on the port, it may be another server that answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                reply = connection.recv(100)
            except OSError:
                return False
        return reply.startswith((b"+PONG", b"-NOAUTH"))

    def _end(self, *, grace: float) -> None:
        if self._process is not None:
            processes.end(self._process, grace=grace)
            self._process = None

    def forget_data(self) -> None:
        """Removes the files of a server that does not run."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix == ".rdb" or path.suffix == ".aof":
                path.unlink()


def _quoted(text: str) -> str:
    """Text as the server's configuration file takes it, whatever is in it."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
