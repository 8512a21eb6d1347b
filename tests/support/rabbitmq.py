"""A real RabbitMQ: a node of its own, with its own name server (epmd), ports and folders, ready in some 5 s."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from kombu.connection import Connection

from tests.support import processes, report
from tests.support.ports import free_port
from tests.support.servers import NoServer
from tests.support.waiting import eventually

#: Names the script that starts the server, and no other.
VARIABLE = "CELERY_LOCKS_TEST_RABBITMQ"

_HOW_TO_GET_ONE = f"`apt-get install rabbitmq-server`, or {VARIABLE}=/path/to/rabbitmq-server, brings it"
#: Where Debian has the script itself. The one on its PATH insists on the user rabbitmq and on the system's folders.
_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: No spinning of idle schedulers: the tests' workers need the processors.
_ERL_ARGS = "+sbwt none +sbwtdcpu none +sbwtdio none"


@functools.cache
def script() -> Path | None:
    """The script that starts the server; ``None``, and a word in the closing lines, where there is none."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    found = _DEBIAN if _DEBIAN.exists() else shutil.which("rabbitmq-server")
    if found is None or shutil.which("epmd") is None:
        report.could_not_have("RabbitMQ", f"its tests did NOT run. {_HOW_TO_GET_ONE}")
        return None
    return Path(found)


class RabbitServer:
    """A server of one's own, on 127.0.0.1."""

    def __init__(self) -> None:
        found = script()
        if found is None:
            raise NoServer(_HOW_TO_GET_ONE)
        self.folder = processes.make_folder()
        self.port = 0
        self._version = ""
        self._env: dict[str, str] = {}
        self._script = found
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> RabbitServer:
        """Starts the server and waits until it serves.

        Raises:
            NoServer: It does not start; says what it logged.
        """
        for _ in range(5):  # another process may take a port before it does
            self.port = free_port()
            if self._start():
                report.ran_on(f"RabbitMQ {self._version}")
                return self
            self._end()
        raise NoServer(f"{self._script} does not start: {self.log()[-3000:]}")

    def ctl(self, *args: str) -> str:
        """What ``rabbitmqctl`` prints."""
        program = self._script.with_name("rabbitmqctl")
        done = subprocess.run(
            [program, "--quiet", *args], env=self._env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def log(self) -> str:
        """What the server has logged and printed so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Ends the server and its name server, and removes its data."""
        self._end()
        processes.remove_folder(self.folder)

    def __enter__(self) -> RabbitServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> bool:
        env = self._env = self._environment(epmd_port=free_port(), dist_port=free_port())
        with (self.folder / "log").open("ab") as log:
            # By hand, so that it ends with the tests: one that Erlang starts goes on by itself.
            argv = ["epmd", "-port", env["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
            self._epmd = processes.start(argv, output=log, env=env)
            self._server = processes.start([self._script], output=log, env=env, cwd=self.folder)
        server = self._server
        eventually(lambda: server.poll() is not None or self._answers(), 90, "RabbitMQ neither serves nor ends", 0.1)
        return server.poll() is None

    def _environment(self, epmd_port: int, dist_port: int) -> dict[str, str]:
        for name in ("rabbitmq.conf", "env.conf"):  # without them it would read the system's
            (self.folder / name).touch()
        (self.folder / "plugins").write_text("[].\n")
        ours = {
            "NODENAME": f"cl{self.port}@localhost",
            "NODE_IP_ADDRESS": "127.0.0.1",
            "NODE_PORT": str(self.port),
            "DIST_PORT": str(dist_port),
            "CONF_ENV_FILE": str(self.folder / "env.conf"),
            "CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "MNESIA_BASE": str(self.folder / "mnesia"),
            "GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "SCHEMA_DIR": str(self.folder / "schema"),
            "LOG_BASE": str(self.folder),
            "LOGS": "-",
            "PID_FILE": str(self.folder / "pid"),
            "SERVER_ADDITIONAL_ERL_ARGS": _ERL_ARGS,
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        return {
            **others,
            **{f"RABBITMQ_{name}": value for name, value in ours.items()},
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(self.folder),  # where Erlang keeps its cookie
        }

    def _answers(self) -> bool:
        """Whether it serves. What it says of itself is kept: its port may by now be another server's."""
        with Connection(self.url, connect_timeout=5) as connection:  # type: ignore[no-untyped-call]
            connection.connect()
            told = connection.connection.server_properties
        self._version = re.sub(r"[^\w.]", "", str(told["version"]))
        return str(told["cluster_name"]).startswith(f"cl{self.port}@")

    def _end(self) -> None:
        for process in (self._server, self._epmd):
            if process is not None:
                processes.end(process)
        self._server = self._epmd = None
