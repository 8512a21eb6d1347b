"""Stops a body whose lease was lost, by what its pool has for it.

The abort is guarded: it can land only in the body, never after it.
"""

from __future__ import annotations

import threading

from celery_locks.lease import Lease
from celery_locks.tasks.abort.greenlet import GreenletGuard
from celery_locks.tasks.abort.guard import Aborted, Guard, lost
from celery_locks.tasks.abort.signal import SIGNAL, SignalGuard
from celery_locks.tasks.abort.thread import ThreadGuard

__all__ = ["Aborted", "Guard", "guard_here", "lost"]


def guard_here(lease: Lease) -> Guard:
    """A guard for a body that is to run here, in this thread or greenlet."""
    if lease._hub is not None:
        return GreenletGuard(lease)
    if SIGNAL is not None and threading.current_thread() is threading.main_thread():
        return SignalGuard(lease)
    return ThreadGuard(lease)
