"""Stops a body whose lease was lost, by the means of its pool.

A guard ensures that the abort is raised in the body, and never after it.
"""

from __future__ import annotations

import threading

from celery_locks.lease import Lease
from celery_locks.tasks.abort.greenlet import GreenletGuard
from celery_locks.tasks.abort.guard import Aborted, Guard, loss_error
from celery_locks.tasks.abort.signal import ABORT_SIGNAL, SignalGuard
from celery_locks.tasks.abort.thread import ThreadGuard

__all__ = ["Aborted", "Guard", "guard_for", "loss_error"]


def guard_for(lease: Lease) -> Guard:
    """Return a guard for a body that runs under a lease, in this thread or greenlet."""
    if lease._hub is not None:
        return GreenletGuard(lease)
    if ABORT_SIGNAL is not None and threading.current_thread() is threading.main_thread():
        return SignalGuard(lease)
    return ThreadGuard(lease)
