"""A terminal of somebody who follows a page: a shell, what was typed into it, and what it has printed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from celery_locks.testing.local import processes
from tests.support.waiting import eventually

#: Reads commands from a pipe, each ended by a zero byte, and writes down how each ended. Its own file descriptors are
#: none of a command's business; Ctrl-C ends the command, and not the shell.
_SHELL = """
trap : INT
exec 3<>"$1" 4>>"$2"
while :; do
  if IFS= read -r -d '' command <&3; then
    eval "$command" 3<&- 4>&-
    echo $? >&4
  fi
done
"""
#: A shell that is born deaf to Ctrl-C, as what is started in the background is, stays so, and its commands with it.
_HEAR = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A shell in a folder, whose variables and place stay from command to command.

    Args:
        name: What the page calls it.
        folder: Where it begins.
        environment: Its variables.
    """

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._files = processes.make_folder()
        self._output, self._statuses = self._files / "output", self._files / "statuses"
        self._statuses.touch()
        os.mkfifo(self._files / "commands")
        self._typed = 0
        #: How much of what was printed has been looked at.
        self._seen = 0
        with self._output.open("wb") as output:
            self._shell = processes.start(
                [sys.executable, "-c", _HEAR, "bash", "-c", _SHELL, "bash", self._files / "commands", self._statuses],
                output=output,
                env=environment,
                cwd=folder,
            )

    @property
    def idle(self) -> bool:
        """Whether what was typed last has ended."""
        return len(self._ends()) == self._typed

    @property
    def status(self) -> int:
        """How the last command ended."""
        return int(self._ends()[-1])

    def type(self, command: str) -> None:
        """Has a command run, once the one before has ended; from here on `printed` tells of this one."""
        self.wait(30)
        self._seen = self._output.stat().st_size
        self._typed += 1
        with (self._files / "commands").open("wb") as commands:
            commands.write(command.encode() + b"\0")

    def printed(self) -> str:
        """What was printed and has not been looked at."""
        with self._output.open("rb") as output:
            output.seek(self._seen)
            return output.read().decode(errors="surrogateescape")

    def look_on(self, text: str) -> None:
        """Takes the beginning of what `printed` gave as looked at."""
        self._seen += len(text.encode(errors="surrogateescape"))

    def wait(self, timeout: float) -> None:
        """Waits until the command has ended.

        Raises:
            AssertionError: It did not.
        """
        if not self.idle:
            eventually(lambda: self.idle, timeout, f"a command in {self.name} goes on")

    def interrupt(self, timeout: float = 60) -> None:
        """Types Ctrl-C, and waits until the command has ended; types it again after a while, as people do.

        The first may come while the shell is between two programs, and be heard by none.

        Raises:
            AssertionError: It did not.
        """
        if not self.idle:
            os.killpg(self._shell.pid, signal.SIGINT)
            with suppress(AssertionError):
                self.wait(timeout / 3)
        if not self.idle:
            os.killpg(self._shell.pid, signal.SIGINT)
            self.wait(timeout)

    def close(self) -> None:
        """Kills what is left, and removes its files."""
        with suppress(ProcessLookupError):
            processes.end(self._shell)
        processes.remove_folder(self._files)

    def _ends(self) -> list[str]:
        return self._statuses.read_text().split()
