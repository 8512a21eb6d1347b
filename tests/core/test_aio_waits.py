"""More coroutines in line than threads that wait for them, in stores that can't wait for all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import pytest

from celery_locks import _sansio
from celery_locks.aio import AsyncLocks
from celery_locks.aio.waits import MOST_THREADS
from celery_locks.stores.memory import MemoryStore
from tests.support.loop import on_a_loop, soon

#: Seconds after which somebody would look without having been woken.
LONG = 300.0


class OneByOne(MemoryStore):
    waits_for = 1


class InKinds(MemoryStore):
    """Waits at once for keys that end with the same digit."""

    def waits_with(self, name: str) -> str:
        return name[-2]

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        assert len({self.waits_with(name) for name, _ in places}) == 1
        return super().wait_any(places, timeout)


@pytest.mark.parametrize("store", [OneByOne, InKinds, MemoryStore])
def test_each_is_woken_however_many_wait(store: type[MemoryStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sansio, "PLACE_KEPT_SECONDS", LONG)
    each_is_woken(AsyncLocks(store()), [str(number) for number in range(MOST_THREADS + 8)])


@on_a_loop
async def each_is_woken(locks: AsyncLocks, keys: list[str]) -> None:
    leases = [await locks.lock(key, ttl=LONG).acquire() for key in keys]
    waiters = [asyncio.ensure_future(locks.lock(key, ttl=LONG).acquire()) for key in keys]

    async def all_in_line() -> bool:
        return (await locks.stats()).waiting == len(keys)

    await soon(all_in_line)
    for lease, waiter in reversed(list(zip(leases, waiters, strict=True))):
        await lease.release()
        await (await asyncio.wait_for(waiter, 60)).release()
