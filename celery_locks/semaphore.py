"""`Semaphore`, a key with several permits, and `ReadWriteLock`, which is made of one."""

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
    from celery_locks.signals import OutcomeCallback
    from celery_locks.ticket import LockTicket

T = TypeVar("T")

#: The limit of the semaphore of a `ReadWriteLock`: a reader takes one permit, a writer all of them.
MOST_READERS = 1_000_000


class Semaphore:
    """A key of which ``limit`` permits may be held at the same time.

    Threads may share it. Each acquisition is a `Lease` of its own.

    Waiters are served first come, first served. A waiter that needs many permits is not overtaken by later ones that
    need few, so permits may be free while others wait.

    The store keeps no limit: each acquisition has its own. With ``limit=3`` it is granted if no more than 3 permits are
    held together with its own, whatever the limits of the other holders. So a limit may be lowered while permits are
    held. A `Lock` has a limit of 1: it is granted if the key is not held. A semaphore with permits left is granted
    while the lock is held.

    As a context manager, it acquires one permit and waits for any time. It raises `LockLost` at the end if the lease
    was lost in the block.

    Attributes:
        key: What is shared.
        limit: How many permits the key has.

    Examples:
        >>> smtp = locks.semaphore("smtp", limit=5)
        >>> with smtp:                          # one of five permits
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
        self._one = self._lock_of(1)

    def __repr__(self) -> str:
        return f"<Semaphore {self.key!r} of {self.limit} at {self._space.url}>"

    def acquire(self, *, permits: int = 1, timeout: Duration | None = None, attempts: int | None = None) -> Lease:
        """Acquire permits. Wait in line, first come first served, until enough of them are free.

        Args:
            permits: How many permits to acquire, all or none.
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit, 0 for
                a single attempt.
            attempts: The highest number of requests to the store; see `Lock.acquire`.

        Raises:
            LockTimeout: Too few permits were free at the end of the timeout, or at the last attempt.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives. Nothing was
                acquired.
        """
        lock = self._lock_of(permits)
        claim = lock._new_claim()
        try:
            lease = lock.acquire(timeout=timeout, attempts=attempts, claim=claim)
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            lock._roll_back_interrupt(claim, error)
            raise

    def try_acquire(self, *, permits: int = 1) -> Lease | None:
        """Acquire permits without a wait. Return ``None`` if too few are free, or others wait for them.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        lock = self._lock_of(permits)
        claim = lock._new_claim()
        try:
            answer = lock._attempt(claim)
            return answer if isinstance(answer, Lease) else None
        except BaseException as error:
            lock._roll_back_interrupt(claim, error)
            raise

    def enqueue(self, *, permits: int = 1) -> LockTicket:
        """Take a place in line, or acquire the permits if enough are free, without a wait; see `LockTicket`.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1; or the store has
                no line.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        lock = self._lock_of(permits)
        claim = lock._new_claim()
        try:
            ticket = lock._enqueue(claim)
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            lock._roll_back_interrupt(claim, error)
            raise

    def wait(self, *, permits: int = 1, timeout: Duration | None = None) -> bool:
        """Wait in line until this many permits are free, and acquire none; see `Lock.wait`.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            StoreUnavailable: The store can't be reached.
        """
        return self._lock_of(permits).wait(timeout=timeout)

    def run(
        self, function: Callable[..., T], *args: Any, permits: int = 1, timeout: Duration | None = None, **kwargs: Any
    ) -> T:
        """Call a function while permits are held, and return its result.

        Args:
            function: The function.
            *args: Its positional arguments.
            permits: How many permits to hold.
            timeout: The longest wait for them; see `acquire`.
            **kwargs: Its keyword arguments.

        Raises:
            LockTimeout: Too few permits were free at the end of the timeout.
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            LockLost: The lease was lost while the function ran.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return self._lock_of(permits).run(function, *args, timeout=timeout, **kwargs)

    def available(self) -> int:
        """Return how many of the limit's permits are free now. Waiters in line get them before a newcomer."""
        return max(0, self.limit - self._space.store.held(self._one._name))

    def locked(self) -> bool:
        """Return whether no permit is free."""
        return self.available() == 0

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of permits, earliest acquisition first; at most 100."""
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
            self._one._roll_back_block(claim)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._one.__exit__(kind, error, trace)

    def _lock_of(self, permits: int) -> Lock:
        """Return a lock that acquires this many permits."""
        permits = checked_count("permits", permits)
        if permits > self.limit:
            raise LockConfigError(
                f"permits={permits} is more than limit={self.limit}: ask for {self.limit} at most, or make the "
                f"semaphore {self.key!r} with limit={permits} or more",
                self.key,
            )
        return Lock(self._space, self.key, self._terms.for_permits(permits), self._owner, self, self._on_event)


class ReadWriteLock:
    """A key that many readers may hold at the same time, or one writer alone.

    Readers and writers stand in one line, first come, first served. Readers that arrive after a writer wait for it. So
    no stream of readers starves a writer, and no stream of writers starves a reader.

    A holder of one of the two locks must not wait for the other: a reader that waits to write would wait for itself.

    Attributes:
        key: What is locked.
        read: The lock of readers.
        write: The lock of the writer.

    Examples:
        >>> report = locks.read_write("report:7")
        >>> with report.read:
        ...     show()
        >>> with report.write:
        ...     change()
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
        self.read = Lock(space, key, terms.for_permits(1, MOST_READERS), owner, on_event=on_event)
        self.write = Lock(space, key, terms.for_permits(MOST_READERS, MOST_READERS), owner, on_event=on_event)

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.key!r}>"
