"""The abort in the threads pool, and outside the main thread: the interpreter raises an exception in a thread.

It is raised between two bytecodes. A call that blocks, such as a sleep, ends first.
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

    The exception is sent under a lock while the body runs. When the body has ended, an exception that was not raised
    yet is withdrawn under the same lock.
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
        if self.lease.lost:  # perhaps before the guard was listed
            self.abort(self.lease, "expired")
        return body()

    def _disarm(self) -> None:
        bodies = self._bodies
        try:
            bodies.lock.acquire()
            if self not in bodies.guards:
                return
            first = bodies.guards.index(self)  # the guards after it are of bodies within this one
            if any(guard.pending for guard in bodies.guards[first:]):
                _raise_in(bodies.ident, None)
            del bodies.guards[first:]
            for outer in bodies.guards:
                if outer.pending:  # its exception may have been withdrawn just now
                    _raise_in(bodies.ident, outer)
        finally:
            bodies.unlock()

    @property
    def pending(self) -> bool:
        """Whether the exception was sent and not raised yet."""
        return self.sent and not self.landed


class _Bodies:
    """The guards of the bodies that run in one thread, outermost first."""

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        # The bodies' own thread may acquire it again, if an abort was raised between its acquisition and its release.
        # Python 3.14 raises exceptions there, also in a `with` statement.
        self.lock = threading.RLock()
        self.guards: list[ThreadGuard] = []

    def unlock(self) -> None:
        """Release the lock as often as this thread has acquired it. While it is held, no new abort is sent."""
        with suppress(RuntimeError):  # it is no longer held
            while True:
                self.lock.release()


_local = threading.local()


def _bodies_here() -> _Bodies:
    if not hasattr(_local, "bodies"):
        _local.bodies = _Bodies()
    bodies: _Bodies = _local.bodies
    return bodies


def _raise_in(ident: int, guard: ThreadGuard | None) -> None:
    """Have the interpreter raise a guard's abort in a thread soon. It replaces an exception that was not raised yet."""
    # The interpreter takes a class, and makes the exception when it raises it.
    exception = None if guard is None else ctypes.py_object(type("Aborted", (Aborted,), {"guard": guard}))
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), exception)
