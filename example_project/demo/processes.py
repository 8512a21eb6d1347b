"""The processes and the folder of the demo. They are gone when it ends, unless it is itself killed by SIGKILL."""

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
#: A path with a socket in it must be short: 104 characters on macOS.
LONGEST_PARENT = 60
#: Seconds that killed processes have to disappear, and that the folder has to be removed.
GONE_WITHIN = 2.0


class DemoError(Exception):
    """The demo can't go on; the message says why, and what to do."""


class Process:
    """A program in a process group of its own, with its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._told_to_end = False
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
        """Raises `DemoError` if it has ended and nobody told it to."""
        if not (self.running or self._told_to_end):
            raise self.error("died")

    def wait_for(self, text: str, timeout: float) -> None:
        """Waits until its output holds this text.

        Raises:
            DemoError: It ended before, or took too long.
        """
        end = time.monotonic() + timeout
        while not self.said(text):
            if not self.running or time.monotonic() > end:
                raise self.error("did not start")
            pause(0.02)

    def said(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def error(self, what: str) -> DemoError:
        """An error with the end of its output."""
        lines = self.log.read_text(errors="replace").rstrip().splitlines()[-20:]
        return DemoError("\n".join([f"{self.name} {what}. The end of its log:", *(f"  | {line}" for line in lines)]))

    def terminate(self) -> None:
        """Asks it to end."""
        self._told_to_end = True
        if self.running:
            self._process.terminate()

    def kill(self) -> None:
        """Ends it and all of its group at once: nothing of it can run on or clean up."""
        self._told_to_end = True
        self._signal_group()
        self._process.wait()
        self._signal_group()  # what it may have started in its last moment

    @property
    def has_group(self) -> bool:
        """Whether a process of its group is still there."""
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _signal_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: no permission for a group of dead processes
            os.killpg(self._process.pid, signal.SIGKILL)


class Stage:
    """A temporary folder, and the processes that work in it. When it is left, both are gone.

    Raises:
        DemoError: When it is left: the folder could not be removed.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        self.folder = Path(
            tempfile.mkdtemp(prefix="celery-locks-demo-", dir=parent if len(parent) <= LONGEST_PARENT else "/tmp")
        )
        self._processes: list[Process] = []
        # Workers that are killed can't remove their own temporary files.
        self._temporary = self.folder / "tmp"
        self._temporary.mkdir()

    def start(self, name: str, argv: Sequence[str]) -> Process:
        process = Process(name, argv, self.folder / f"{name}.log", {"TMPDIR": str(self._temporary)})
        self._processes.append(process)
        return process

    def start_python(self, name: str, *arguments: str) -> Process:
        return self.start(name, [sys.executable, *arguments])

    def check(self) -> None:
        """Raises `DemoError` if one has ended and nobody told it to."""
        for process in self._processes:
            process.check()

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
        # A killed process takes a moment to disappear, and may finish making a file meanwhile.
        _soon(lambda: not any(process.has_group for process in self._processes))
        if _soon(self._remove_folder):
            return
        before = f"{error}\n" if isinstance(error, DemoError) else ""
        raise DemoError(f"{before}{self.folder} could not be removed: remove it by hand") from error

    def _remove_folder(self) -> bool:
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + GONE_WITHIN
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return true
