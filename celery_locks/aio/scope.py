"""``async with``: what is held for a block, given back at its end, and the block aborted when it is lost."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Generic, TypeVar

from celery_locks.aio.lease import AsyncLease, AsyncMultiLease

L = TypeVar("L", AsyncLease, AsyncMultiLease)


class Scope(Generic[L]):
    """One block under a lease.

    Args:
        lease: What is held.
        abort: Whether the block's task is cancelled when it is lost.
    """

    def __init__(self, lease: L, abort: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.lease: L = lease
        self.task = task
        self._open = True
        self._aborted = False
        #: How many had asked this task to end before; known since Python 3.11.
        self._asked: int = task.cancelling() if hasattr(task, "cancelling") else 0
        if abort:
            lease.abort_by(self._abort)

    async def leave(self, error: BaseException | None) -> None:
        """Gives it back at the end of the block.

        Raises:
            LockLost: It was lost, and the block ended well or was aborted for that.
        """
        self._open = False  # from here on no abort hits what comes after the block
        aborted = self._was_abort(error)
        held = await self.lease.give_back()
        if not held and self.lease.lost and (error is None or aborted):
            raise self.lease.lost_error() from error

    def _abort(self) -> None:
        if self._open and not self._aborted:
            self._aborted = True
            self.task.cancel()

    def _was_abort(self, error: BaseException | None) -> bool:
        """Whether the error is the cancellation of `_abort`, and nobody else asked the task to end."""
        if not self._aborted:
            return False
        asked: int = self.task.uncancel() if hasattr(self.task, "uncancel") else 0
        return isinstance(error, asyncio.CancelledError) and asked <= self._asked


class Scopes(Generic[L]):
    """The blocks of a lock that are entered; tasks may share the lock."""

    def __init__(self, abort: bool) -> None:
        self._abort = abort
        self._scopes: list[Scope[L]] = []

    def enter(self, lease: L) -> L:
        """Begins a block under a lease."""
        self._scopes.append(Scope(lease, self._abort))
        return lease

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the newest block of this task."""
        task = asyncio.current_task()
        mine = [scope for scope in self._scopes if scope.task is task]
        # A block may be left by another task than entered it, as some fixtures of tests do.
        scope = mine[-1] if mine else self._scopes[0]
        self._scopes.remove(scope)
        await scope.leave(error)
