"""Ends calls that a server leaves without an answer, by closing their connection: no driver's own timeout does.

A server that was stopped, or a network that swallows everything, keeps a blocked call blocked for as long as it likes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds between two looks at the calls under way.
TICK = 0.05
#: Seconds without a call after which the thread rests.
REST = 5.0


class Watched:
    """A call that is under way on a socket until a moment."""

    def __init__(self, file: int, until: float) -> None:
        self.file = file
        self.until = until
        self.cut = False


class Guard:
    """A thread that cuts the connections of calls that take too long. Each process needs its own."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._calls: set[Watched] = set()
        self._something = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, file: int, seconds: float) -> Iterator[Watched]:
        """Cuts the connection of this file number when the block takes longer."""
        call = Watched(file, time.monotonic() + seconds)
        self._add(call)
        try:
            yield call
        finally:
            with self._mutex:
                self._calls.discard(call)

    def _add(self, call: Watched) -> None:
        with self._mutex:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celery-locks-sql-guard", daemon=True)
                self._thread.start()
        self._something.set()

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(TICK)
            with self._mutex:
                now = time.monotonic()
                if self._calls:
                    idle_since = now
                for call in self._calls:
                    if not call.cut and call.until <= now:
                        call.cut = True
                        _cut(call.file)
                rest = not self._calls and now > idle_since + REST
                if rest:
                    self._something.clear()
            if rest:
                self._something.wait()
                idle_since = time.monotonic()


def _cut(file: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(file)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
