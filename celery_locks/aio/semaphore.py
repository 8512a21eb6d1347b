"""`AsyncSemaphore`, a key with several permits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, overload

from celery_locks._durations import Duration
from celery_locks.aio.driver import driver_of
from celery_locks.aio.lease import AsyncLease
from celery_locks.aio.lock import AsyncLock, AsyncLockTicket
from celery_locks.semaphore import Semaphore
from celery_locks.stores.types import Holder

T = TypeVar("T")


class AsyncSemaphore:
    """A key of which ``limit`` permits may be held at the same time; see `Semaphore`.

    Each acquisition is an `AsyncLease`.

    With ``async with``, it acquires one permit, as an `AsyncLock` acquires its key.

    Attributes:
        key: What is shared.
        limit: How many permits the key has.
        plain: The semaphore for threads that it wraps, and that is the sender of signals.

    Examples:
        >>> smtp = locks.semaphore("smtp", limit=5)
        >>> async with smtp:                    # one of five permits
        ...     await send()
        >>> await smtp.run(send_many, permits=3)
    """

    def __init__(self, plain: Semaphore, abort: bool = False) -> None:
        self.key = plain.key
        self.limit = plain.limit
        self.plain = plain
        self._abort = abort
        self._one = self._lock_of(1)

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(
        self, *, permits: int = 1, timeout: Duration | None = None, attempts: int | None = None
    ) -> AsyncLease:
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
        return await self._lock_of(permits).acquire(timeout=timeout, attempts=attempts)

    async def try_acquire(self, *, permits: int = 1) -> AsyncLease | None:
        """Acquire permits without a wait in line. Return ``None`` if too few are free, or others wait for them.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return await self._lock_of(permits).try_acquire()

    async def enqueue(self, *, permits: int = 1) -> AsyncLockTicket:
        """Take a place in line, or acquire the permits if enough are free, without a wait; see `AsyncLockTicket`.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1; or the store has
                no line.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return await self._lock_of(permits).enqueue()

    async def wait(self, *, permits: int = 1, timeout: Duration | None = None) -> bool:
        """Wait in line until this many permits are free, and acquire none; see `Lock.wait`.

        Raises:
            LockConfigError: The permits are more than the limit, or not a whole number of at least 1.
            StoreUnavailable: The store can't be reached.
        """
        return await self._lock_of(permits).wait(timeout=timeout)

    @overload
    async def run(
        self,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        permits: int = 1,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> T: ...
    @overload
    async def run(
        self, function: Callable[..., T], *args: Any, permits: int = 1, timeout: Duration | None = None, **kwargs: Any
    ) -> T: ...
    async def run(
        self, function: Callable[..., Any], *args: Any, permits: int = 1, timeout: Duration | None = None, **kwargs: Any
    ) -> Any:
        """Call a function or a coroutine function while permits are held, and return its result.

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
        return await self._lock_of(permits).run(function, *args, timeout=timeout, **kwargs)

    async def available(self) -> int:
        """Return how many of the limit's permits are free now. Waiters in line get them before a newcomer."""
        return await driver_of(self._one.plain._store).call(self.plain.available)

    async def locked(self) -> bool:
        """Return whether no permit is free."""
        return await self.available() == 0

    async def holders(self) -> tuple[Holder, ...]:
        """Return the holders of permits, earliest acquisition first; at most 100."""
        return await self._one.holders()

    async def force_release(self) -> tuple[Holder, ...]:
        """Release all permits by force; see `Semaphore.force_release`.

        Returns:
            The holders, at most 100.
        """
        return await self._one.force_release()

    async def __aenter__(self) -> AsyncLease:
        return await self._one.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._one.__aexit__(kind, error, trace)

    def _lock_of(self, permits: int) -> AsyncLock:
        return AsyncLock(self.plain._lock_of(permits), self._abort)
