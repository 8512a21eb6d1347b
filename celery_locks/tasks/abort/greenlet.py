"""The abort in gevent and eventlet pools: the hub throws an exception into the body's greenlet.

The hub runs while all greenlets wait, so the body is at a place where it waits. A body that never waits is not stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from celery_locks.errors import LossReason
from celery_locks.lease import Lease
from celery_locks.tasks.abort.guard import Aborted, Guard

T = TypeVar("T")


class GreenletGuard(Guard):
    """For a body in a greenlet. All methods but `abort` run in the thread of its hub, so no lock is needed."""

    def __init__(self, lease: Lease) -> None:
        from greenlet import getcurrent

        self._getcurrent: Callable[[], Any] = getcurrent
        self._greenlet = getcurrent()
        self._armed = False
        super().__init__(lease)

    def abort(self, lease: Lease, reason: LossReason) -> None:
        assert lease._hub is not None
        if not lease._hub.is_current() or self._getcurrent() is not self._greenlet:
            lease._hub.call(self._throw)
        elif self._armed and not self.sent:
            self.sent = True
            raise Aborted(self)

    def _throw(self) -> None:
        if self._armed and not self.sent:
            self.sent = True
            self._greenlet.throw(Aborted(self))

    def _call(self, body: Callable[[], T]) -> T:
        self._armed = True
        if self.lease.lost:  # perhaps before the guard was armed
            self.abort(self.lease, "expired")
        return body()

    def _disarm(self) -> None:
        self._armed = False
