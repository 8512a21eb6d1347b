"""What is keyword-only: a number alone does not state whether it is a timeout, a number of permits or an interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_locks import Locks
from celery_locks.aio import AsyncLocks

CALLS: dict[str, Callable[[Any], Any]] = {
    "lock.acquire": lambda locks: locks.lock("k").acquire(1),
    "lock.try_acquire": lambda locks: locks.lock("k").try_acquire(1),
    "lock.enqueue": lambda locks: locks.lock("k").enqueue(1),
    "lock.wait": lambda locks: locks.lock("k").wait(1),
    "semaphore.acquire": lambda locks: locks.semaphore("k", 3).acquire(1),
    "semaphore.try_acquire": lambda locks: locks.semaphore("k", 3).try_acquire(1),
    "semaphore.enqueue": lambda locks: locks.semaphore("k", 3).enqueue(1),
    "semaphore.wait": lambda locks: locks.semaphore("k", 3).wait(1),
    "multi.acquire": lambda locks: locks.multi(["k"]).acquire(1),
    "multi.try_acquire": lambda locks: locks.multi(["k"]).try_acquire(1),
    "locks.lock": lambda locks: locks.lock("k", 30, False),
    "locks.semaphore": lambda locks: locks.semaphore("k", 3, 30, False),
    "locks.read_write": lambda locks: locks.read_write("k", 30, False),
    "locks.multi": lambda locks: locks.multi(["k"], 30, False),
    "locks.lockable": lambda locks: locks.lockable("<id>", 30, False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", [Locks, AsyncLocks])
def test_a_positional_timeout_or_interval_is_pythons_own_error(kind: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"takes .*positional argument"):
        call(kind("memory://keywords"))


def test_a_tickets_timeout_is_a_keyword() -> None:
    locks = Locks("memory://keywords")
    ticket: Any = locks.lock("ticket").enqueue()
    with pytest.raises(TypeError, match="positional argument"):
        ticket.wait(1)
    ticket.cancel()

    async def main() -> None:
        ticket: Any = await AsyncLocks(locks).lock("ticket").enqueue()
        with pytest.raises(TypeError, match="positional argument"):
            ticket.wait(1)
        await ticket.cancel()

    asyncio.run(main())
