"""`LockTicket`: a place in line, taken first and waited for later."""

from __future__ import annotations

from typing import Protocol

from celery_locks._durations import Duration
from celery_locks._sansio import PLACE_KEPT_SECONDS, Steps, run
from celery_locks._validation import Terms
from celery_locks.errors import LockError, LockNotOwned, LockTimeout
from celery_locks.lease import Lease, release_or_later
from celery_locks.stores.types import Claim, Refused


class LockInLine(Protocol):
    """The lock of a ticket. The lock itself is built on this module."""

    key: str
    _terms: Terms

    def _new_claim(self) -> Claim: ...
    def _leave_line(self, claim: Claim) -> None: ...
    def _roll_back_interrupt(self, claim: Claim, error: BaseException) -> None: ...
    def _timed_out(self, refused: Refused) -> LockTimeout: ...
    def _ticket_steps(self, claim: Claim, timeout: Duration | None, place: float) -> Steps[Lease | Refused]: ...


class LockTicket:
    """A place in line for a key, made by `Lock.enqueue`: take the place, do other work, then wait.

    No later waiter is served before it, so use the ticket or `cancel` it. The store keeps the place for the lock's ttl,
    at least 10 s, and `position` and `wait` renew it. When that time is over, the place is lost, and their next call
    takes one at the end of the line. Threads must not share a ticket.

    Examples:
        >>> ticket = lock.enqueue()
        >>> prepare()
        >>> lease = ticket.wait(timeout=10)
    """

    def __init__(self, lock: LockInLine, claim: Claim) -> None:
        self._lock = lock
        self._claim = claim
        self._place = max(PLACE_KEPT_SECONDS, lock._terms.ttl)
        self._lease: Lease | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else "acquired" if self._lease else "waiting"
        return f"<LockTicket {self._lock.key!r} {state}>"

    @property
    def acquired(self) -> bool:
        """Whether the lease was acquired. Without I/O: as of the last `position` or `wait`."""
        return self._lease is not None

    @property
    def lease(self) -> Lease | None:
        """The lease, once it was acquired; before, ``None``."""
        return self._lease

    @property
    def position(self) -> int | None:
        """How many stand before it in line, ``None`` once it has the lease.

        Asks the store, and acquires the lease if its turn has come.

        Raises:
            LockNotOwned: The ticket was cancelled.
            StoreUnavailable: The store can't be reached. The place is kept as before.
        """
        claim = self._claim
        try:
            position = run(self._position_steps())
            return position  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._roll_back(claim, error)
            raise

    def _position_steps(self) -> Steps[int | None]:
        """Return the steps of `position`."""
        refused = None if self._lease else (yield from self._wait_for_turn(0.0))
        return None if refused is None else refused.position

    def wait(self, *, timeout: Duration | None = None) -> Lease:
        """Wait until its turn comes, and return the lease.

        After a `LockTimeout` the ticket keeps its place, and may wait again.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit.

        Raises:
            LockTimeout: Its turn did not come before the end of the timeout.
            LockNotOwned: The ticket was cancelled.
            StoreUnavailable: The store can't be reached. The place is kept as before.
        """
        claim = self._claim
        try:
            lease = run(self._wait_steps(timeout))
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._roll_back(claim, error)
            raise

    def _wait_steps(self, timeout: Duration | None = None) -> Steps[Lease]:
        """Return the steps of `wait`."""
        if self._lease is None and (refused := (yield from self._wait_for_turn(timeout))) is not None:
            raise self._lock._timed_out(refused)
        assert self._lease is not None
        return self._lease

    def cancel(self) -> bool:
        """Leave the line. If the ticket has a lease, release it.

        Returns:
            Whether this call cancelled the ticket; if it has a lease, whether that was still held.
        """
        if self._cancelled:
            return False
        self._cancelled = True
        if self._lease is not None:
            return release_or_later(self._lease)
        self._lock._leave_line(self._claim)
        return True

    def _renew_claim(self) -> None:
        """Use a new owner token from now on. The place of the old token is left, maybe a little later."""
        self._claim = self._lock._new_claim()

    def _roll_back(self, claim: Claim, error: BaseException) -> None:
        """Leave the line after an interrupt, or release the lease if no caller got it."""
        self._lock._roll_back_interrupt(claim, error)
        if not isinstance(error, LockError) and self._lease is None and self._claim is claim:
            self._renew_claim()

    def _wait_for_turn(self, timeout: Duration | None) -> Steps[Refused | None]:
        if self._cancelled:
            raise LockNotOwned(f"the place in line for {self._lock.key!r} was cancelled", self._lock.key)
        answer = yield from self._lock._ticket_steps(self._claim, timeout, self._place)
        if isinstance(answer, Lease):
            self._lease = answer
            return None
        return answer
