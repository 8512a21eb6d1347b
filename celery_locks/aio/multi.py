"""`AsyncMultiLock`: several keys at once, all or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, overload

from celery_locks._durations import Duration
from celery_locks.aio.driver import driver_of
from celery_locks.aio.lease import AsyncMultiLease
from celery_locks.aio.lock import run_under
from celery_locks.aio.scope import EnteredLeases
from celery_locks.multi import MultiLock
from celery_locks.stores.base import Store

T = TypeVar("T")


class AsyncMultiLock:
    """Several keys that are acquired together: all of them or none; see `MultiLock`.

    Attributes:
        keys: What is locked, in the order in which it is.
        plain: The same for threads.

    Examples:
        >>> async with locks.multi(["account:1", "account:2"]) as leases:
        ...     leases.check()
    """

    def __init__(self, plain: MultiLock, store: Store, abort: bool = False) -> None:
        self.keys = plain.keys
        self.plain = plain
        self._store = store
        self._abort = abort
        self._entered: EnteredLeases[AsyncMultiLease] = EnteredLeases()

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(self, *, timeout: Duration | None = None, attempts: int | None = None) -> AsyncMultiLease:
        """Waits until all keys are had.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes, 0 for a single try.
            attempts: How many rounds there are at most; see `MultiLock`.

        Raises:
            LockTimeout: One was still held by others when the time was over; none was acquired.
            StoreUnavailable: The store can't be reached; none was acquired.
        """
        steps = self.plain._acquire_steps(timeout, attempts=attempts)
        return AsyncMultiLease(await driver_of(self._store).drive(steps, timeout), self._abort)

    async def try_acquire(self) -> AsyncMultiLease | None:
        """All the leases, or ``None`` when others hold one of the keys or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached; none was acquired.
        """
        had = await driver_of(self._store).drive(self.plain._try_steps())
        return None if had is None else AsyncMultiLease(had, self._abort)

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
        """Calls the function, or coroutine function, while all keys are held, and returns what it returns.

        Raises:
            LockTimeout: The keys were not to be had in time.
            LockLost: A lease was lost while the function ran.
        """
        return await run_under(await self.acquire(timeout=timeout), function, *args, **kwargs)

    async def __aenter__(self) -> AsyncMultiLease:
        return await self._entered.enter(await self.acquire())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._entered.leave(kind, error, trace)
