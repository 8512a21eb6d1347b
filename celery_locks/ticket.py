"""`LockTicket`, a place in line that is taken first and waited for later."""

from __future__ import annotations

from typing import Protocol

from celery_locks._durations import Duration
from celery_locks._sansio import Steps, run
from celery_locks._validation import Terms
from celery_locks._waiting import PLACE_KEPT
from celery_locks.errors import LockError, LockNotOwned, LockTimeout
from celery_locks.lease import Lease, release_or_later
from celery_locks.stores.types import Claim, Refused


class LockInLine(Protocol):
    """The lock of a ticket."""

    key: str
    _terms: Terms

    def _new_claim(self) -> Claim: ...
    def _leave_line(self, claim: Claim) -> None: ...
    def _undo_interrupted(self, claim: Claim, error: BaseException) -> None: ...
    def _timed_out(self, refused: Refused) -> LockTimeout: ...
    def _stand_steps(self, claim: Claim, timeout: Duration | None, place: float) -> Steps[Lease | Refused]: ...


class LockTicket:
    """A place in line for a key, made by `Lock.enqueue`: first line up, then do something else, then wait.

    Nobody behind it is served before, so use it or `cancel` it. The store keeps the place for the lock's ttl, 10 s at
    least, and each look (`position`, `wait`) begins that anew. When the time is over the place is lost, and the next
    look lines up again, at the end. Not for use by several threads at once.

    Examples:
        >>> ticket = lock.enqueue()
        >>> prepare()
        >>> lease = ticket.wait(timeout=10)
    """

    def __init__(self, lock: LockInLine, claim: Claim) -> None:
        self._lock = lock
        self._claim = claim
        self._place = max(PLACE_KEPT, lock._terms.ttl)
        self._lease: Lease | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        state = "cancelled" if self._cancelled else "acquired" if self._lease else "waiting"
        return f"<LockTicket {self._lock.key!r} {state}>"

    @property
    def acquired(self) -> bool:
        """Whether the lease was had, by the last look; asks nobody."""
        return self._lease is not None

    @property
    def lease(self) -> Lease | None:
        """The lease, once it was had."""
        return self._lease

    @property
    def position(self) -> int | None:
        """How many stand before it in line, ``None`` once it has the lease.

        Asks the store, and takes the lease if it can.

        Raises:
            LockNotOwned: It was cancelled.
            StoreUnavailable: The store can't be reached; the place is kept for as long as it was.
        """
        claim = self._claim
        try:
            position = run(self._position_steps())
            return position  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._give_up(claim, error)
            raise

    def _position_steps(self) -> Steps[int | None]:
        """The steps of `position`."""
        refused = None if self._lease else (yield from self._look(0.0))
        return None if refused is None else refused.position

    def wait(self, *, timeout: Duration | None = None) -> Lease:
        """Waits until it is its turn. After a `LockTimeout` it still stands in line, and may wait again.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes.

        Raises:
            LockTimeout: It was not its turn when the time was over.
            LockNotOwned: It was cancelled.
            StoreUnavailable: The store can't be reached; the place is kept for as long as it was.
        """
        claim = self._claim
        try:
            lease = run(self._wait_steps(timeout))
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._give_up(claim, error)
            raise

    def _wait_steps(self, timeout: Duration | None = None) -> Steps[Lease]:
        """The steps of `wait`."""
        if self._lease is None and (refused := (yield from self._look(timeout))) is not None:
            raise self._lock._timed_out(refused)
        assert self._lease is not None
        return self._lease

    def cancel(self) -> bool:
        """Leaves the line; a lease that it has already is released.

        Returns:
            Whether this call cancelled it, with a lease: whether that was still held.
        """
        if self._cancelled:
            return False
        self._cancelled = True
        if self._lease is not None:
            return release_or_later(self._lease)
        self._lock._leave_line(self._claim)
        return True

    def _begin_anew(self) -> None:
        """Stand in line by a new owner token from now on: the old one is given up, maybe a little later."""
        self._claim = self._lock._new_claim()

    def _give_up(self, claim: Claim, error: BaseException) -> None:
        """After an interrupt: give up the place in line, or the lease that no one has heard of."""
        self._lock._undo_interrupted(claim, error)
        if not isinstance(error, LockError) and self._lease is None and self._claim is claim:
            self._begin_anew()

    def _look(self, timeout: Duration | None) -> Steps[Refused | None]:
        if self._cancelled:
            raise LockNotOwned(f"the place in line for {self._lock.key!r} was cancelled", self._lock.key)
        answer = yield from self._lock._stand_steps(self._claim, timeout, self._place)
        if isinstance(answer, Lease):
            self._lease = answer
            return None
        return answer
