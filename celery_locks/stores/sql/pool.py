"""The connections that a process keeps to a database server."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from celery_locks._runtime.clock import monotonic

#: The most idle connections, and the most connections, of a process.
MOST_IDLE, MOST_CONNECTIONS = 10, 20
#: Seconds after which an idle connection is closed while others are in use.
IDLE_CONNECTION_SECONDS = 60.0
#: The longest pause, in seconds, between two attempts to get a connection while all are in use.
LONGEST_POOL_PAUSE_SECONDS = 0.01


class _Place:
    """A permission to have one connection. It counts as long as something refers to it."""


class SteadyPool(Pool):
    """A pool that counts only the connections that still exist.

    An exception such as a soft time limit may interrupt a thread before it returns its connection. A counter would stay
    wrong then. Here the garbage collector closes the connection, and its place is free again.

    Args:
        creator: Opens a connection; see SQLAlchemy's `Pool`.
        timeout: Seconds to wait for a connection while all are in use.
    """

    def __init__(self, creator: Any, timeout: float, **options: Any) -> None:
        super().__init__(creator, **options)
        self._timeout = timeout
        self._mutex = threading.RLock()  # a signal's handler may interrupt its own thread
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._places: WeakSet[_Place] = WeakSet()

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        return len(self._places) - len(self._idle)

    def status(self) -> str:
        return f"{len(self._idle)} idle, {self.checkedout()} in use"

    def recreate(self) -> SteadyPool:
        return type(self)(
            self._creator,
            timeout=self._timeout,
            recycle=self._recycle,
            reset_on_return=None,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        while (entry := self._next_idle()) is not None:
            entry.close()

    def _do_get(self) -> ConnectionPoolEntry:
        give_up = monotonic() + self._timeout
        while True:
            entry = self._next_idle()
            if entry is not None:
                return entry
            place = self._free_place()
            if place is not None:
                entry = self._create_connection()
                entry.place = place  # type: ignore[attr-defined]
                return entry
            if monotonic() >= give_up:
                raise sa.exc.TimeoutError(f"all {MOST_CONNECTIONS} connections of this process are in use")
            time.sleep(random.uniform(0, LONGEST_POOL_PAUSE_SECONDS))

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        now = monotonic()
        record.idle_since = now  # type: ignore[attr-defined]
        if len(self._idle) >= MOST_IDLE:
            _close(record)
            return
        self._idle.append(record)
        with suppress(IndexError):  # another thread has just taken the last one
            while self._idle[0].idle_since < now - IDLE_CONNECTION_SECONDS:  # type: ignore[attr-defined]
                _close(self._idle.popleft())

    def _next_idle(self) -> ConnectionPoolEntry | None:
        """Take the connection that was used last, so that surplus ones become old and are closed."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _free_place(self) -> _Place | None:
        with self._mutex:
            if len(self._places) >= MOST_CONNECTIONS:
                return None
            place = _Place()
            self._places.add(place)
            return place


def _close(record: ConnectionPoolEntry) -> None:
    """Close a connection, and give its place to others."""
    record.close()
    record.place = None  # type: ignore[attr-defined]
