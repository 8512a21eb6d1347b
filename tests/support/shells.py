"""Interactive shells under a terminal, in which ``celery`` is completed by click's script for them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import termios
from pathlib import Path

from tests.support import report
from tests.support.waiting import eventually

_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "--interactive"],
}
_PREPARE = {
    "bash": 'PS1="$ "; eval "$(_CELERY_COMPLETE=bash_source celery)"',
    "zsh": "PS1='$ '; autoload -Uz compinit; compinit -D -u; eval \"$(_CELERY_COMPLETE=zsh_source celery)\"",
    "fish": "_CELERY_COMPLETE=fish_source command celery | source",
}
#: What Enter runs instead of the command: it writes the words that the shell made of the line, without another process.
_RECORD = {
    "bash": "celery() { printf '%s\\0' \"$@\" END > words; }",
    "zsh": "celery() { printf '%s\\0' \"$@\" END >| words; }",
    "fish": "function celery; printf '%s\\0' $argv END > words; end",
}
INTERRUPT = "\x03"
SHELLS = tuple(_START)


def missing(name: str) -> str:
    """Return why there is no such shell on this machine; an empty text where there is one."""
    if shutil.which(name):
        return ""
    report.could_not_have(name, f"its completion IS NOT TESTED: install the package {name}")
    return f"there is no {name}: see the closing lines"


class Shell:
    """A shell that someone types in.

    Args:
        name: ``bash``, ``zsh`` or ``fish``.
        folder: Where it runs.
        programs: The folder of the ``celery`` that it completes.
        records: Whether Enter only records the words of a line that begins with ``celery``; see `words`.
        env: More variables.
    """

    def __init__(self, name: str, folder: Path, programs: Path, records: bool = True, **env: str) -> None:
        self.name, self.folder, self.output = name, folder, ""
        variables = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TERM": "xterm", **env}
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execvpe(name, _START[name], variables)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 1000, 0, 0))
        for number, line in enumerate((_PREPARE[name], *([_RECORD[name]] if records else []))):
            self.send(f"{line}\n")
            self.send(f"echo > ready{number}\n")
            self._await(folder / f"ready{number}")

    def _await(self, file: Path) -> None:
        eventually(lambda: self.read() and file.exists(), 60, f"{self.name} starts")

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)

    def send(self, text: str) -> None:
        """Type a text."""
        os.write(self._terminal, text.encode())

    def read(self) -> bool:
        """Take what the shell printed."""
        while select.select([self._terminal], [], [], 0)[0]:
            self.output += os.read(self._terminal, 65536).decode(errors="replace")
        return True

    def words(self, line: str) -> list[str]:
        """Type a line that begins with ``celery``, with TAB in it, and Enter. Return what the shell made of it."""
        recorded = self.folder / "words"
        recorded.unlink(missing_ok=True)
        self.send(f"{line}\r")

        def read() -> list[str]:
            self.read()
            *words, end, nothing = recorded.read_bytes().decode().split("\0")
            assert (end, nothing) == ("END", "")
            return words

        try:
            return eventually(read, 60, f"{self.name} runs {line!r}")
        except AssertionError:
            self.send(INTERRUPT)  # of a quote that is still open
            raise
