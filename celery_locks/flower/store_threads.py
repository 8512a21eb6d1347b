"""Threads that use the lock store for requests, so that a store that hangs stops nothing else in Flower."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from celery_locks import StoreUnavailable

T = TypeVar("T")

#: Seconds for which a request waits for a free thread.
FREE_WITHIN = 1.0


class StoreBusy(StoreUnavailable):
    """All threads wait for the store: the work was not begun."""


class StoreThreads:
    """A few threads, and no queue that grows: a request that gets no thread in time is refused.

    Its methods are called in Flower's event loop.

    Args:
        count: How many threads.
        work: What they do, as a plural for errors.
        answer_within: Seconds within which a request is answered.
    """

    def __init__(self, count: int, work: str, answer_within: float) -> None:
        self._count, self._work, self._answer_within = count, work, answer_within
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"celery-locks-flower-{work}")
        #: When each of the calls under way began. A call stays here until its thread ends.
        self._under_way: dict[asyncio.Future[Any], float] = {}
        self._freed = asyncio.Event()
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, call: Callable[[], T], same: Hashable = None) -> T:
        """Return what the call returns.

        Args:
            call: What to run in a thread.
            same: Equal for calls that may share one result. A call joins another only while that waits for a thread:
                its result is never older than the request.

        Raises:
            StoreBusy: No thread was free in time. The call was not begun.
            StoreUnavailable: The call has not ended in time. It goes on.
        """
        name = object() if same is None else same
        if name not in self._waiting:
            self._waiting[name] = asyncio.get_running_loop().create_task(self._run(call, name))
        return await asyncio.shield(self._waiting[name])

    async def _run(self, call: Callable[[], T], name: Hashable) -> T:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while len(self._under_way) >= self._count:
                left = began + FREE_WITHIN - loop.time()
                if left <= 0:
                    raise StoreBusy(self._busy(loop.time()))
                self._freed.clear()
                with suppress(asyncio.TimeoutError):  # a thread may be free all the same, if this loop was slow
                    await asyncio.wait_for(self._freed.wait(), left)
        finally:
            del self._waiting[name]
        future = loop.run_in_executor(self._executor, call)
        self._under_way[future] = loop.time()
        future.add_done_callback(self._end)
        await asyncio.wait({future}, timeout=began + self._answer_within - loop.time())
        if not future.done():
            raise StoreUnavailable(f"the lock store has not answered within {loop.time() - began:.1f} s")
        return future.result()

    def _busy(self, now: float) -> str:
        oldest = now - min(self._under_way.values(), default=now)
        return (
            f"the lock store is slow: {len(self._under_way)} {self._work} are under way, the oldest for {oldest:.1f} s"
        )

    def _end(self, future: asyncio.Future[Any]) -> None:
        del self._under_way[future]
        self._freed.set()
        if not future.cancelled():
            future.exception()  # no one may be left who asks for it
