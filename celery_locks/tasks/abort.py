"""Stops a body whose lease was lost.

In the main thread of a process (the prefork and solo pools) by a signal, so that a body which sleeps or waits for a
socket is stopped at once. Elsewhere the body is not stopped; it is told, and its run fails when it ends.

The abort is guarded: it can land only while the body runs.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from celery_locks.errors import LossReason
from celery_locks.lease import Lease

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: SIGUSR1 is Celery's soft time limit.
SIGNAL = getattr(signal, "SIGUSR2", None)


class Aborted(BaseException):
    """Raised in a body whose lease was lost. No `Exception`, so that ``except Exception`` does not swallow it."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__(f"the lease of {guard.lease.key!r} was lost")
        self.guard = guard


class _Guard:
    """Around one body in the main thread."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.armed = False
        self.lost = False

    def abort(self, lease: Lease, reason: LossReason) -> None:
        """Called by the thread that notices the loss."""
        self.lost = True
        if self.armed and SIGNAL is not None:
            ident = threading.main_thread().ident
            assert ident is not None
            signal.pthread_kill(ident, SIGNAL)


#: The bodies that run in the main thread, outermost first. Only the main thread changes it.
_guards: list[_Guard] = []
_previous: Any = None


def run_abortable(lease: Lease, body: Callable[[], T]) -> T:
    """Runs the body, and stops it when the lease is lost, as far as that can be done in this thread.

    Raises:
        LockLost: The body was stopped.
    """
    if SIGNAL is None or threading.current_thread() is not threading.main_thread():
        return body()
    _install()
    guard = _Guard(lease)
    _guards.append(guard)
    disconnect = lease.on_lost(guard.abort)
    try:
        guard.armed = True
        try:
            if guard.lost:  # before the guard was armed
                raise Aborted(guard)
            return body()
        finally:
            guard.armed = False
    except Aborted as aborted:
        guard.armed = False  # where it landed in the `finally` above
        if aborted.guard is not guard:
            raise
        raise lease.lost_error() from None
    finally:
        disconnect()
        _guards.remove(guard)


def _install() -> None:
    """Takes the signal, unless it is taken: at every run, since billiard resets handlers after a child has started."""
    global _previous
    assert SIGNAL is not None
    current = signal.getsignal(SIGNAL)
    if current is not _on_signal:
        _previous = current
        signal.signal(SIGNAL, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    # No lock may be taken here: the main thread may hold it.
    for guard in _guards:
        if guard.armed and guard.lost:
            guard.armed = False
            raise Aborted(guard)
    if callable(_previous) and not any(guard.lost for guard in _guards):
        _previous(number, frame)
