"""The programs of nodes: how each starts, and when it is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from celery_locks.testing.local import processes
from celery_locks.testing.local.executables import NodeFailed, postgresql, rabbitmq_server, redis_server
from celery_locks.testing.nodes import URL_VARIABLES
from celery_locks.testing.nodes.ports import free_port

#: The user that runs PostgreSQL when root runs the tests: PostgreSQL refuses to run as root.
NOBODY = 65534


class Program(ABC):
    """A program that stands for a container.

    Args:
        command: The container's command.
        env: The container's environment.
        folder: Where it runs, and keeps its files.
    """

    #: The port that it serves, as Docker calls it; ``None`` for a program that serves none.
    port_name: ClassVar[str | None] = None
    #: Seconds within which it must be ready.
    start_timeout: float = 60.0
    #: Signal of an orderly end.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: What `is_ready` waits for; part of an error.
    ready_means: ClassVar[str] = "it serves its port, and has logged that it does"

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.command = list(command)
        self.given_env = dict(env)
        self.folder = folder
        self.port = 0
        self.user: int | None = None
        self.companions: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def argv(self) -> list[str]:
        """Return the command line."""

    def env(self) -> dict[str, str]:
        """Return the whole environment."""
        return {**os.environ, **self.given_env}

    def prepare(self) -> None:
        """Make the files that it needs for its first start."""

    def before_start(self, log: Path) -> None:
        """Start the programs that have to run alongside it."""

    @property
    def serves(self) -> bool:
        """Whether it goes on until it is stopped: it has failed if it ends, whatever its exit status."""
        return True

    @abstractmethod
    def is_ready(self, log: str) -> bool:
        """Return whether it is ready.

        Args:
            log: What it has logged since it last started.
        """

    def port_was_taken(self, log: str) -> bool:
        """Return whether it ended since another process took its port first."""
        return "already in use" in log

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True


class Worker(Program):
    """A Celery worker, or another command of Python, in the environment of the tests."""

    ready_means = "a worker logs `ready.` at the level INFO; with debugpy, only once a debugger is attached"

    def argv(self) -> list[str]:
        program, *rest = self.command
        if program == "celery":
            return [sys.executable, "-m", "celery", *rest]
        if program in ("python", "python3"):
            return [sys.executable, *rest]
        return [program, *rest]

    def env(self) -> dict[str, str]:
        # A setup without a broker or backend sets no variable for it, and must not get the developer's.
        others = {name: value for name, value in os.environ.items() if name not in URL_VARIABLES}
        path = [self.given_env.get("PYTHONPATH", ""), *_own_import_path(), os.environ.get("PYTHONPATH", "")]
        programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        ours = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PATH": os.pathsep.join(programs)}
        return {**others, **self.given_env, **ours}

    @property
    def serves(self) -> bool:
        return "worker" in self.command

    def is_ready(self, log: str) -> bool:
        return not self.serves or " ready." in log


def _own_import_path() -> list[str]:
    """Return the folders that the tests import the project from: their import path without installed packages."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = [Path(entry or ".").resolve() for entry in sys.path]
    return [
        str(path)
        for path in paths
        if path.is_dir() and str(path) not in installed and path.name not in ("lib-dynload", "dist-packages")
    ]


class Redis(Program):
    """A Redis or Valkey server."""

    port_name = "6379/tcp"

    def argv(self) -> list[str]:
        options = self.command[1:] if self.command and "server" in self.command[0] else self.command
        ours = ["--port", str(self.port), "--bind", "127.0.0.1", "-::1", "--dir", str(self.folder)]
        return [str(redis_server()), *options, *ours]

    def is_ready(self, log: str) -> bool:
        return "Ready to accept connections" in log and self._listens()


class RabbitMQ(Program):
    """A RabbitMQ server with its name server (epmd), under a name and in folders of their own."""

    port_name = "5672/tcp"
    start_timeout = 120.0

    def argv(self) -> list[str]:
        return [str(rabbitmq_server())]

    def prepare(self) -> None:
        for name in ("rabbitmq.conf", "env.conf"):  # without these it would read the files of the system
            (self.folder / name).touch()
        (self.folder / "plugins").write_text("[].\n")
        self._epmd_port, self._dist_port = free_port(), free_port()

    def before_start(self, log: Path) -> None:
        # Started here, so that it ends with the node. An epmd that Erlang starts would go on running.
        argv = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        with log.open("ab") as output:
            self.companions = [processes.start(argv, output=output, env=self.env())]

    def env(self) -> dict[str, str]:
        ours = {
            "NODENAME": f"cl{self.port}@localhost",
            "NODE_IP_ADDRESS": "127.0.0.1",
            "NODE_PORT": str(self.port),
            "DIST_PORT": str(self._dist_port),
            "CONF_ENV_FILE": str(self.folder / "env.conf"),
            "CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "MNESIA_BASE": str(self.folder / "mnesia"),
            "GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "SCHEMA_DIR": str(self.folder / "schema"),
            "LOG_BASE": str(self.folder),
            "LOGS": "-",
            "PID_FILE": str(self.folder / "pid"),
            # Idle schedulers don't spin: the workers need the processors.
            "SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        return {
            **others,
            **{f"RABBITMQ_{name}": value for name, value in ours.items()},
            **self.given_env,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(self.folder),  # where Erlang keeps its cookie
            # Debian's rabbitmqctl on the PATH changes the user, and with it the cookie.
            "PATH": os.pathsep.join([str(rabbitmq_server().parent), os.environ.get("PATH", "")]),
        }

    def is_ready(self, log: str) -> bool:
        return "Server startup complete" in log and self._listens()

    def port_was_taken(self, log: str) -> bool:
        return "eaddrinuse" in log or super().port_was_taken(log)


class PostgreSQL(Program):
    """A PostgreSQL server with the user, password and database that the image's variables name."""

    port_name = "5432/tcp"
    stop_signal = signal.SIGINT  # SIGTERM would wait for clients to disconnect

    def prepare(self) -> None:
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.folder.chmod(0o755)
        secret = self.folder / "password"
        secret.write_text(self.given_env.get("POSTGRES_PASSWORD", "postgres"))
        if os.geteuid() == 0:
            self.user = NOBODY
            for path in (self.data, secret):
                os.chown(path, NOBODY, NOBODY)
        login = ["--username", self._user, "--pwfile", str(secret), "--auth", "scram-sha-256"]
        options = ["--no-sync", "--locale", "C", "--encoding", "UTF8"]
        self._run("initdb", "--pgdata", str(self.data), *options, *login)
        if self._database != "postgres":  # made by the single-user server, for which no client is needed
            make = f'CREATE DATABASE "{self._database}"\n'
            self._run("postgres", "--single", "-D", str(self.data), "postgres", stdin=make)

    def argv(self) -> list[str]:
        options = self.command[1:] if self.command[:1] == ["postgres"] else self.command
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # the machine won't lose power
            "dynamic_shared_memory_type": "mmap",  # in its own folder: a killed server leaves nothing in /dev/shm
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(postgresql() / "postgres"), "-D", str(self.data), *given, *options]

    def is_ready(self, log: str) -> bool:
        return "ready to accept connections" in log and self._listens()

    @property
    def _user(self) -> str:
        return self.given_env.get("POSTGRES_USER", "postgres")

    @property
    def _database(self) -> str:
        return self.given_env.get("POSTGRES_DB", self._user)

    def _run(self, program: str, *argv: str, stdin: str = "") -> None:
        done = subprocess.run(
            [str(postgresql() / program), *argv],
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            user=self.user,
            group=self.user,
            timeout=self.start_timeout,
            check=False,
        )
        if done.returncode:
            raise NodeFailed(f"{program} ended with {done.returncode}: {done.stdout.decode(errors='replace')[-2000:]}")
