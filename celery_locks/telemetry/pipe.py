"""The way of reports from the processes of a prefork pool to the worker: a named pipe, one line a report.

A line that is short enough is written by one step of the system, whole or not at all (POSIX ``PIPE_BUF``), so many
processes may write at once and be killed at any moment. What was written is read, also when its writer is dead. Nobody
waits: when the pipe is full the report is dropped, and counted.
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

from celery_locks._runtime import threads
from celery_locks.telemetry.reports import Report

#: Names the pipe to the pool's processes, also to those that are not forked.
VARIABLE = "CELERY_LOCKS_REPORTS"
#: Bytes that the pipe holds, where the system lets us say.
ROOM = 1 << 20
#: What ends the reader.
_END = b"\n"
_PREFIX = b"dropped "


class Reader:
    """The worker's end.

    Args:
        deliver: Called with each report, by a thread of this.
        dropped: Called with how many were dropped by a process since it said so last.
    """

    def __init__(self, deliver: Callable[[Report], object], dropped: Callable[[int], object]) -> None:
        self._deliver = deliver
        self._dropped = dropped
        self._folder = Path(tempfile.mkdtemp(prefix="celery-locks-"))
        self.path = self._folder / "reports"
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)  # for writing too: so it never ends by itself
        with suppress(AttributeError, OSError):  # Linux only
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, ROOM)
        self._ended = threads.new_lock()
        self._ended.acquire()
        self._pid = os.getpid()
        os.environ[VARIABLE] = str(self.path)

    def start(self) -> None:
        """Begins to read."""
        threads.start(self._read, "celery-locks-reports")

    def stop(self) -> None:
        """Reads what was written so far, and ends."""
        if self._pid != os.getpid():
            return
        if os.environ.get(VARIABLE) == str(self.path):
            del os.environ[VARIABLE]
        end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(end, _END)
        except BlockingIOError:  # full, and nobody reads: there is nothing to wait for
            return
        finally:
            os.close(end)
        self._ended.acquire(True, 5.0)

    def close(self) -> None:
        """Takes the pipe away."""
        if self._pid == os.getpid():
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
                self._one(line)

    def _one(self, line: bytes) -> None:
        with suppress(Exception):  # this thread goes on whatever was written
            if line.startswith(_PREFIX):
                self._dropped(int(line[len(_PREFIX) :]))
            else:
                self._deliver(Report.of_line(line))


class Writer:
    """The end of one of the pool's processes.

    Args:
        path: The pipe.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._pid = 0
        self._dropped = 0

    def write(self, report: Report) -> None:
        """Writes a report, or drops it; never waits, and raises nothing."""
        try:
            if self._pid != os.getpid():
                self._open()
            if self._dropped:
                os.write(self._fd, _PREFIX + b"%d\n" % self._dropped)
                self._dropped = 0
            os.write(self._fd, report.line(select.PIPE_BUF))
        except OSError:  # it is full, or the worker is gone
            self._dropped += 1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._pid, self._dropped = os.getpid(), 0
