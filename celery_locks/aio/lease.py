"""`AsyncLease` and `AsyncMultiLease`: what a coroutine holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celery_locks._durations import Duration
from celery_locks.aio.driver import Driver, driver_of
from celery_locks.aio.home import LoopHome
from celery_locks.aio.scope import AbortableBlock
from celery_locks.errors import LockLost, LossReason
from celery_locks.lease import Lease, release_rest_later
from celery_locks.multi import MultiLease

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", Lease, MultiLease)


class AsyncHolding(Generic[P]):
    """A lease, or several that are held together; what needs no store is the same as for threads.

    Args:
        plain: The lease for threads.
        abort: Whether a loss cancels the task in an ``async with`` block of this lease.

    Attributes:
        plain: The lease for threads that is behind it, which signals tell of.
    """

    def __init__(self, plain: P, abort: bool = False) -> None:
        self.plain: P = plain
        self._abort = abort
        #: The blocks that are under way, innermost last.
        self._blocks: list[AbortableBlock] = []
        self._home = LoopHome()
        for lease in self._leases:
            lease._home = self._home

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

    async def extend(self, ttl: Duration | None = None) -> None:
        """Prolongs it now, to ``ttl`` seconds from now; see `Lease.extend`.

        Raises:
            LockLost: It was held no more.
            LockConfigError: The ttl is no number, or out of bounds.
            StoreUnavailable: The store can't be reached; it is still held until its deadline.
        """
        await self._driver.call(self.plain.extend, ttl)

    def abandon(self) -> bool:
        """Stop holding it without releasing it; see `Lease.abandon`. Without I/O.

        Returns:
            ``True`` when this call abandoned it, ``False`` when it was no longer held.
        """
        return self.plain.abandon()

    async def release(self) -> bool:
        """Release it; also when the coroutine is cancelled meanwhile.

        Returns:
            ``True`` when this call released it, ``False`` when it was no longer held.

        Raises:
            StoreUnavailable: The store can't be reached. It is no longer renewed nor held; call again to release it
                in the store before its deadline there.
        """
        return await self._driver.call(self.plain.release)

    def _lost_error(self) -> LockLost:
        """The error that says that it is held no more."""
        return self.plain._lost_error()

    async def __aenter__(self) -> Self:
        self.plain.__enter__()
        try:
            block = AbortableBlock()
            self._blocks.append(block)
            if self._abort:
                for lease in self._leases:
                    lease._abort = lambda *_: self._home.call(block.abort)
                if self.lost:
                    self._home.call(block.abort)
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
        except BaseException:  # the loop may end, and the thread that releases with it
            release_rest_later(self.plain)
            raise

    @property
    def _driver(self) -> Driver:
        return driver_of(self._leases[0]._store)

    @property
    def _leases(self) -> tuple[Lease, ...]:
        return self.plain.leases if isinstance(self.plain, MultiLease) else (self.plain,)


class AsyncLease(AsyncHolding[Lease]):
    """A holding of a key, made by `AsyncLock.acquire` and its like; see `Lease`.

    It is renewed and watched by threads of this library, so a coroutine that blocks the loop neither loses it nor can
    keep it when the store has given it to another.

    With ``async with`` it is released at the end of the block, as a `Lease` is; with ``abort`` of its lock the task is
    cancelled as soon as it is lost, and the block ends with `LockLost`.

    Attributes:
        key: What is locked.
        owner: The holder's name, for people to read.
        token: The owner token: random, one for each acquisition. Whoever has it can release the lease.
        fencing_token: Greater than that of every earlier lease of this key.
        ttl: How long the lease lives without renewal, in seconds.
        plain: The lease for threads that is behind it, which signals name.

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
        """Release it, or some of its permits, see `Lease.release`; also when the coroutine is cancelled meanwhile.

        Returns:
            ``True`` when this call released it, ``False`` when it was no longer held.

        Raises:
            LockConfigError: The lease has fewer permits, or it is no whole number of at least 1.
            StoreUnavailable: The store can't be reached. A lease that was to be released as a whole is no longer
                renewed nor held; call again to release it in the store before its deadline there.
        """
        return await self._driver.call(partial(self.plain.release, permits=permits))

    async def value(self) -> Any:
        """The value kept with the key; see `Lease.value`.

        Raises:
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        return await self._driver.call(lambda: self.plain.value)

    def update(self, value: Any, keep: Duration | None = None) -> None:
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


class AsyncMultiLease(AsyncHolding[MultiLease]):
    """The leases of several keys, that are held and lost together; see `MultiLease`.

    With ``async with`` all are released at the end of the block, as an `AsyncLease` is.

    Attributes:
        leases: One for each key, ordered by key.
        plain: The leases for threads that are behind it.
    """

    def __init__(self, plain: MultiLease, abort: bool = False) -> None:
        super().__init__(plain, abort)
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
