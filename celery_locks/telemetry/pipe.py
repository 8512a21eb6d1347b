"""A named pipe that carries reports from the processes of a prefork pool to the worker, one line for each report.

The system writes a short line as a whole or not at all (POSIX ``PIPE_BUF``). So several processes may write at the same
time, and be killed at any moment. The worker also reads the reports of dead processes. No process waits: if the pipe is
full, the report is dropped, and counted.

The multiprocess mode of prometheus_client can't replace it. That mode has to be set before the first import of the
library, changes the user's own metrics, and carries no events.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery_locks._runtime import process, threads
from celery_locks.telemetry.reports import Report

#: The environment variable with the path of the pipe, for processes of the pool that are not forked.
VARIABLE = "CELERY_LOCKS_REPORTS"
#: How many bytes the pipe holds, on systems where that can be set.
PIPE_BYTES = 1 << 20
#: The line that stops the reader.
_END = b"\n"
#: The beginning of a line that reports dropped reports.
_DROPPED = b"dropped "


class Reader:
    """The worker's end of the pipe.

    Args:
        deliver: Called with each report, by the reader's thread.
        dropped: Called with the number of reports that a process has dropped since its last report of them.
    """

    def __init__(self, deliver: Callable[[Report], object], dropped: Callable[[int], object]) -> None:
        self._deliver = deliver
        self._dropped = dropped
        self._folder = Path(tempfile.mkdtemp(prefix="celery-locks-"))
        self.path = self._folder / "reports"
        os.mkfifo(self.path, 0o600)
        # It is open for writing, too, so that a read never returns the end of the file.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        with suppress(AttributeError, OSError):  # Linux only
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._ended = threads.new_lock()
        self._ended.acquire()
        self._forks = process.forks
        os.environ[VARIABLE] = str(self.path)

    def start(self) -> None:
        threads.start(self._read, "celery-locks-reports")

    def stop(self) -> None:
        """Read the reports that were written so far, and stop."""
        if self._forks != process.forks:
            return
        if os.environ.get(VARIABLE) == str(self.path):
            del os.environ[VARIABLE]
        end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(end, _END)
        except BlockingIOError:  # the pipe is full because the reader has not started
            return
        finally:
            os.close(end)
        self._ended.acquire(True, 5.0)

    def close(self) -> None:
        """Remove the pipe."""
        if self._forks == process.forks:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        rest = b""
        while True:
            lines = (rest + os.read(self._fd, 1 << 16)).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if not line:
                    os.close(self._fd)
                    self._ended.release()
                    return
                self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        with suppress(Exception):  # a malformed line must not stop this thread
            if line.startswith(_DROPPED):
                self._dropped(int(line[len(_DROPPED) :]))
            else:
                self._deliver(Report.of_line(line))


class Writer:
    """The end of the pipe in a process of the pool.

    Args:
        path: The path of the pipe.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._forks = -1
        self._dropped = 0

    def write(self, report: Report) -> None:
        """Write a report, or drop it. This never waits, and raises no error."""
        try:
            if self._forks != process.forks:
                self._open()
            if self._dropped:
                os.write(self._fd, _DROPPED + b"%d\n" % self._dropped)
                self._dropped = 0
            os.write(self._fd, report.line(select.PIPE_BUF))
        except OSError:  # the pipe is full, or the worker has ended
            self._dropped += 1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._forks, self._dropped = process.forks, 0
