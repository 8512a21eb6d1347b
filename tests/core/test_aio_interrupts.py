"""A coroutine that is cancelled at any of its awaits: what it acquired is released, and the cancellation comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from celery_locks import Locks
from celery_locks.aio import AsyncLocks
from celery_locks.renewal import keeper
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Claim
from tests.support.loop import soon

Work = Callable[[AsyncLocks], Awaitable[object]]


async def _block(made: Any) -> None:
    async with made:
        await asyncio.sleep(0)


async def _some_permits(locks: AsyncLocks) -> None:
    async with await locks.semaphore("k", limit=2).acquire(permits=2) as lease:
        await lease.release(permits=1)


async def _acquired(locks: AsyncLocks) -> None:
    lease = await locks.lock("k").acquire(timeout=60)
    try:
        await asyncio.sleep(0)
    finally:
        await lease.release()


async def _tried(locks: AsyncLocks) -> None:
    lease = await locks.lock("k").try_acquire()
    assert lease is not None
    await _block(lease)


async def _waited(locks: AsyncLocks) -> None:
    ticket = await locks.lock("k").enqueue()
    try:
        lease = await ticket.wait()
        await lease.release()
    finally:
        await ticket.cancel()


#: The key is held until the cancellation has been tried, or for a moment.
CONTENDED = "contended: "
WORKS: dict[str, Work] = {
    "acquire and release": _acquired,
    "try_acquire": _tried,
    "async with": lambda locks: _block(locks.lock("k")),
    "async with abort": lambda locks: _block(locks.lock("k", abort=True)),
    "run": lambda locks: locks.lock("k").run(asyncio.sleep, 0),
    "semaphore": lambda locks: _block(locks.semaphore("k", limit=2)),
    "some permits": _some_permits,
    "update": lambda locks: locks.lock("k").update(lambda value: 7),
    "read_write": lambda locks: _block(locks.read_write("k").write),
    "multi": lambda locks: _block(locks.multi(["k", "l"])),
    "enqueue": _waited,
    CONTENDED + "async with": lambda locks: _block(locks.lock("k")),
    CONTENDED + "wait": lambda locks: locks.lock("k").wait(),
    CONTENDED + "multi": lambda locks: _block(locks.multi(["j", "k"])),
    CONTENDED + "enqueue": _waited,
}


class CancelledAt:
    """Runs a coroutine and throws a cancellation into it at one of the moments in which it waits.

    Args:
        work: The coroutine.
        number: At which of them, from 1.
        answered: Whether what it waits for has come by then.
    """

    def __init__(self, work: Coroutine[Any, Any, object], number: int, answered: bool) -> None:
        self._work = work
        self._number = number
        self._answered = answered
        self.struck = False

    def __await__(self) -> Generator[Any, Any, object]:
        waits, send = 0, self._work.send
        argument: Any = None
        while True:
            try:
                waited_for = send(argument)
            except StopIteration as end:
                return end.value
            waits += 1
            strike = waits == self._number
            if not strike or self._answered:
                try:
                    yield waited_for
                except BaseException as error:
                    send, argument = self._work.throw, error
                    continue
            if strike:
                self.struck = True
                send, argument = self._work.throw, asyncio.CancelledError()
            else:
                send, argument = self._work.send, None


async def as_coroutine(work: Awaitable[object]) -> object:
    return await work


@pytest.mark.parametrize("answered", [False, True], ids=["at the await", "after the answer"])
@pytest.mark.parametrize("name", WORKS)
def test_promise_40_a_cancellation_at_any_await_leaves_nothing(name: str, answered: bool) -> None:
    store = MemoryStore()
    locks = AsyncLocks(Locks(store))
    names = [locks.plain._space.name(key) for key in "jkl"]

    def is_used(name: str) -> bool:
        state = store.info(name)
        return bool(state.holders or state.waiting)

    async def work(number: int) -> bool:
        if name.startswith(CONTENDED):
            store.acquire(Claim(names[1], "other", "other", 0.05))
        cancelled = CancelledAt(as_coroutine(WORKS[name](locks)), number, answered)
        ended = False
        try:
            await cancelled
            ended = True
        except asyncio.CancelledError:
            assert cancelled.struck
        # One that comes after the last thing to do may find nothing to cancel.
        await soon(lambda: not keeper().leases() and not any(map(is_used, names)), message=f"await {number}: {ended}")
        lease = await locks.lock("k").try_acquire()
        assert lease is not None
        assert await lease.release()
        return cancelled.struck

    number = 1
    while asyncio.run(asyncio.wait_for(work(number), 60)):
        number += 1
    assert number > 2, "it never waited"
    asyncio.run(locks.close())
