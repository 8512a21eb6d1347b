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
    """A key of which ``limit`` permits may be held at once; see `Semaphore`. Each acquisition is an `AsyncLease`.

    With ``async with`` it takes one permit, as an `AsyncLock` takes its key.

    Attributes:
        key: What is shared.
        limit: How many permits there are.
        plain: The semaphore for threads that is behind it, which signals name as their sender.

    Examples:
        >>> smtp = locks.semaphore("smtp", limit=5)
        >>> async with smtp:                    # one of five
        ...     await send()
        >>> await smtp.run(send_many, permits=3)
    """

    def __init__(self, plain: Semaphore, abort: bool = False) -> None:
        self.key = plain.key
        self.limit = plain.limit
        self.plain = plain
        self._abort = abort
        self._one = self._taking(1)

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(
        self, *, permits: int = 1, timeout: Duration | None = None, attempts: int | None = None
    ) -> AsyncLease:
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
        return await self._taking(permits).acquire(timeout=timeout, attempts=attempts)

    async def try_acquire(self, *, permits: int = 1) -> AsyncLease | None:
        """The lease, or ``None`` when too few permits are free or others wait for them.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        return await self._taking(permits).try_acquire()

    async def enqueue(self, *, permits: int = 1) -> AsyncLockTicket:
        """Takes a place in line, or the lease if enough permits are free, and returns at once.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        return await self._taking(permits).enqueue()

    async def wait(self, *, permits: int = 1, timeout: Duration | None = None) -> bool:
        """Waits in line until so many permits are free, and takes none.

        Raises:
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            StoreUnavailable: The store can't be reached.
        """
        return await self._taking(permits).wait(timeout=timeout)

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
        """Calls the function, or coroutine function, while permits are held, and returns what it returns.

        Args:
            function: What to call with the arguments.
            permits: How many.
            timeout: The longest wait for them.

        Raises:
            LockTimeout: They were not to be had in time.
            LockConfigError: More permits than the limit, or no whole number of at least 1.
            LockLost: The lease was lost while the function ran.
        """
        return await self._taking(permits).run(function, *args, timeout=timeout, **kwargs)

    async def available(self) -> int:
        """How many of the limit's permits nobody holds now. Those who wait in line come before a newcomer."""
        return await driver_of(self._one.plain._store).call(self.plain.available)

    async def locked(self) -> bool:
        """Whether no permit is left."""
        return await self.available() == 0

    async def holders(self) -> tuple[Holder, ...]:
        """Those who hold permits now, earliest acquisition first; at most 100 are named."""
        return await self._one.holders()

    async def force_release(self) -> tuple[Holder, ...]:
        """Release all permits by force; see `Semaphore.force_release`.

        Returns:
            Those who held them; at most 100 are named.
        """
        return await self._one.force_release()

    async def __aenter__(self) -> AsyncLease:
        return await self._one.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._one.__aexit__(kind, error, trace)

    def _taking(self, permits: int) -> AsyncLock:
        return AsyncLock(self.plain._taking(permits), self._abort)
