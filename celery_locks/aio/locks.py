"""`AsyncLocks`, the way to leases for coroutines."""

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
from celery_locks.read_write import ReadWriteLock
from celery_locks.stores.base import Store

if TYPE_CHECKING:
    from celery_locks.lock_info import LockInfo, Page, Stats
    from celery_locks.outcomes import OutcomeCallback


class AsyncReadWriteLock:
    """A key that many may read at once, and one alone may write; see `ReadWriteLock`.

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
        template: How keys are written.

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
        """The lock of one thing, by the values that the template names: in its order, or by name.

        Raises:
            LockKeyError: A value has no stable text.
            TypeError: There are too many values, or too few.
        """
        return AsyncLock(self._plain(*args, **kwargs), self._abort)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of one thing; raises as the call does."""
        return self._plain.key(*args, **kwargs)


class AsyncLocks:
    """Locks in a store, for asyncio. May be shared by loops, and made before there is one.

    Args:
        store: A store's URL or a `Store`; without one the variable ``CELERY_LOCKS_URL`` names it. Or a `Locks`, whose
            leases these are then.
        prefix: What all names in the store begin with. Locks of different prefixes never meet.
        owner: The holder's name that others see; host and process id by default.
        clock: What the deadlines of leases are watched by (tests pass one that they can move).

    Attributes:
        plain: The same locks for threads.
        store: The store.
        prefix: What all names in the store begin with.

    Raises:
        LockConfigError: There is no URL, or it names no store.

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
        """Return the locks of a Celery app, in the store that its settings name; see `Locks.from_app`.

        Raises:
            LockConfigError: No store is set, or none has this name.
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
        """The lock of a key. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.
            abort: Whether a lost lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong.
        """
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
        """The semaphore of a key, of which so many permits may be held at once. Nothing is acquired yet.

        Args:
            key: What to share: any text that is not empty.
            limit: How many permits there are.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.
            abort: Whether a lost lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong, or the store has no semaphores.
        """
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
        """The read-write lock of a key: many readers at once, or one writer. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.
            abort: Whether a lost lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong, or the store has no semaphores.
        """
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
        """Several keys, all or none, whatever their order; a key that is named twice counts once.

        Args:
            keys: What to lock: at least one text.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.
            abort: Whether a lost lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

        Raises:
            LockKeyError: A key is empty or no text.
            LockConfigError: Another argument is wrong, or there is no key.
        """
        return AsyncMultiLock(
            self.plain.multi(
                keys, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            self.store,
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
        """Declares a kind of thing that is locked, at one place for all its users.

        Args:
            template: How its keys are written, such as ``"order:<order_id>"``: as ``key=`` of a task.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.
            abort: Whether a lost lease cancels the task in its ``async with`` or `run`, which then raises `LockLost`.

        Raises:
            LockKeyError: The template is malformed.
            LockConfigError: Another argument is wrong.
        """
        return AsyncLockable(
            self.plain.lockable(
                template, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
            abort,
        )

    async def restore(self, text: str) -> AsyncLease:
        """The lease of `AsyncLease.serialize`: confirmed by the store, and watched, but not renewed here.

        Raises:
            LockNotOwned: The lease is held no more.
            LockKeyError: The text is not that of a lease.
        """
        return AsyncLease(await driver_of(self.store).call(self.plain.restore, text))

    async def value(self, key: str) -> Any:
        """The value kept with a key by `AsyncLease.update`, ``None`` for none; whoever holds the key.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.value, key)

    async def delete(self, key: str) -> bool:
        """Delete what the store has of a key: its leases, and the value kept with it; see `Locks.delete`.

        Returns:
            Whether there was a lease or a value.

        Raises:
            LockKeyError: The key is empty or no text.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.delete, key)

    async def release_owned_by(self, owner: str) -> tuple[str, ...]:
        """Release by force all that an owner holds, and those within it; see `Locks.release_owned_by`.

        Returns:
            The keys of the leases that were released, one for each.

        Raises:
            LockConfigError: The owner is empty or no text, or the store keeps no list.
            StoreUnavailable: The store can't be reached; some may be released already.
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
        """Return who holds a key and who waits for it; see `Locks.info`.

        Raises:
            LockKeyError: The key is empty or no text, or there is no such part.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.info, key, part)

    async def stats(self, near: Duration = 10.0) -> Stats:
        """Figures over all keys; see `Locks.stats`.

        Args:
            near: How soon a lease is about to end.

        Raises:
            LockConfigError: The store keeps no list.
            StoreUnavailable: The store can't be reached.
        """
        return await driver_of(self.store).call(self.plain.stats, near)

    async def close(self) -> None:
        """Gives back connections and files."""
        await driver_of(self.store).call(self.plain.close)
        close_driver(self.store)

    async def __aenter__(self) -> AsyncLocks:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
