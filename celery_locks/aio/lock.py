"""`AsyncLock`, one key: waiting for it, holding it, giving it back; and `AsyncLockTicket`, a place in line."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, overload

from celery_locks._durations import Duration
from celery_locks._sansio import Steps
from celery_locks.aio.driver import Driver, driver_of
from celery_locks.aio.lease import AsyncHolding, AsyncLease
from celery_locks.aio.scope import EnteredLeases
from celery_locks.errors import LockError
from celery_locks.lease import release_rest_later
from celery_locks.lock import Lock
from celery_locks.stores.types import Holder
from celery_locks.ticket import LockTicket

T = TypeVar("T")


class AsyncLock:
    """One key. May be shared by tasks, loops and threads; each acquisition is an `AsyncLease` of its own.

    With ``async with`` it waits as long as it takes, and raises `LockLost` at the end when the lease was lost within;
    with ``abort`` the task is cancelled as soon as that is known, and the block ends with `LockLost`.

    A waiting that is cancelled, by ``asyncio.timeout`` too, gives up its place in line, and what was granted at that
    moment.

    Attributes:
        key: What is locked.
        plain: The lock for threads that is behind it, which signals name as their sender.

    Examples:
        >>> async with locks.lock("user:7", ttl=30) as lease:
        ...     lease.check()
    """

    def __init__(self, plain: Lock, abort: bool = False) -> None:
        self.key = plain.key
        self.plain = plain
        self._abort = abort
        self._entered: EnteredLeases[AsyncLease] = EnteredLeases()

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(self, *, timeout: Duration | None = None, attempts: int | None = None) -> AsyncLease:
        """Waits in line, first come first served, until the key is free; see `Lock.acquire`.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes, 0 for a single try.
            attempts: How often the store is asked at most.

        Raises:
            LockTimeout: It was still held by others when the time was over, or at the last attempt.
            LockQueueFull: As many wait already as ``max_waiters`` of the lock allows.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives; nothing was
                acquired.
        """
        return AsyncLease(await self._driver.drive(self.plain._acquire_steps(timeout, attempts), timeout), self._abort)

    async def try_acquire(self) -> AsyncLease | None:
        """The lease, or ``None`` when others hold the key or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        lease = await self._driver.drive(self.plain._try_steps())
        return None if lease is None else AsyncLease(lease, self._abort)

    async def enqueue(self) -> AsyncLockTicket:
        """Takes a place in line, or the lease if the key is free, and returns at once; see `AsyncLockTicket`.

        Raises:
            LockConfigError: The store has no line.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        return AsyncLockTicket(await self._driver.drive(self.plain._enqueue_steps()), self._driver, self._abort)

    async def wait(self, *, timeout: Duration | None = None) -> bool:
        """Waits in line until it could be acquired, and acquires nothing; see `Lock.wait`.

        Returns:
            Whether it came free in time.

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
        """Calls the function, or coroutine function, under the lock and returns what it returns.

        Args:
            function: What to call with the arguments.
            timeout: The longest wait for the key.

        Raises:
            LockTimeout: The key was not to be had in time.
            LockLost: The lease was lost while the function ran.
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
            function: A function, or a coroutine function, that is called with the value and returns the new one.
            timeout: The longest wait for the key.
            keep: How long the new value is kept; 30 days by default.

        Returns:
            The new value.

        Raises:
            LockTimeout: The key was still held by others when the time was over.
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
        """Whether anybody holds the key."""
        return await self._driver.call(self.plain.locked)

    async def holders(self) -> tuple[Holder, ...]:
        """Those who hold the key now."""
        return await self._driver.call(self.plain.holders)

    async def force_release(self) -> tuple[Holder, ...]:
        """Release the key by force; see `Lock.force_release`.

        Returns:
            The holders, at most 100.
        """
        return await self._driver.call(self.plain.force_release)

    async def __aenter__(self) -> AsyncLease:
        return await self._entered.enter(await self.acquire())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._entered.leave(kind, error, trace)

    @property
    def _driver(self) -> Driver:
        return driver_of(self.plain._store)


class AsyncLockTicket:
    """A place in line for a key, made by `AsyncLock.enqueue`; see `LockTicket`. For one task at a time.

    A `wait` that is cancelled gives the place up; one whose ``timeout`` is over keeps it.

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
        """Whether the lease was had, by the last look; asks nobody."""
        return self._plain.acquired

    @property
    def lease(self) -> AsyncLease | None:
        """The lease, once it was had."""
        if self._lease is None and self._plain.lease is not None:
            self._lease = AsyncLease(self._plain.lease, self._abort)
        return self._lease

    async def position(self) -> int | None:
        """How many stand before it in line, ``None`` once it has the lease. Asks the store, and takes it if it can.

        Raises:
            LockNotOwned: It was cancelled.
            StoreUnavailable: The store can't be reached; the place is kept for as long as it was.
        """
        return await self._drive(self._plain._position_steps())

    async def wait(self, *, timeout: Duration | None = None) -> AsyncLease:
        """Waits until it is its turn. After a `LockTimeout` it still stands in line, and may wait again.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes.

        Raises:
            LockTimeout: It was not its turn when the time was over.
            LockNotOwned: It was cancelled.
            StoreUnavailable: The store can't be reached; the place is kept for as long as it was.
        """
        await self._drive(self._plain._wait_steps(timeout), timeout)
        assert self.lease is not None
        return self.lease

    async def cancel(self) -> bool:
        """Leaves the line; a lease that it has already is released.

        Returns:
            Whether this call cancelled it, with a lease: whether that was still held.
        """
        return await self._driver.call(self._plain.cancel)

    async def _drive(self, steps: Steps[T], timeout: Duration | None = None) -> T:
        try:
            return await self._driver.drive(steps, timeout)
        except LockError:
            raise
        except BaseException:  # a cancellation: the place is given up, maybe only after the next wait has begun
            if self._plain.lease is None:
                self._plain._begin_anew()
            raise


async def run_under(lease: AsyncHolding[Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, or coroutine function, in a block under a lease."""
    try:
        async with lease:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result
    except BaseException:  # an interrupt may have come before the block, or at its end
        release_rest_later(lease.plain)
        raise
