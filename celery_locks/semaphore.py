"""`Semaphore`, a key with several permits: how many of them are free, and taking some."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks._durations import Duration
from celery_locks._space import Space
from celery_locks._validation import Terms, checked_count
from celery_locks.errors import LockConfigError
from celery_locks.lease import Lease
from celery_locks.lock import Lock
from celery_locks.stores.types import Holder

if TYPE_CHECKING:
    from celery_locks.outcomes import OutcomeCallback
    from celery_locks.ticket import LockTicket

T = TypeVar("T")


class Semaphore:
    """A key of which ``limit`` permits may be held at once. May be shared by threads; each acquisition is a `Lease`.

    Waiters are served first come, first served: one that needs many permits is not overtaken by those behind it that
    need few, so permits may be free while others wait.

    The store keeps no limit. Each acquisition goes by its own: with ``limit=3`` it is granted when no more than 3
    permits are held with its own, whatever limit the others gave. So a limit may be lowered while others hold. A `Lock`
    is a limit of 1: it gets in when nobody holds the key, and keeps no semaphore out that has permits left.

    As a context manager it takes one permit, waits as long as it takes, and raises `LockLost` at the end when the lease
    was lost within.

    Attributes:
        key: What is shared.
        limit: How many permits there are.

    Examples:
        >>> smtp = locks.semaphore("smtp", limit=5)
        >>> with smtp:                          # one of five
        ...     send()
        >>> smtp.run(send_many, permits=3)      # three of them
    """

    def __init__(
        self,
        space: Space,
        key: str,
        terms: Terms,
        owner: str | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> None:
        self.key = key
        self.limit = terms.limit
        self._on_event = on_event
        self._space = space
        self._terms = terms
        self._owner = owner
        self._one = self._taking(1)

    def __repr__(self) -> str:
        return f"<Semaphore {self.key!r} of {self.limit} at {self._space.url}>"

    def acquire(self, *, permits: int = 1, timeout: Duration | None = None, attempts: int | None = None) -> Lease:
        """Waits in line, first come first served, until enough permits are free.

        Args:
            permits: How many, all at once.
            timeout: The longest wait; ``None`` for as long as it takes, 0 for a single try.
            attempts: How often the store is asked at most; see `Lock.acquire`.

        Raises:
            LockTimeout: They were not available when the time was over, or at the last attempt.
            LockQueueFull: As many wait already as ``max_waiters`` of the semaphore allows.
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives; nothing was
                acquired.
        """
        lock = self._taking(permits)
        claim = lock._new_claim()
        try:
            lease = lock.acquire(timeout=timeout, attempts=attempts, claim=claim)
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            lock._undo_interrupted(claim, error)
            raise

    def try_acquire(self, *, permits: int = 1) -> Lease | None:
        """The lease, or ``None`` when too few permits are free or others wait for them.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        lock = self._taking(permits)
        claim = lock._new_claim()
        try:
            answer = lock._attempt(claim)
            return answer if isinstance(answer, Lease) else None
        except BaseException as error:
            lock._undo_interrupted(claim, error)
            raise

    def enqueue(self, *, permits: int = 1) -> LockTicket:
        """Takes a place in line, or the lease if enough permits are free, and returns at once; see `LockTicket`.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        lock = self._taking(permits)
        claim = lock._new_claim()
        try:
            ticket = lock._enqueue(claim)
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            lock._undo_interrupted(claim, error)
            raise

    def wait(self, *, permits: int = 1, timeout: Duration | None = None) -> bool:
        """Waits in line until so many permits are free, and takes none; see `Lock.wait`.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached.
        """
        return self._taking(permits).wait(timeout=timeout)

    def run(
        self, function: Callable[..., T], *args: Any, permits: int = 1, timeout: Duration | None = None, **kwargs: Any
    ) -> T:
        """Calls the function while it holds permits, and returns what it returns.

        Args:
            function: What to call with the arguments.
            permits: How many.
            timeout: The longest wait for them.

        Raises:
            LockTimeout: They were not to be had in time.
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            LockLost: The lease was lost while the function ran.
        """
        return self._taking(permits).run(function, *args, timeout=timeout, **kwargs)

    def available(self) -> int:
        """How many of the limit's permits nobody holds now. Those who wait in line come before a newcomer."""
        return max(0, self.limit - self._space.store.held(self._one._name))

    def locked(self) -> bool:
        """Whether no permit is left."""
        return self.available() == 0

    def holders(self) -> tuple[Holder, ...]:
        """Those who hold permits now, earliest acquisition first; at most 100 are named."""
        return self._one.holders()

    def force_release(self) -> tuple[Holder, ...]:
        """Release all permits by force. Their holders lose their leases with the reason ``force_released``.

        They notice within 100 ms on Redis and PostgreSQL, and at their next renewal on other stores.

        Returns:
            The holders, at most 100.
        """
        return self._one.force_release()

    def __enter__(self) -> Lease:
        claim = self._one._new_claim()
        try:
            lease = self._one._enter_block(claim)
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException:
            self._one._undo_block(claim)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._one.__exit__(kind, error, trace)

    def _taking(self, permits: int) -> Lock:
        """What takes so many permits: a lock that differs in nothing else."""
        permits = checked_count("permits", permits)
        if permits > self.limit:
            raise LockConfigError(
                f"permits={permits} can never be had of limit={self.limit}: ask for {self.limit} at most, or make the "
                f"semaphore {self.key!r} with limit={permits} or more",
                self.key,
            )
        return Lock(self._space, self.key, self._terms.for_permits(permits), self._owner, self, self._on_event)
