"""Timeouts of calls to a server. A call that takes too long is ended by shutting down its socket.

Without this, a stopped server or a silent network blocks a call forever: the drivers have no timeout of their own.
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

#: Seconds between two checks of the running calls.
CHECK_SECONDS = 0.05
#: Seconds without a call after which the thread sleeps until the next one.
IDLE_THREAD_SECONDS = 5.0


class TimedCall:
    """A running call with a timeout.

    Args:
        connection: The driver's connection.
        seconds: How long the call may take.
    """

    def __init__(self, connection: Any, seconds: float) -> None:
        self._connection = ref(connection)
        self.until = monotonic() + seconds
        self.timed_out = False

    def end(self) -> None:
        """Shut the connection's socket down."""
        self.timed_out = True
        connection = self._connection()
        # A closed connection has no file number, and its former number may belong to another file.
        with suppress(Exception), socket.socket(fileno=os.dup(_file_number(connection))) as twin:
            twin.shutdown(socket.SHUT_RDWR)


class CallTimeouts:
    """A thread that ends calls after their timeout. Each process needs its own."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        #: Weak references: a call that an asynchronous exception ended is forgotten, too.
        self._calls: WeakSet[TimedCall] = WeakSet()
        self._something = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, call: TimedCall) -> None:
        """End a call after its timeout."""
        with self._mutex:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celery-locks-sql-timeouts", daemon=True)
                self._thread.start()
        self._something.set()

    def remove(self, call: TimedCall) -> None:
        """Stop watching a call."""
        with self._mutex:
            self._calls.discard(call)

    def _run(self) -> None:
        idle_since = monotonic()
        while True:
            time.sleep(CHECK_SECONDS)
            with self._mutex:
                now = monotonic()
                if self._calls:
                    idle_since = now
                for call in self._calls:
                    if not call.timed_out and call.until <= now:
                        call.end()
                rest = not self._calls and now > idle_since + IDLE_THREAD_SECONDS
                if rest:
                    self._something.clear()
            if rest:
                self._something.wait()
                idle_since = monotonic()


def _file_number(connection: Any) -> int:
    """Return the file number of a connection's socket, of psycopg or PyMySQL."""
    return int(connection.fileno() if hasattr(connection, "fileno") else connection._sock.fileno())
