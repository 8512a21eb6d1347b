"""``async with``: the blocks under a lease, aborted when it is lost."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from celery_locks.lease import Holding, release_rest_later


class BlockLease(Protocol):
    """The lease of a block."""

    @property
    def plain(self) -> Holding:
        """The same for threads."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


L = TypeVar("L", bound=BlockLease)


class AbortableBlock:
    """A block of a task, which `abort` ends by a cancellation."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._open = True
        self._aborted = False
        #: How many had asked this task to end before; known since Python 3.11.
        self._asked: int = task.cancelling() if hasattr(task, "cancelling") else 0

    def abort(self) -> None:
        """Cancel the task while it is in the block."""
        if self._open and not self._aborted:
            self._aborted = True
            self._task.cancel()

    def close(self, error: BaseException | None) -> bool:
        """End the block: from here on no abort hits what comes after it.

        Returns:
            Whether the error is the cancellation of `abort`, and no one else asked the task to end.
        """
        self._open = False
        if not self._aborted:
            return False
        asked: int = self._task.uncancel() if hasattr(self._task, "uncancel") else 0
        return isinstance(error, asyncio.CancelledError) and asked <= self._asked


class EnteredLeases(Generic[L]):
    """The leases of a lock whose blocks are under way; tasks may share the lock."""

    def __init__(self) -> None:
        self._leases: list[tuple[asyncio.Task[Any] | None, L]] = []

    async def enter(self, lease: L) -> L:
        """Begin a block under a lease."""
        try:
            await lease.__aenter__()
            self._leases.append((asyncio.current_task(), lease))
            return lease
        except BaseException:
            release_rest_later(lease.plain)
            raise

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the newest block of this task."""
        task = asyncio.current_task()
        mine = [entered for entered in self._leases if entered[0] is task]
        # A block may be left by another task than entered it, as some fixtures of tests do.
        entered = mine[-1] if mine else self._leases[0]
        try:
            self._leases.remove(entered)
            await entered[1].__aexit__(kind, error, trace)
        except BaseException:
            release_rest_later(entered[1].plain)
            raise
