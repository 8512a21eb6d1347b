"""What all ways of stopping a body have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from celery.exceptions import Ignore, Reject, Retry

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LockLost, LossReason
from celery_locks.lease import Lease

T = TypeVar("T")

#: Seconds that the end of a run waits for those who are being told of its loss.
PATIENCE = 5.0


class Aborted(BaseException):
    """Raised in a body whose lease was lost. No `Exception`, so that ``except Exception`` does not swallow it."""

    #: Whose body it is for; there is one within the other where a task runs another eagerly.
    guard: Guard

    def __init__(self, guard: Guard | None = None) -> None:
        # Without one where the interpreter makes it, of a class that has it.
        self.guard = guard or self.guard
        self.guard.landed = True
        super().__init__(f"the lease of {self.guard.lease.key!r} was lost")


class Guard(ABC):
    """Around one body: stops it when its lease is lost."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        #: Whether the body was to be stopped while it ran.
        self.sent = False
        #: Whether it was raised there.
        self.landed = False
        lease._abort = self.abort

    def run(self, body: Callable[[], T]) -> T:
        """Runs the body.

        Raises:
            LockLost: It was stopped, whatever it made of that.
        """
        try:
            try:
                return self._call(body)
            finally:
                self._disarm()
        except Aborted as aborted:
            self._disarm()  # where it landed in the `finally` above
            if aborted.guard is not self:
                raise
            raise lost(self.lease) from None
        except (Ignore, Reject, Retry):  # the body's own decision, and no success
            raise
        except Exception as error:
            if not self.lease.lost:
                raise
            failed = lost(self.lease)
            if not self.sent:
                raise
            raise failed from error  # what the body, or a library that it uses, made of the abort

    @abstractmethod
    def abort(self, lease: Lease, reason: LossReason) -> None:
        """Stops the body. Called once, by the thread that notices the loss."""

    @abstractmethod
    def _call(self, body: Callable[[], T]) -> T:
        """Calls the body so that `abort` can stop it; raises `Aborted` if it is to be stopped already."""

    def _disarm(self) -> None:
        """The body has ended. May be called again."""


def lost(lease: Lease) -> LockLost:
    """The error that says that a lease was lost, once all have been told: nothing of that is to outlive the run."""
    patience = monotonic() + PATIENCE
    while lease.lost and not lease._loss_reported and monotonic() < patience:
        time.sleep(0.001)
    return lease._lost_error()
