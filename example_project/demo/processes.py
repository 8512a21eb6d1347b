"""The processes and the folder of the demo. They are removed when it ends, unless SIGKILL ends it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from example_project.demo.interrupt import pause

ROOT = Path(__file__).resolve().parents[2]
#: The longest path of the parent folder, in characters: macOS allows 104 for the path of a socket.
LONGEST_PARENT = 60
#: How long killed processes may take to disappear, and the folder to be removed.
REMOVAL_SECONDS = 2.0


class DemoError(Exception):
    """The demo can't continue. The message has the reason and the remedy."""


class Process:
    """A program in a process group of its own, with its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._is_ending = False
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raise `DemoError` if the process has ended by itself."""
        if not (self.running or self._is_ending):
            raise self.error("died")

    def wait_for(self, text: str, timeout: float) -> None:
        """Wait until the output contains this text.

        Raises:
            DemoError: The process ended before, or took too long.
        """
        end = time.monotonic() + timeout
        while not self.has_printed(text):
            if not self.running or time.monotonic() > end:
                raise self.error("did not start")
            pause(0.02)

    def has_printed(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def error(self, what: str) -> DemoError:
        """Return an error with the end of the output."""
        lines = self.log.read_text(errors="replace").rstrip().splitlines()[-20:]
        return DemoError("\n".join([f"{self.name} {what}. The end of its log:", *(f"  | {line}" for line in lines)]))

    def terminate(self) -> None:
        """Ask the process to end."""
        self._is_ending = True
        if self.running:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and its group. None of them can continue or clean up."""
        self._is_ending = True
        self._signal_group()
        self._process.wait()
        self._signal_group()  # processes that it started in the meantime

    @property
    def has_group(self) -> bool:
        """Whether a process of its group still exists."""
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _signal_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: no permission for a group of dead processes
            os.killpg(self._process.pid, signal.SIGKILL)


class Stage:
    """A temporary folder, and the processes that use it. The end of the context removes both.

    Raises:
        DemoError: The folder could not be removed at the end.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        self.folder = Path(
            tempfile.mkdtemp(prefix="celery-locks-demo-", dir=parent if len(parent) <= LONGEST_PARENT else "/tmp")
        )
        self._processes: list[Process] = []
        # Killed workers can't remove their own temporary files.
        self._temporary = self.folder / "tmp"
        self._temporary.mkdir()

    def start(self, name: str, argv: Sequence[str]) -> Process:
        process = Process(name, argv, self.folder / f"{name}.log", {"TMPDIR": str(self._temporary)})
        self._processes.append(process)
        return process

    def start_python(self, name: str, *arguments: str) -> Process:
        return self.start(name, [sys.executable, *arguments])

    def check(self) -> None:
        """Raise `DemoError` if a process has ended by itself."""
        for process in self._processes:
            process.check()

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
        # A killed process takes a moment to disappear, and may still create a file.
        _soon(lambda: not any(process.has_group for process in self._processes))
        if _soon(self._remove_folder):
            return
        before = f"{error}\n" if isinstance(error, DemoError) else ""
        raise DemoError(f"{before}{self.folder} could not be removed: remove it by hand") from error

    def _remove_folder(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + REMOVAL_SECONDS
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return true
