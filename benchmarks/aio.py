"""Locks for asyncio: what a pair costs beside that of threads and the limit of redis-py's own asyncio client, how soon
a coroutine is woken, and what a thousand that wait cost.

python -m benchmarks.aio
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio

from benchmarks.rows import Row
from celery_locks import Locks
from celery_locks.aio import AsyncLocks
from tests.support.servers import RedisServer

#: So many coroutines at once, each with its own key.
MANY = 50


def rows(server: RedisServer, rounds: int, pairs: int, wakes: int) -> list[Row]:
    """Microseconds of a pair, by turns; milliseconds from release to return; threads for a thousand who wait."""
    return asyncio.run(_rows(server, rounds, pairs, wakes))


async def _rows(server: RedisServer, rounds: int, pairs: int, wakes: int) -> list[Row]:
    locks = AsyncLocks(server.url())
    lowest = redis.asyncio.Redis.from_url(server.url())
    sha = await lowest.script_load("return 1")
    arguments = [str(number) for number in range(12)]

    async def ours(key: str) -> None:
        await (await locks.lock(key).acquire()).release()

    async def limit(key: str) -> None:
        await lowest.evalsha(sha, 5, *[key] * 5, *arguments)
        await lowest.evalsha(sha, 5, *[key] * 5, *arguments)

    sides: dict[str, Callable[[], Awaitable[float]]] = {
        "threads: pair": lambda: _of_threads(locks.plain, pairs),
        "asyncio: pair": lambda: _each(ours, 1, pairs),
        "redis.asyncio: two EVALSHA that do nothing": lambda: _each(limit, 1, pairs),
        f"asyncio: pair, {MANY} coroutines": lambda: _each(ours, MANY, pairs),
        f"redis.asyncio: two EVALSHA that do nothing, {MANY} coroutines": lambda: _each(limit, MANY, pairs),
    }
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            took = await side()
            if number:  # the first round is a warm-up
                figures[name].append(took)
    found = [Row(name, statistics.median(took), "µs") for name, took in figures.items()]
    found += await _wakes(locks, wakes)
    found += await _thousand(locks)
    await lowest.aclose()
    await locks.close()
    return found


async def _of_threads(locks: Locks, pairs: int) -> float:
    lock, start = locks.lock("k"), time.perf_counter()
    for _ in range(pairs):
        lock.acquire().release()
    return (time.perf_counter() - start) / pairs * 1e6


async def _each(side: Callable[[str], Awaitable[Any]], users: int, pairs: int) -> float:
    async def use(number: int) -> None:
        for _ in range(pairs // users):
            await side(f"k{number}")

    start = time.perf_counter()
    await asyncio.gather(*(use(number) for number in range(users)))
    return (time.perf_counter() - start) / (pairs // users * users) * 1e6


async def _wakes(locks: AsyncLocks, rounds: int) -> list[Row]:
    lock, latencies = locks.lock("wake", ttl=60), list[float]()
    for _ in range(rounds):
        lease = await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        while (await locks.info("wake")).waiting != 1:
            await asyncio.sleep(0.001)
        released = time.monotonic()
        await asyncio.gather(lease.release(), waiting)
        latencies.append(1000 * (time.monotonic() - released))
        await waiting.result().release()
    latencies = sorted(latencies[rounds // 10 :])
    return [
        Row("asyncio: release to return of a blocked acquire, p50", latencies[len(latencies) // 2], "ms"),
        Row("asyncio: release to return of a blocked acquire, p95", latencies[int(len(latencies) * 0.95)], "ms"),
    ]


async def _thousand(locks: AsyncLocks) -> list[Row]:
    before, start = threading.active_count(), time.monotonic()
    leases = [await locks.lock(f"held {number}").acquire() for number in range(100)]
    waiting = [asyncio.ensure_future(locks.lock(f"held {number % 100}").acquire()) for number in range(1_000)]
    while (await locks.stats()).waiting < 1_000:
        await asyncio.sleep(0.02)
    lined_up = time.monotonic() - start
    await asyncio.sleep(1)  # groups become one
    found = [
        Row("asyncio: a thousand line up for a hundred keys", lined_up, "s"),
        Row("asyncio: threads then", threading.active_count() - before, ""),
    ]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for lease in leases:
        await lease.release()
    return found


if __name__ == "__main__":
    with RedisServer() as redis_server:
        for row in rows(redis_server, rounds=5, pairs=500, wakes=100):
            print(f"{row.what}: {row.value:.1f} {row.unit}")
