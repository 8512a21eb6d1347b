"""docker-py's container over a process of this machine."""

from __future__ import annotations

import io
import os
import secrets
import shlex
import shutil
import signal as signals
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import ExecResult

from celery_locks.testing.local import processes
from celery_locks.testing.local.executables import NodeFailed
from celery_locks.testing.local.programs import PostgreSQL, Program, RabbitMQ, Redis, Worker
from celery_locks.testing.nodes import failure
from celery_locks.testing.nodes.ports import free_port

#: The program by the name of an image, and by the first word of a command.
_IMAGES: dict[str, type[Program]] = {"redis": Redis, "valkey": Redis, "rabbitmq": RabbitMQ, "postgres": PostgreSQL}
_COMMANDS: dict[str, type[Program]] = {
    "redis-server": Redis,
    "valkey-server": Redis,
    "rabbitmq-server": RabbitMQ,
    "postgres": PostgreSQL,
    "celery": Worker,
    "python": Worker,
    "python3": Worker,
}
#: The remedy when no program of this machine fits.
IN_CONTAINERS = "run these tests in containers: pytest -p no:celery_locks.testing.local -p celery_locks.testing.docker"
#: Seconds between two checks of a program that starts.
_POLL_SECONDS = 0.005
#: The command by which pytest-docker-tools lists open ports.
_LISTENING = "cat /proc/net/tcp"


class LocalContainer:
    """docker-py's container over a process.

    Args:
        image: The image that it stands for.
        command: Its command line.
        env: Its environment.
        binds: Folders of this machine, by where the container has them.
        labels: Of the container.
        name: Of the container.
        working_dir: Where a worker runs, in the container's terms; otherwise the outermost of its folders.
    """

    def __init__(
        self,
        image: str,
        command: Sequence[str],
        env: Mapping[str, str],
        binds: Mapping[str, Path],
        labels: Mapping[str, str],
        name: str | None,
        working_dir: str | None,
    ) -> None:
        self.id = secrets.token_hex(32)
        self.image = image
        self.labels = dict(labels)
        self.folder = processes.make_folder()
        self.log_file = self.folder / "log"
        self.log_file.touch()
        self._binds = dict(binds)
        self._process: subprocess.Popen[bytes] | None = None
        self._group_is_gone = True
        self._paused = False
        self._logged_before = 0
        # The host's name is the container's, as in Docker: two workers of one machine need different names.
        words = [self._here(word).replace("%h", self.id[:12]) for word in command]
        variables = {key: os.pathsep.join(map(self._here, value.split(os.pathsep))) for key, value in env.items()}
        folder = Path(self._here(working_dir)) if working_dir else next(reversed(self._binds.values()), self.folder)
        kind = _kind(image, words)
        if kind is Worker:  # as in a container: the files that a killed worker leaves there are removed with it
            variables.setdefault("TMPDIR", str(self.folder))
        self.program = kind(words, variables, folder if kind is Worker else self.folder)
        self.name = name or f"{kind.__name__.lower()}-{self.id[:12]}"

    # --- State ---

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def status(self) -> str:
        if self._process is None:
            return "created"
        if self._process.poll() is not None:
            return "exited"
        return "paused" if self._paused else "running"

    @property
    def attrs(self) -> dict[str, Any]:
        """What docker-py reports, as far as pytest-celery and its users read it."""
        program, process = self.program, self._process
        ports: dict[str, Any] = {}
        host = self.short_id
        if program.port_name is not None:
            listens = program.port and self.status == "running"
            ports[program.port_name] = [{"HostIp": "127.0.0.1", "HostPort": str(program.port)}] if listens else None
            host = f"127.0.0.1:{program.port}"  # under which other containers reach it: they share this machine's ports
        status = process.poll() if process is not None else None
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Config": {
                "Hostname": host,
                "Env": [f"{name}={value}" for name, value in program.given_env.items()],
                "Cmd": list(program.command),
                "Image": self.image,
                "Labels": dict(self.labels),
            },
            "HostConfig": {"PortBindings": dict.fromkeys(ports)},
            "NetworkSettings": {"Networks": {"local": {"IPAddress": "127.0.0.1"}}, "Ports": ports},
            "State": {
                "Status": self.status,
                "Running": self.status in ("running", "paused"),
                "Paused": self._paused,
                "Pid": process.pid if process is not None and status is None else 0,
                "ExitCode": _exit_code(status),
            },
            "Mounts": [],
        }

    def logs(self, **_: Any) -> bytes:
        """Return its log, with everything that it printed."""
        return self.log_file.read_bytes()

    def reload(self) -> None:
        """Do nothing: the attributes are always up to date."""

    def exec_run(
        self,
        cmd: str | Sequence[str],
        environment: Mapping[str, str] | Sequence[str] | None = None,
        workdir: str | None = None,
        **_: Any,
    ) -> ExecResult:
        """Run a command where the program runs, with its environment."""
        if isinstance(cmd, str) and cmd.startswith(_LISTENING):
            return ExecResult(0, self._listening())
        self._check_running()
        words = [self._here(word) for word in (shlex.split(cmd) if isinstance(cmd, str) else cmd)]
        env = {**self.program.env(), **variables(environment)}
        folder = self._here(workdir) if workdir else self.program.folder
        argv = [shutil.which(words[0], path=env.get("PATH")) or words[0], *words[1:]]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
                check=False,
            )
        except OSError as error:
            return ExecResult(127, str(error).encode())
        return ExecResult(_exit_code(done.returncode), done.stdout)

    # --- Start and stop ---

    def start(self) -> None:
        """Start the program, and wait until it is ready.

        Raises:
            NodeFailed: It ended with an error, or is not ready in time. Shows its log.
        """
        if self.status in ("running", "paused"):
            return
        program = self.program
        self._end(grace=0)  # processes of its last start
        try:
            if self._process is None:
                program.prepare()
            for _ in range(1 if program.port else 20):
                if self._start_on(program.port or (free_port() if program.port_name else 0)):
                    return
            raise NodeFailed(f"{self.name} found no free port in 20 tries: end other test runs on this machine")
        except BaseException:
            self._end(grace=0)
            raise

    def _start_on(self, port: int) -> bool:
        """Return whether it is ready; False when another process took the port first."""
        program, first = self.program, not self.program.port
        program.port = port
        self._logged_before = self.log_file.stat().st_size
        program.before_start(self.log_file)
        with self.log_file.open("ab") as log:
            self._process = processes.start(
                program.argv(), output=log, env=program.env(), cwd=program.folder, user=program.user
            )
        self._group_is_gone = False
        deadline = time.monotonic() + program.start_timeout
        while not program.is_ready(self._log_of_this_start()):
            if (status := self._process.poll()) is not None:
                if first and program.port_name and program.port_was_taken(self._log_of_this_start()):
                    self._end(grace=0)
                    program.port = 0
                    return False
                if status == 0 and not program.serves:
                    return True  # a command that has ended well
                raise self._failed(f"ended with {_ended(status)} before it was ready")
            if time.monotonic() >= deadline:
                raise self._failed(f"was not ready within {program.start_timeout:g} s ({program.ready_means})")
            time.sleep(_POLL_SECONDS)
        return True

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal to the program. SIGKILL also ends all processes that it has started, as in a container."""
        self._check_running()
        assert self._process is not None
        number = _signal(signal)
        if number == signals.SIGKILL:
            self._end(grace=0)
        else:
            self._process.send_signal(number)

    def stop(self, timeout: float = 10, **_: Any) -> None:
        """Ask the program to end, and kill it after the timeout, in seconds."""
        self._end(grace=timeout)

    def restart(self, timeout: float = 10, **_: Any) -> None:
        """Stop the program and start it again, on the same port."""
        self.stop(timeout)
        self.start()

    def pause(self) -> None:
        """Stop all its processes where they are. Connections stay open, and nothing is answered."""
        self._check_running()
        self._signal_all(signals.SIGSTOP)
        self._paused = True

    def unpause(self) -> None:
        if self._paused:
            self._signal_all(signals.SIGCONT)
            self._paused = False

    def wait(self, timeout: float | None = None, **_: Any) -> dict[str, Any]:
        """Wait until it has ended; return its exit status as Docker does."""
        status = self._process.wait(timeout) if self._process is not None else 0
        return {"StatusCode": _exit_code(status), "Error": None}

    def remove(self, force: bool = False, **_: Any) -> None:
        """Remove it with its files. Killed first if it runs and ``force`` is set."""
        if self.status in ("running", "paused") and not force:
            raise APIError(f"the container {self.name} is running: stop it, or remove it by force")
        self._end(grace=0)
        processes.remove_folder(self.folder)

    # --- Files ---

    def put_archive(self, path: str, data: bytes | IO[bytes]) -> bool:
        """Unpack a tar archive into one of its folders."""
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        with tarfile.open(fileobj=stream) as archive:
            if hasattr(tarfile, "data_filter"):  # from Python 3.10.12 on
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(self._here(path))
        return True

    def get_archive(self, path: str, **_: Any) -> tuple[Iterator[bytes], dict[str, Any]]:
        """Return a file or folder of it as a tar archive."""
        found, stream = Path(self._here(path)), io.BytesIO()
        if not found.exists():
            raise NotFound(f"the container {self.name} has no {path}")
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(found, arcname=Path(path).name)
        return iter([stream.getvalue()]), {"name": Path(path).name, "size": found.stat().st_size}

    # --- Details ---

    def _here(self, text: str) -> str:
        """Return a path of the container as one of this machine, also in ``--option=/path``; other text as it is."""
        option, equals, path = text.partition("=")
        if equals and option.startswith("-"):
            return f"{option}={self._here(path)}"
        for bind, folder in self._binds.items():
            if text == bind or text.startswith(bind.rstrip("/") + "/"):
                return str(folder) + text[len(bind.rstrip("/")) :]
        return text

    def _check_running(self) -> None:
        if self.status not in ("running", "paused"):
            raise APIError(f"the container {self.name} is not running: its status is {self.status}")

    def _listening(self) -> bytes:
        """Return what ``/proc/net/tcp`` would hold of the container's port."""
        name = self.program.port_name
        if name is None or self.status != "running":
            return b""
        return f"0: 00000000:{int(name.partition('/')[0]):04X} 00000000:0000 0A\n".encode()

    def _log_of_this_start(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(self._logged_before)
            return log.read().decode(errors="replace")

    def _signal_all(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _failed(self, what: str) -> NodeFailed:
        command = shlex.join(self.program.command) or self.image
        return NodeFailed(failure(self.name, what, command, self.logs().decode(errors="replace")))

    def _end(self, *, grace: float) -> None:
        if self._process is not None and not self._group_is_gone:
            self.unpause()
            processes.end(self._process, grace=grace, sig=self.program.stop_signal)
            self._group_is_gone = True
        for companion in self.program.companions:
            processes.end(companion)
        self.program.companions = []


def _kind(image: str, command: Sequence[str]) -> type[Program]:
    """Return the program that an image or a command stands for."""
    if command and (kind := _COMMANDS.get(Path(command[0]).name)):
        return kind
    repository = image.rpartition("/")[2].partition(":")[0].partition("@")[0]
    if repository in _IMAGES:
        return _IMAGES[repository]
    if image.startswith("sha256"):  # built by the tests: a worker, or the empty one that fills a volume
        return Worker
    known = ", ".join(sorted(_IMAGES))
    raise ImageNotFound(
        f"the image {image!r} has no local program, local nodes run {known} and Celery's worker: {IN_CONTAINERS}"
    )


def variables(given: Mapping[str, Any] | Sequence[str] | None) -> dict[str, str]:
    pairs = given.items() if isinstance(given, Mapping) else (text.split("=", 1) for text in given or ())
    return {name: str(value) for name, value in pairs}


def _signal(given: str | int | None) -> int:
    if given is None:
        return signals.SIGKILL
    if isinstance(given, int) or given.isdigit():
        return int(given)
    name = given if given.startswith("SIG") else f"SIG{given}"
    if name not in signals.Signals.__members__:
        raise APIError(f"there is no signal {given!r} on this machine")
    return signals.Signals[name]


def _exit_code(status: int | None) -> int:
    """Return an exit status as Docker and shells have it: 137 for SIGKILL."""
    return 0 if status is None else 128 - status if status < 0 else status


def _ended(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signals.Signals(-status).name}"
