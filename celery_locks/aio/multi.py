"""`AsyncMultiLock`: several keys, acquired together or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from celery_locks._durations import Duration
from celery_locks.aio.driver import driver_of
from celery_locks.aio.lease import AsyncMultiLease
from celery_locks.aio.lock import run_under
from celery_locks.aio.scope import Enterable
from celery_locks.multi import MultiLock

T = TypeVar("T")


class AsyncMultiLock(Enterable[AsyncMultiLease]):
    """Several keys that are acquired together: all of them or none; see `MultiLock`.

    Attributes:
        keys: The keys, in the order in which they are acquired.
        plain: The lock for threads that it wraps.

    Examples:
        >>> async with locks.multi(["account:1", "account:2"]) as leases:
        ...     leases.check()
    """

    def __init__(self, plain: MultiLock, abort: bool = False) -> None:
        super().__init__()
        self.keys = plain.keys
        self.plain = plain
        self._store = plain._space.store
        self._abort = abort

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def acquire(self, *, timeout: Duration | None = None, attempts: int | None = None) -> AsyncMultiLease:
        """Acquire all keys. Wait until they are free.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit, 0 for
                a single attempt.
            attempts: The highest number of rounds; see `MultiLock`.

        Raises:
            LockTimeout: Others still held one of the keys at the end of the timeout, or after the last round. None was
                acquired.
            LockQueueFull: The line of one of the keys has ``max_waiters`` waiters already. None was acquired.
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        steps = self.plain._acquire_steps(timeout, attempts=attempts)
        return AsyncMultiLease(await driver_of(self._store).drive(steps, timeout), self._abort)

    async def try_acquire(self) -> AsyncMultiLease | None:
        """Acquire all keys without a wait in line. Return ``None`` if others hold one of them or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        lease = await driver_of(self._store).drive(self.plain._try_steps())
        return None if lease is None else AsyncMultiLease(lease, self._abort)

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
        """Call a function or a coroutine function while all keys are held, and return its result.

        Args:
            function: The function.
            *args: Its positional arguments.
            timeout: The longest wait for the keys; see `acquire`.
            **kwargs: Its keyword arguments.

        Raises:
            LockTimeout: Others still held one of the keys at the end of the timeout.
            LockLost: A lease was lost while the function ran.
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        return await run_under(await self.acquire(timeout=timeout), function, *args, **kwargs)
