"""`AsyncLocks`: leases for coroutines."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celery_locks._durations import Duration
from celery_locks._runtime.clock import Clock, system_clock
from celery_locks._validation import DEFAULT_PREFIX, DEFAULT_STORE, DEFAULT_TTL
from celery_locks.aio.driver import close_driver, driver_of
from celery_locks.aio.lease import AsyncLease
from celery_locks.aio.lock import AsyncLock
from celery_locks.aio.multi import AsyncMultiLock
from celery_locks.aio.semaphore import AsyncSemaphore
from celery_locks.lockable import Lockable
from celery_locks.locks import Locks
from celery_locks.semaphore import ReadWriteLock
from celery_locks.stores.base import Store

if TYPE_CHECKING:
    from celery_locks.lock_info import LockInfo, Page, Stats
    from celery_locks.signals import OutcomeCallback


class AsyncReadWriteLock:
    """A key that many readers may hold at the same time, or one writer alone; see `ReadWriteLock`.

    Attributes:
        key: What is locked.
        read: The lock of readers.
        write: The lock of the writer.

    Examples:
        >>> report = locks.read_write("report:7")
        >>> async with report.read:
        ...     await show()
    """

    def __init__(self, plain: ReadWriteLock, abort: bool = False) -> None:
        self.key = plain.key
        self.read = AsyncLock(plain.read, abort)
        self.write = AsyncLock(plain.write, abort)

    def __repr__(self) -> str:
        return f"<AsyncReadWriteLock {self.key!r}>"


class AsyncLockable:
    """A kind of thing that is locked, made by `AsyncLocks.lockable`; see `Lockable`.

    Attributes:
        template: The form of the keys.

    Examples:
        >>> order = locks.lockable("order:<order_id>", ttl=60)
        >>> async with order(7):
        ...     await ship(7)
    """

    def __init__(self, plain: Lockable, abort: bool = False) -> None:
        self.template = plain.template
        self._plain = plain
        self._abort = abort

    def __repr__(self) -> str:
        return f"<AsyncLockable {self.template!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncLock:
        """Return the lock of one thing.

        Args:
            *args: The values of the template's names, in its order.
            **kwargs: The values of other names of the template.

        Raises:
            LockKeyError: A value has no stable text.
            TypeError: There are too many values, or too few.
        """
        return AsyncLock(self._plain(*args, **kwargs), self._abort)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of one thing, for the values of a call. It raises the same errors."""
        return self._plain.key(*args, **kwargs)


class AsyncLocks:
    """Locks in a store, for asyncio. Loops may share it, and it may be made before a loop runs.

    The methods that make a lock have the arguments of the same methods of `Locks`, and ``abort``. With ``abort=True``,
    the loss of a lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

    Args:
        store: A `Store`, or its URL; by default the URL in the environment variable ``CELERY_LOCKS_URL``. Or a `Locks`,
            whose store, prefix, owner and clock are used.
        prefix: The beginning of all names in the store. Locks with different prefixes never exclude each other.
        owner: The holder's name that others see; host and process id by default.
        clock: The clock of the leases' deadlines. Tests pass one that they can move.

    Attributes:
        plain: The same locks for threads.
        store: The store.
        prefix: The beginning of all names in the store.

    Raises:
        LockConfigError: There is no URL, or it is not that of a store; or the prefix is empty or has braces.

    Examples:
        >>> locks = AsyncLocks("redis://localhost/1")
        >>> async with locks.lock("user:7", ttl=30) as lease:
        ...     lease.check()
    """

    def __init__(
        self,
        store: str | Store | Locks | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        owner: str | None = None,
        clock: Clock = system_clock,
    ) -> None:
        plain = store if isinstance(store, Locks) else Locks(store, prefix=prefix, owner=owner, clock=clock)
        self.plain = plain
        self.store = plain.store
        self.prefix = plain.prefix

    @classmethod
    def from_app(cls, app: Any, store: str = DEFAULT_STORE) -> AsyncLocks:
        """Return the locks of a Celery app, in a store of its settings; see `Locks.from_app`.

        Args:
            app: The app.
            store: The name of the store.

        Raises:
            LockConfigError: No store is set, or no store has this name.
        """
        return cls(Locks.from_app(app, store))

    def lock(
        self,
        key: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
        abort: bool = False,
    ) -> AsyncLock:
        """Return the lock of a key; see `Locks.lock`, also for the arguments and errors."""
        return AsyncLock(
            self.plain.lock(
                key, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    def semaphore(
        self,
        key: str,
        limit: int,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
        abort: bool = False,
    ) -> AsyncSemaphore:
        """Return the semaphore of a key; see `Locks.semaphore`, also for the arguments and errors."""
        return AsyncSemaphore(
            self.plain.semaphore(
                key, limit, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    def read_write(
        self,
        key: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
        abort: bool = False,
    ) -> AsyncReadWriteLock:
        """Return the read-write lock of a key; see `Locks.read_write`, also for the arguments and errors."""
        return AsyncReadWriteLock(
            self.plain.read_write(
                key, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    def multi(
        self,
        keys: Iterable[str],
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
        abort: bool = False,
    ) -> AsyncMultiLock:
        """Return a lock of several keys, acquired all or none; see `Locks.multi`, also for the arguments and errors."""
        return AsyncMultiLock(
            self.plain.multi(
                keys, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    def lockable(
        self,
        template: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
        abort: bool = False,
    ) -> AsyncLockable:
        """Declare a kind of thing that is locked; see `Locks.lockable`, also for the arguments and errors."""
        return AsyncLockable(
            self.plain.lockable(
                template, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    async def restore(self, text: str) -> AsyncLease:
        """Return the lease of a text of `AsyncLease.serialize`, after the store has confirmed it; see `Locks.restore`.

        Raises:
            LockNotOwned: The lease is not held any more.
            LockKeyError: The text is not that of a lease.
            StoreUnavailable: The store can't be reached, or could not confirm the lease in time.
        """
        return AsyncLease(await driver_of(self.store).call(self.plain.restore, text))

    async def value(self, key: str) -> Any:
        """Return the value that `AsyncLease.update` keeps with a key, ``None`` for none; see `Locks.value`.

        Raises:
            LockKeyError: The key is empty or not a text.
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.value, key)

    async def delete(self, key: str) -> bool:
        """Delete the leases of a key, and the value kept with it; see `Locks.delete`.

        Returns:
            Whether there was a lease or a value.

        Raises:
            LockKeyError: The key is empty or not a text.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.delete, key)

    async def release_owned_by(self, owner: str) -> tuple[str, ...]:
        """Release by force the leases of an owner, and of all owners within it; see `Locks.release_owned_by`.

        Returns:
            The key of each lease that was released.

        Raises:
            LockConfigError: The owner is empty or not a text, or the store keeps no list.
            StoreUnavailable: The store can't be reached. Some leases may be released already.
        """
        return await driver_of(self.store).call(self.plain.release_owned_by, owner)

    async def list(self, prefix: str = "", after: str | None = None, count: int = 100) -> Page:
        """Return a page of the keys that are held or waited for, in a fixed order; see `Locks.list`.

        Raises:
            LockConfigError: The count is out of bounds, or the store keeps no list.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.list, prefix, after, count)

    async def info(self, key: str, part: str = "") -> LockInfo:
        """Return the holders and the waiters of a key; see `Locks.info`.

        Raises:
            LockKeyError: The key is empty or not a text, or it has no part of this name.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.info, key, part)

    async def stats(self, near: Duration = 10.0) -> Stats:
        """Return figures over all keys; see `Locks.stats`.

        Raises:
            LockConfigError: The store keeps no list, or ``near`` is not a duration.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.stats, near)

    async def close(self) -> None:
        """Close connections and files, and end the threads that serve the store; see `Locks.close`."""
        await driver_of(self.store).call(self.plain.close)
        close_driver(self.store)

    async def __aenter__(self) -> AsyncLocks:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
