"""`AsyncLease` and `AsyncMultiLease`: the leases of coroutines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celery_locks._durations import Duration
from celery_locks.aio.driver import Driver, driver_of
from celery_locks.aio.event_loop import LoopHub
from celery_locks.aio.scope import AbortableBlock
from celery_locks.errors import LockLost, LossReason
from celery_locks.lease import Lease, release_rest_later
from celery_locks.multi import MultiLease

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", Lease, MultiLease)


class AsyncHolding(Generic[P]):
    """A lease, or several that are held together. Methods without I/O are the same as those for threads.

    Args:
        plain: The lease for threads.
        abort: Whether a loss cancels the task in an ``async with`` block of this lease.

    Attributes:
        plain: The lease for threads that it wraps, and that signals report.
    """

    def __init__(self, plain: P, abort: bool = False) -> None:
        self.plain: P = plain
        self._abort = abort
        #: The current blocks, innermost last.
        self._blocks: list[AbortableBlock] = []
        self._hub = LoopHub()
        for lease in self._leases:
            lease._hub = self._hub

    @property
    def held(self) -> bool:
        """Whether it is still held, by the local clock."""
        return self.plain.held

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released, by the local clock."""
        return self.plain.lost

    @property
    def lost_reason(self) -> LossReason | None:
        """Why it was lost; ``None`` if it was not."""
        return self.plain.lost_reason

    def remaining(self) -> float:
        """Return the seconds until the deadline, 0 if it is not held any more."""
        return self.plain.remaining()

    def check(self) -> None:
        """Raise `LockLost` unless it is held. Without I/O, so a loop may call it often.

        Raises:
            LockLost: It is not held any more.
        """
        self.plain.check()

    async def extend(self, ttl: Duration | None = None) -> None:
        """Extend it now; see `Lease.extend`.

        Args:
            ttl: The time from now: seconds, a ``timedelta`` or a text such as ``"5m"``; the lease's own by default.

        Raises:
            LockLost: It is not held any more.
            LockConfigError: The ttl is not a duration, or it is out of bounds.
            StoreUnavailable: The store can't be reached. It is still held until its deadline.
        """
        await self._driver.call(self.plain.extend, ttl)

    def abandon(self) -> bool:
        """Stop holding it without a release; see `Lease.abandon`. Without I/O.

        Returns:
            ``True`` if this call abandoned it, ``False`` if it was not held any more.
        """
        return self.plain.abandon()

    async def release(self) -> bool:
        """Release it, even if the coroutine is cancelled during the call.

        Returns:
            ``True`` if this call released it, ``False`` if it was not held any more.

        Raises:
            StoreUnavailable: The store can't be reached. It is neither held nor renewed any more. Call again to release
                it in the store before its deadline there.
        """
        return await self._driver.call(self.plain.release)

    def _lost_error(self) -> LockLost:
        """Return the error of a lease that is not held any more."""
        return self.plain._lost_error()

    async def __aenter__(self) -> Self:
        self.plain.__enter__()
        try:
            block = AbortableBlock()
            self._blocks.append(block)
            if self._abort:
                for lease in self._leases:
                    lease._abort = lambda *_: self._hub.call(block.abort)
                if self.lost:
                    self._hub.call(block.abort)
            return self
        except BaseException:
            release_rest_later(self.plain)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            aborted = bool(self._blocks) and self._blocks.pop().close(error)
            await self._driver.call(self.plain.__exit__, *(None, None, None) if aborted else (kind, error, trace))
        except BaseException:  # the loop may end before the thread has released it
            release_rest_later(self.plain)
            raise

    @property
    def _driver(self) -> Driver:
        return driver_of(self._leases[0]._store)

    @property
    def _leases(self) -> tuple[Lease, ...]:
        return self.plain.leases if isinstance(self.plain, MultiLease) else (self.plain,)


class AsyncLease(AsyncHolding[Lease]):
    """A holding of a key, returned by `AsyncLock.acquire` and the other ways to acquire; see `Lease`.

    Threads of this library renew and watch it. So a coroutine that blocks the loop does not lose it, and does not take
    it for held after its deadline.

    With ``async with``, it is released at the end of the block, as a `Lease` is. With ``abort=True`` of its lock, the
    task is cancelled as soon as the lease is lost, and the block ends with `LockLost`.

    Attributes:
        key: What is locked.
        owner: The holder's name, for people to read.
        token: The owner token: random, one for each acquisition. Every process that has it can release the lease.
        fencing_token: Greater than that of every earlier lease of this key.
        ttl: How long the lease lives without renewal, in seconds.
        plain: The lease for threads that it wraps, and that signals report.

    Examples:
        >>> async with await lock.acquire(timeout=10) as lease:
        ...     lease.check()
    """

    def __init__(self, plain: Lease, abort: bool = False) -> None:
        super().__init__(plain, abort)
        self.key = plain.key
        self.owner = plain.owner
        self.token = plain.token
        self.fencing_token = plain.fencing_token
        self.ttl = plain.ttl

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    @property
    def permits(self) -> int:
        """How many permits of its key it holds; 1 for a lock."""
        return self.plain.permits

    async def release(self, *, permits: int | None = None) -> bool:
        """Release it, or some of its permits, even if the coroutine is cancelled during the call; see `Lease.release`.

        Args:
            permits: How many permits of a semaphore to release; by default the whole lease.

        Returns:
            ``True`` if this call released it, ``False`` if it was not held any more.

        Raises:
            LockConfigError: The lease has fewer permits, or the number is not a whole number of at least 1.
            StoreUnavailable: The store can't be reached. After the release of a whole lease, it is neither held nor
                renewed any more. Call again to release it in the store before its deadline there.
        """
        return await self._driver.call(partial(self.plain.release, permits=permits))

    async def value(self) -> Any:
        """Return the value kept with the key; see `Lease.value`.

        Raises:
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        return await self._driver.call(lambda: self.plain.value)

    def update(self, value: Any, keep: Duration | None = None) -> None:
        """Set the value kept with the key. It is written when the lease is released; see `Lease.update`.

        Args:
            value: Any JSON value.
            keep: How long to keep the value after the release; 30 days by default.

        Raises:
            LockLost: The lease is not held any more.
            LockConfigError: The value is not JSON, the time is out of bounds, or the store keeps no values.
        """
        self.plain.update(value, keep)

    def on_lost(self, callback: Callable[[AsyncLease, LossReason], object]) -> Callable[[], None]:
        """Call ``callback(lease, reason)`` once, on the loop, when the lease is lost.

        The callback may be a function or a coroutine function.

        Returns:
            A function that disconnects the callback.
        """
        return self.plain.on_lost(lambda _, reason: self._hub.call_back(callback, self, reason))

    def serialize(self) -> str:
        """Return the lease as text, for `AsyncLocks.restore` or `Locks.restore`. It contains the token."""
        return self.plain.serialize()


class AsyncMultiLease(AsyncHolding[MultiLease]):
    """The leases of several keys, held and lost together; see `MultiLease`.

    With ``async with``, all are released at the end of the block, as an `AsyncLease` is.

    Attributes:
        leases: One for each key, ordered by key.
        plain: The leases for threads that it wraps.
    """

    def __init__(self, plain: MultiLease, abort: bool = False) -> None:
        super().__init__(plain, abort)
        self.leases = tuple(AsyncLease(lease) for lease in plain.leases)

    def __repr__(self) -> str:
        return f"<Async{repr(self.plain)[1:]}"

    def on_lost(self, callback: Callable[[AsyncMultiLease, AsyncLease, LossReason], object]) -> Callable[[], None]:
        """Call ``callback(self, lease, reason)`` once, on the loop, with the first lease that is lost.

        Returns:
            A function that disconnects the callback.
        """

        def call_back(_: MultiLease, lost: Lease, reason: LossReason) -> None:
            lease = next(lease for lease in self.leases if lease.plain is lost)
            self._hub.call_back(callback, self, lease, reason)

        return self.plain.on_lost(call_back)
