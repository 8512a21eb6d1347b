"""Ends calls that a server leaves without an answer, by closing their connection: no driver's own timeout does.

A server that was stopped, or a network that swallows everything, keeps a blocked call blocked for as long as it likes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet, ref

from celery_locks._runtime.clock import monotonic

#: Seconds between two looks at the calls under way.
TICK = 0.05
#: Seconds without a call after which the thread rests.
REST = 5.0


class Watched:
    """A call that is under way on a connection until a moment.

    Args:
        connection: The driver's.
        seconds: How long the call may take.
    """

    def __init__(self, connection: Any, seconds: float) -> None:
        self._connection = ref(connection)
        self.until = monotonic() + seconds
        self.cut = False

    def end(self) -> None:
        """Shut the connection's socket down."""
        self.cut = True
        connection = self._connection()
        # One that is closed by now has no number: the number that it had may be another file's.
        with suppress(Exception), socket.socket(fileno=os.dup(_file_number(connection))) as twin:
            twin.shutdown(socket.SHUT_RDWR)


class Guard:
    """A thread that cuts the connections of calls that take too long. Each process needs its own."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        #: Weak: a call that an exception ended between two lines is forgotten, too.
        self._calls: WeakSet[Watched] = WeakSet()
        self._something = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, call: Watched) -> None:
        """Cut the connection of a call when its time is over."""
        with self._mutex:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celery-locks-sql-guard", daemon=True)
                self._thread.start()
        self._something.set()

    def remove(self, call: Watched) -> None:
        """Leave the connection of a call alone."""
        with self._mutex:
            self._calls.discard(call)

    def _run(self) -> None:
        idle_since = monotonic()
        while True:
            time.sleep(TICK)
            with self._mutex:
                now = monotonic()
                if self._calls:
                    idle_since = now
                for call in self._calls:
                    if not call.cut and call.until <= now:
                        call.end()
                rest = not self._calls and now > idle_since + REST
                if rest:
                    self._something.clear()
            if rest:
                self._something.wait()
                idle_since = monotonic()


def _file_number(connection: Any) -> int:
    """Return the number of the socket of a connection of psycopg or PyMySQL."""
    return int(connection.fileno() if hasattr(connection, "fileno") else connection._sock.fileno())
