"""The base class of the guards, which stop a body when its lease is lost."""

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

#: How long the end of a run waits until all callbacks about the loss of its lease were called.
CALLBACKS_TIMEOUT_SECONDS = 5.0


class Aborted(BaseException):
    """Raised in a body whose lease was lost. No `Exception`, so that ``except Exception`` does not catch it."""

    #: The guard of the body that it stops. Bodies are nested if a task runs another one eagerly.
    guard: Guard

    def __init__(self, guard: Guard | None = None) -> None:
        # The interpreter makes it without arguments, of a subclass that has the guard.
        self.guard = guard or self.guard
        self.guard.landed = True
        super().__init__(f"the lease of {self.guard.lease.key!r} was lost")


class Guard(ABC):
    """Stops one body when its lease is lost."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        #: Whether the abort was sent to the body while it ran.
        self.sent = False
        #: Whether the abort was raised in the body.
        self.landed = False
        lease._abort = self.abort

    def run(self, body: Callable[[], T]) -> T:
        """Run the body and return its result.

        Raises:
            LockLost: The body was stopped, and returned or raised another error.
        """
        try:
            try:
                return self._call(body)
            finally:
                self._disarm()
                self._detach()
        except Aborted as aborted:
            self._disarm()  # the abort may have been raised in the `finally` above
            if aborted.guard is not self:
                raise
            raise loss_error(self.lease) from None
        except (Ignore, Reject, Retry):  # the body has decided, and reports no success
            raise
        except Exception as error:
            if not self.lease.lost:
                raise
            lost = loss_error(self.lease)
            if not self.sent:
                raise
            raise lost from error  # the body, or a library in it, has caught the abort and raised its own error

    @abstractmethod
    def abort(self, lease: Lease, reason: LossReason) -> None:
        """Stop the body. Called once, by the thread that notices the loss."""

    @abstractmethod
    def _call(self, body: Callable[[], T]) -> T:
        """Call the body so that `abort` can stop it. Raise `Aborted` if the lease is lost already."""

    def _disarm(self) -> None:
        """Stop sending the abort, because the body has ended. May be called again."""

    def _detach(self) -> None:
        """Let the lease forget the guard, which has the lease: the two would be a circle."""
        self.lease._abort = _do_nothing


def _do_nothing(lease: Lease, reason: LossReason) -> None:
    """Do nothing: the body has ended."""


def loss_error(lease: Lease) -> LockLost:
    """Return the error of a lost lease, after all its callbacks were called: they must not outlast the run."""
    deadline = monotonic() + CALLBACKS_TIMEOUT_SECONDS
    while lease.lost and not lease._loss_reported and monotonic() < deadline:
        time.sleep(0.001)
    return lease._lost_error()
