"""`AsyncLock`, the lock of a key, and `AsyncLockTicket`, a place in line."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from celery_locks._durations import Duration
from celery_locks._sansio import Steps
from celery_locks.aio.driver import Driver, driver_of
from celery_locks.aio.lease import AsyncHolding, AsyncLease
from celery_locks.aio.scope import Enterable
from celery_locks.errors import LockError
from celery_locks.lease import release_rest_later
from celery_locks.lock import Lock
from celery_locks.stores.types import Holder
from celery_locks.ticket import LockTicket

T = TypeVar("T")


class AsyncLock(Enterable[AsyncLease]):
    """The lock of a key. Tasks, loops and threads may share it; each acquisition is an `AsyncLease` of its own.

    With ``async with``, it waits for any time, and raises `LockLost` at the end if the lease was lost in the block.
    With ``abort=True``, the task is cancelled as soon as the loss is known, and the block ends with `LockLost`.

    A wait that is cancelled, also by ``asyncio.timeout``, leaves the line, and releases a lease that was granted at
    that moment.

    Attributes:
        key: What is locked.
        plain: The lock for threads that it wraps, and that is the sender of signals.

    Examples:
        >>> async with locks.lock("user:7", ttl=30) as lease:
        ...     lease.check()
    """

    def __init__(self, plain: Lock, abort: bool = False) -> None:
        super().__init__()
        self.key = plain.key
        self.plain = plain
        self._abort = abort

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(self, *, timeout: Duration | None = None, attempts: int | None = None) -> AsyncLease:
        """Acquire the key. Wait in line, first come first served, until it is free; see `Lock.acquire`.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit, 0 for
                a single attempt.
            attempts: The highest number of requests to the store.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout, or at the last attempt.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            LockError: The current run, or a block of this task, holds the key and would wait for itself.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives. Nothing was
                acquired.
        """
        return AsyncLease(await self._driver.drive(self.plain._acquire_steps(timeout, attempts), timeout), self._abort)

    async def try_acquire(self) -> AsyncLease | None:
        """Acquire the key without a wait in line. Return ``None`` if others hold the key or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        lease = await self._driver.drive(self.plain._try_steps())
        return None if lease is None else AsyncLease(lease, self._abort)

    async def enqueue(self) -> AsyncLockTicket:
        """Take a place in line, or acquire the key if it is free, without a wait; see `AsyncLockTicket`.

        Raises:
            LockConfigError: The store has no line.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return AsyncLockTicket(await self._driver.drive(self.plain._enqueue_steps()), self._driver, self._abort)

    async def wait(self, *, timeout: Duration | None = None) -> bool:
        """Wait in line until the key is free, and acquire nothing; see `Lock.wait`.

        Args:
            timeout: The longest wait; ``None`` for no limit.

        Returns:
            Whether the key became free in time.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        return await self._driver.drive(self.plain._wait_steps(timeout), timeout)

    @overload
    async def run(
        self, function: Callable[..., Awaitable[T]], *args: Any, timeout: Duration | None = None, **kwargs: Any
    ) -> T: ...
    @overload
    async def run(
        self, function: Callable[..., T], *args: Any, timeout: Duration | None = None, **kwargs: Any
    ) -> T: ...
    async def run(
        self, function: Callable[..., Any], *args: Any, timeout: Duration | None = None, **kwargs: Any
    ) -> Any:
        """Call a function or a coroutine function under the lock, and return its result.

        Args:
            function: The function.
            *args: Its positional arguments.
            timeout: The longest wait for the key; see `acquire`.
            **kwargs: Its keyword arguments.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout.
            LockLost: The lease was lost while the function ran.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return await run_under(await self.acquire(timeout=timeout), function, *args, **kwargs)

    @overload
    async def update(
        self, function: Callable[[Any], Awaitable[T]], *, timeout: Duration | None = None, keep: Duration | None = None
    ) -> T: ...
    @overload
    async def update(
        self, function: Callable[[Any], T], *, timeout: Duration | None = None, keep: Duration | None = None
    ) -> T: ...
    async def update(
        self, function: Callable[[Any], Any], *, timeout: Duration | None = None, keep: Duration | None = None
    ) -> Any:
        """Change the value kept with the key, under the lock; see `Lock.update`.

        Args:
            function: A function or a coroutine function. It is called with the value, and returns the new one.
            timeout: The longest wait for the key; see `acquire`.
            keep: How long to keep the new value; 30 days by default.

        Returns:
            The new value.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout.
            LockLost: The lease was lost before the value was written.
            LockConfigError: The value is not JSON, the time is out of bounds, or the store keeps no values.
            StoreUnavailable: The store can't be reached. If it failed at the release, the value may be written.
        """
        self.plain._require_values()
        lease = await self.acquire(timeout=timeout)

        async def change() -> Any:
            value = function(await lease.value())
            if inspect.isawaitable(value):
                value = await value
            lease.update(value, keep)
            released = await lease.release()
            lease.plain._check_written(released)
            return value

        return await run_under(lease, change)

    async def locked(self) -> bool:
        """Return whether the key is held."""
        return await self._driver.call(self.plain.locked)

    async def holders(self) -> tuple[Holder, ...]:
        """Return the holders of the key, earliest acquisition first; at most 100."""
        return await self._driver.call(self.plain.holders)

    async def force_release(self) -> tuple[Holder, ...]:
        """Release the key by force; see `Lock.force_release`.

        Returns:
            The holders, at most 100.
        """
        return await self._driver.call(self.plain.force_release)

    @property
    def _driver(self) -> Driver:
        return driver_of(self.plain._store)


class AsyncLockTicket:
    """A place in line for a key, made by `AsyncLock.enqueue`; see `LockTicket`. Tasks must not share it.

    A `wait` that is cancelled leaves the line. After the ``timeout`` of a `wait`, the ticket keeps its place.

    Examples:
        >>> ticket = await lock.enqueue()
        >>> await prepare()
        >>> lease = await ticket.wait(timeout=10)
    """

    def __init__(self, plain: LockTicket, driver: Driver, abort: bool = False) -> None:
        self._plain = plain
        self._driver = driver
        self._abort = abort
        self._lease: AsyncLease | None = None

    def __repr__(self) -> str:
        return f"<Async{repr(self._plain)[1:]}"

    @property
    def acquired(self) -> bool:
        """Whether the lease was acquired. Without I/O: as of the last `position` or `wait`."""
        return self._plain.acquired

    @property
    def lease(self) -> AsyncLease | None:
        """The lease, once it was acquired; before, ``None``."""
        if self._lease is None and self._plain.lease is not None:
            self._lease = AsyncLease(self._plain.lease, self._abort)
        return self._lease

    async def position(self) -> int | None:
        """Return how many stand before it in line, ``None`` once it has the lease.

        Asks the store, and acquires the lease if its turn has come.

        Raises:
            LockNotOwned: The ticket was cancelled.
            StoreUnavailable: The store can't be reached. The place is kept as before.
        """
        return await self._drive(self._plain._position_steps())

    async def wait(self, *, timeout: Duration | None = None) -> AsyncLease:
        """Wait until its turn comes, and return the lease.

        After a `LockTimeout` the ticket keeps its place, and may wait again.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit.

        Raises:
            LockTimeout: Its turn did not come before the end of the timeout.
            LockNotOwned: The ticket was cancelled.
            StoreUnavailable: The store can't be reached. The place is kept as before.
        """
        await self._drive(self._plain._wait_steps(timeout), timeout)
        assert self.lease is not None
        return self.lease

    async def cancel(self) -> bool:
        """Leave the line. If the ticket has a lease, release it.

        Returns:
            Whether this call cancelled the ticket; if it has a lease, whether that was still held.
        """
        return await self._driver.call(self._plain.cancel)

    async def _drive(self, steps: Steps[T], timeout: Duration | None = None) -> T:
        try:
            return await self._driver.drive(steps, timeout)
        except LockError:
            raise
        except BaseException:  # a cancellation: the old place may be left only after the next wait has begun
            if self._plain.lease is None:
                self._plain._renew_claim()
            raise


async def run_under(lease: AsyncHolding[Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function or a coroutine function in a block under a lease."""
    try:
        async with lease:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
    except BaseException:  # an interrupt may have come before the block, or at its end
        release_rest_later(lease.plain)
        raise
