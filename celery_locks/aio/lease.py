"""`AsyncLease` and `AsyncMultiLease`: what a coroutine holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from celery_locks.aio.driver import Driver, driver_of
from celery_locks.aio.home import LoopHome
from celery_locks.errors import LockLost, LossReason
from celery_locks.lease import Lease
from celery_locks.lock import release_or_later
from celery_locks.multi import MultiLease

P = TypeVar("P", Lease, MultiLease)


class Holding(Generic[P]):
    """A lease, or several that are held together; what needs no store is the same as for threads.

    Attributes:
        plain: The lease for threads that is behind it, which signals tell of.
    """

    def __init__(self, plain: P) -> None:
        self.plain: P = plain
        self._home = LoopHome()
        for lease in self._leases:
            lease.home = self._home

    @property
    def held(self) -> bool:
        """Whether it is still held; asks only the local clock."""
        return self.plain.held

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released; asks only the local clock."""
        return self.plain.lost

    @property
    def lost_reason(self) -> LossReason | None:
        """Why it was lost, or ``None``."""
        return self.plain.lost_reason

    def remaining(self) -> float:
        """Seconds until the deadline; 0 when it is no longer held."""
        return self.plain.remaining()

    def check(self) -> None:
        """Does nothing while it is held; without I/O, so a loop may call it often.

        Raises:
            LockLost: It is held no more.
        """
        self.plain.check()

    async def extend(self, ttl: float | timedelta | None = None) -> None:
        """Prolongs it now, to ``ttl`` seconds from now; see `Lease.extend`.

        Raises:
            LockLost: It was held no more.
            LockConfigError: The ttl is no number, or out of bounds.
            StoreUnavailable: The store can't be reached; it is still held until its deadline.
        """
        await self._driver.call(self.plain.extend, ttl)

    async def release(self) -> bool:
        """Gives it back; also when the coroutine is cancelled meanwhile.

        Returns:
            ``True`` when this call released it, ``False`` when it was no longer held.

        Raises:
            StoreUnavailable: The store can't be reached. It is no longer renewed nor held; call again to release it
                in the store before its deadline there.
        """
        return await self._driver.call(self.plain.release)

    def lost_error(self) -> LockLost:
        """The error that says that it is held no more."""
        return self.plain.lost_error()

    async def give_back(self) -> bool:
        """Releases it, in the background where the store can't be reached now. Returns whether it was held."""
        plain = self.plain
        return await self._driver.call(
            plain.give_back if isinstance(plain, MultiLease) else partial(release_or_later, plain)
        )

    def abort_by(self, abort: Callable[[], object]) -> None:
        """Calls a function on the loop as soon as it is lost, before all others are told."""
        for lease in self._leases:
            lease.abort = lambda *_: self._home.call(abort)
        if self.lost:
            self._home.call(abort)

    @property
    def _driver(self) -> Driver:
        return driver_of(self._leases[0].store)

    @property
    def _leases(self) -> tuple[Lease, ...]:
        return self.plain.leases if isinstance(self.plain, MultiLease) else (self.plain,)


class AsyncLease(Holding[Lease]):
    """A holding of a key, made by `AsyncLock.acquire` and its like; see `Lease`.

    It is renewed and watched by threads of this library, so a coroutine that blocks the loop neither loses it nor can
    keep it when the store has given it to another.

    Attributes:
        key: What is locked.
        owner: The holder's name, for people to read.
        token: The owner token: random, one for each acquisition. Whoever has it can release the lease.
        fencing_token: Greater than that of every earlier lease of this key.
        ttl: How long the lease lives without renewal, in seconds.

    Examples:
        >>> lease = await lock.acquire(timeout=10)
        >>> lease.check()
        >>> await lease.release()
        True
    """

    def __init__(self, plain: Lease) -> None:
        super().__init__(plain)
        self.key = plain.key
        self.owner = plain.owner
        self.token = plain.token
        self.fencing_token = plain.fencing_token
        self.ttl = plain.ttl

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    async def value(self) -> Any:
        """The value kept with the key; see `Lease.value`.

        Raises:
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        return await self._driver.call(lambda: self.plain.value)

    def update(self, value: Any, keep: float | None = None) -> None:
        """Sets the value to be kept with the key: written when the lease is released; see `Lease.update`.

        Raises:
            LockLost: The lease is held no more.
            LockConfigError: The value is no JSON, the time is out of bounds, or the store keeps no values.
        """
        self.plain.update(value, keep)

    def on_lost(self, callback: Callable[[AsyncLease, LossReason], object]) -> Callable[[], None]:
        """Calls ``callback(lease, reason)`` once, on the loop, when the lease is lost: a function or a coroutine
        function.

        Returns:
            A function that disconnects the callback.
        """
        return self.plain.on_lost(lambda _, reason: self._home.call_back(callback, self, reason))

    def serialize(self) -> str:
        """The lease as text, for `AsyncLocks.restore` or `Locks.restore`. Whoever has it can release the lease."""
        return self.plain.serialize()


class AsyncMultiLease(Holding[MultiLease]):
    """The leases of several keys, that are held and lost together; see `MultiLease`.

    Attributes:
        leases: One for each key, ordered by key.
    """

    def __init__(self, plain: MultiLease) -> None:
        super().__init__(plain)
        self.leases = tuple(AsyncLease(lease) for lease in plain.leases)

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    def on_lost(self, callback: Callable[[AsyncMultiLease, AsyncLease, LossReason], object]) -> Callable[[], None]:
        """Calls ``callback(self, lease, reason)`` once, on the loop, with the first lease that is lost.

        Returns:
            A function that disconnects the callback.
        """

        def told(_: MultiLease, lost: Lease, reason: LossReason) -> None:
            lease = next(lease for lease in self.leases if lease.plain is lost)
            self._home.call_back(callback, self, lease, reason)

        return self.plain.on_lost(told)

    async def __aenter__(self) -> AsyncMultiLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not await self.give_back() and self.lost and error is None:
            raise self.lost_error()
