"""A wall clock that can be shifted under a worker that runs."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

from tests.support import report

_SOURCE = Path(__file__).with_name("shift.c")
_SECONDS = struct.Struct("=q")


class ShiftedClock:
    """The wall clock of processes that are started with `env`.

    Args:
        folder: Where its files are made.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = folder / "shift.so"
        self._file.write_bytes(_SECONDS.pack(0))
        #: Why it can't be had; empty where it can.
        self.missing = self._compile()
        if self.missing:
            report.could_not_have("shifted clocks", f"the chaos suite ran without them: {self.missing}")

    @property
    def env(self) -> dict[str, str]:
        """Variables for a process whose clock it is."""
        return {} if self.missing else {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}

    def shift(self, seconds: int) -> None:
        """Sets the clock so far off the true time; 0 sets it right."""
        with self._file.open("r+b") as file:  # in its place: processes have mapped it
            file.write(_SECONDS.pack(seconds))

    def _compile(self) -> str:
        if sys.platform != "linux":
            return "they are made for Linux"
        compiler = shutil.which("cc")
        if compiler is None:
            return "there is no C compiler (`apt-get install gcc`)"
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(_SOURCE), "-ldl"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return "" if made.returncode == 0 else f"{_SOURCE.name} does not compile here: {made.stderr[-500:]}"
