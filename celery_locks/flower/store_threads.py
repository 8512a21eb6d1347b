"""Threads that use the lock store for requests, so that a store that hangs blocks nothing else in Flower."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from celery_locks import StoreUnavailable

T = TypeVar("T")

#: How long a request waits for an idle thread.
THREAD_WAIT_SECONDS = 1.0


class StoreBusy(StoreUnavailable):
    """All threads wait for the store. The work was not started."""


class StoreThreads:
    """A few threads without a growing queue: a request that gets no thread in time is refused.

    Its methods are called in Flower's event loop.

    Args:
        count: The number of threads.
        work: The plural noun for their work, for errors.
        answer_seconds: Seconds within which a request is answered.
    """

    def __init__(self, count: int, work: str, answer_seconds: float) -> None:
        self._count, self._work, self._answer_seconds = count, work, answer_seconds
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"celery-locks-flower-{work}")
        #: The running calls, and when each started. A call stays here until its thread ends.
        self._running: dict[asyncio.Future[Any], float] = {}
        self._ended = asyncio.Event()
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, call: Callable[[], T], name: Hashable = None) -> T:
        """Run a call in a thread, and return its result.

        Args:
            call: The call.
            name: Calls of one name may share one result. A call joins another only while that waits for a thread, so
                no result is older than the request.

        Raises:
            StoreBusy: No thread was idle in time. The call was not started.
            StoreUnavailable: The call has not returned in time. It continues.
        """
        name = object() if name is None else name
        if name not in self._waiting:
            self._waiting[name] = asyncio.get_running_loop().create_task(self._run(call, name))
        return await asyncio.shield(self._waiting[name])

    async def _run(self, call: Callable[[], T], name: Hashable) -> T:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            while len(self._running) >= self._count:
                left = started + THREAD_WAIT_SECONDS - loop.time()
                if left <= 0:
                    raise StoreBusy(self._busy(loop.time()))
                self._ended.clear()
                with suppress(asyncio.TimeoutError):  # if this loop is slow, a thread may be idle all the same
                    await asyncio.wait_for(self._ended.wait(), left)
        finally:
            del self._waiting[name]
        future = loop.run_in_executor(self._executor, call)
        self._running[future] = loop.time()
        future.add_done_callback(self._end)
        await asyncio.wait({future}, timeout=started + self._answer_seconds - loop.time())
        if not future.done():
            raise StoreUnavailable(f"the lock store has not answered within {loop.time() - started:.1f} s")
        return future.result()

    def _busy(self, now: float) -> str:
        oldest = now - min(self._running.values(), default=now)
        return f"the lock store is slow: {len(self._running)} {self._work} are running, the oldest for {oldest:.1f} s"

    def _end(self, future: asyncio.Future[Any]) -> None:
        del self._running[future]
        self._ended.set()
        if not future.cancelled():
            future.exception()  # retrieved here, since its request may have ended
