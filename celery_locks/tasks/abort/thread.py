"""The threads pool, and workers that run off the main thread: an exception that the interpreter raises in a thread.

It is raised between two bytecodes, so a call that blocks (a sleep, a socket, a lock) ends first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from celery_locks.errors import LossReason
from celery_locks.lease import Lease
from celery_locks.tasks.abort.guard import Aborted, Guard

T = TypeVar("T")


class ThreadGuard(Guard):
    """For a body in any thread.

    The exception is sent under a lock, while the body runs. Afterwards, under the same lock, one that was sent and has
    not landed is taken back.
    """

    def __init__(self, lease: Lease) -> None:
        self._bodies = _bodies_here()
        super().__init__(lease)

    def abort(self, lease: Lease, reason: LossReason) -> None:
        bodies = self._bodies
        with bodies.lock:
            if self.sent or self not in bodies.guards:
                return
            self.sent = True
            if bodies.ident != threading.get_ident():
                _raise_in(bodies.ident, self)
                return
        raise Aborted(self)

    def _call(self, body: Callable[[], T]) -> T:
        try:
            self._bodies.lock.acquire()
            self._bodies.guards.append(self)
        finally:
            self._bodies.unlock()
        if self.lease.lost:  # perhaps before that
            self.abort(self.lease, "expired")
        return body()

    def _disarm(self) -> None:
        bodies = self._bodies
        try:
            bodies.lock.acquire()
            if self not in bodies.guards:
                return
            first = bodies.guards.index(self)  # those after it are of bodies within this one
            if any(guard.pending for guard in bodies.guards[first:]):
                _raise_in(bodies.ident, None)
            del bodies.guards[first:]
            for outer in bodies.guards:
                if outer.pending:  # it may just have been taken back
                    _raise_in(bodies.ident, outer)
        finally:
            bodies.unlock()

    @property
    def pending(self) -> bool:
        """Whether the abort is still to land."""
        return self.sent and not self.landed


class _Bodies:
    """Those that run in one thread, outermost first."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        # The bodies' own thread may take it again, where an abort landed between its acquisition and what releases it.
        # Python 3.14 looks for one there, also in a `with` statement.
        self.lock = threading.RLock()
        self.guards: list[ThreadGuard] = []

    def unlock(self) -> None:
        """Release the lock as often as this thread has acquired it. While it is held, no new abort is sent."""
        with suppress(RuntimeError):  # it is not held
            while True:
                self.lock.release()


_local = threading.local()


def _bodies_here() -> _Bodies:
    if not hasattr(_local, "bodies"):
        _local.bodies = _Bodies()
    bodies: _Bodies = _local.bodies
    return bodies


def _raise_in(ident: int, guard: ThreadGuard | None) -> None:
    """Has the interpreter raise a guard's abort in a thread soon, in the place of any that is still to be raised."""
    # It wants a class, and makes the exception of it when it lands.
    exception = None if guard is None else ctypes.py_object(type("Aborted", (Aborted,), {"guard": guard}))
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), exception)
