"""The blocks of ``async with``, which are aborted when their lease is lost."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from celery_locks.lease import Holding, release_rest_later


class BlockLease(Protocol):
    """The lease of a block."""

    @property
    def plain(self) -> Holding:
        """The lease for threads."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


L = TypeVar("L", bound=BlockLease)


class AbortableBlock:
    """A block of an asyncio task, which `abort` cancels."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._open = True
        self._aborted = False
        #: How many cancellations of this task were pending before; known since Python 3.11.
        self._cancelling: int = task.cancelling() if hasattr(task, "cancelling") else 0

    def abort(self) -> None:
        """Cancel the task, if it is still in the block."""
        if self._open and not self._aborted:
            self._aborted = True
            self._task.cancel()

    def close(self, error: BaseException | None) -> bool:
        """End the block. From here on, `abort` does nothing.

        Returns:
            Whether the error is the cancellation by `abort`, and the only one.
        """
        self._open = False
        if not self._aborted:
            return False
        left: int = self._task.uncancel() if hasattr(self._task, "uncancel") else 0
        return isinstance(error, asyncio.CancelledError) and left <= self._cancelling


class Enterable(Generic[L]):
    """A lock that ``async with`` acquires. Tasks may share it, and each block has a lease of its own."""

    def __init__(self) -> None:
        #: The leases of the current blocks, with the tasks that entered them.
        self._entered: list[tuple[asyncio.Task[Any] | None, L]] = []

    async def acquire(self) -> L:
        """Acquire a lease."""
        raise NotImplementedError

    async def __aenter__(self) -> L:
        lease = await self.acquire()
        try:
            await lease.__aenter__()
            self._entered.append((asyncio.current_task(), lease))
            return lease
        except BaseException:
            release_rest_later(lease.plain)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        own = [entered for entered in self._entered if entered[0] is task]
        # The block may have been entered by another task, as with some fixtures of tests.
        entered = own[-1] if own else self._entered[0]
        try:
            self._entered.remove(entered)
            await entered[1].__aexit__(kind, error, trace)
        except BaseException:
            release_rest_later(entered[1].plain)
            raise
