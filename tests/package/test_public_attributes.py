"""What a user sees on a lock or a lease is documented; all other names begin with an underscore."""

from __future__ import annotations

import asyncio

import pytest

from celery_locks import Locks
from celery_locks.aio import AsyncLocks
from tests.package import api


def for_threads() -> list[object]:
    """Return an object of each kind that users of `Locks` get."""
    locks = Locks("memory://")
    lock, multi = locks.lock("held"), locks.multi(["one", "two"])
    return [
        locks,
        lock,
        lock.acquire(),
        lock.enqueue(),
        locks.semaphore("shared", limit=2),
        locks.read_write("read"),
        locks.lockable("order:<order_id>"),
        multi,
        multi.acquire(),
    ]


async def for_coroutines() -> list[object]:
    """Return an object of each kind that users of `AsyncLocks` get."""
    locks = AsyncLocks("memory://", prefix="coroutines")
    lock, multi = locks.lock("held"), locks.multi(["one", "two"])
    return [
        locks,
        lock,
        await lock.acquire(),
        await lock.enqueue(),
        locks.semaphore("shared", limit=2),
        locks.read_write("read"),
        locks.lockable("order:<order_id>"),
        multi,
        await multi.acquire(),
    ]


def documented(shown: object) -> set[str]:
    """Return the names that the reference shows of an object's class: its members, and the attributes it lists."""
    path = f"{type(shown).__module__}.{type(shown).__qualname__}"
    (entry,) = (entry for entry in api.entries() if api.found(entry.name).path == path)
    return {*api.members(entry), *api.attributes(api.found(entry.name))}


@pytest.mark.parametrize(
    "shown", [*for_threads(), *asyncio.run(for_coroutines())], ids=lambda shown: type(shown).__name__
)
def test_what_a_user_sees_is_documented(shown: object) -> None:
    assert {name for name in dir(shown) if not name.startswith("_")} == documented(shown)
