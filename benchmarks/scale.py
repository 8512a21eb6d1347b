"""Bytes that a lock takes, and what acquire and a page of the list cost among ten locks and among a million."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from benchmarks.rows import Row
from celery_locks import Locks
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import Command, evalsha_all, lock_command
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import MOST_HOLDERS, Claim
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

#: Acquires in one round trip.
BATCH = 500


def rows(server: RedisServer, many: int) -> list[Row]:
    """Figures for ``many`` held locks."""
    store, client, locks = RedisStore(server.url()), server.client(), Locks(server.url())
    client.flushdb()
    few = Probe(locks, "few")
    hold(store, 0, 10)
    few.times()  # once for nothing: the first ones are slow
    with_few = few.times()
    before = used(client)
    clients = len(client.client_list())
    hold_many(server.url(), 10, many)
    eventually(lambda: len(client.client_list()) <= clients, 30)  # their buffers are gone with them
    held = (used(client) - before) / (many - 10)
    with_many = few.times()
    before, waiters = used(client), 1_000
    for number in range(waiters):
        store.acquire(Claim("bench:{0}", f"waiter {number:024}", "web1", 600), line_up=600)
    waiting = (used(client) - before) / waiters
    client.flushdb()
    found = [
        Row("a held lock in Redis", held, "bytes", at_most=600),
        Row("a waiter in Redis", waiting, "bytes"),
    ]
    for what, at_most in (("acquire and release", 1.1), ("a page of 10 of the list", 1.5)):
        ratio = with_many[what] / with_few[what]
        found.append(Row(f"{what}: among {many:,} locks / among 10", ratio, "x", at_most=at_most))
    return found


class Probe:
    """Times single operations."""

    def __init__(self, locks: Locks, key: str) -> None:
        lock = locks.lock(key, ttl=60)
        self._operations: dict[str, Callable[[], Any]] = {
            "acquire and release": lambda: lock.acquire().release(),
            "a page of 10 of the list": lambda: locks.list(count=10),
        }

    def times(self) -> dict[str, float]:
        """The median of each, in seconds."""
        return {what: median(operation) for what, operation in self._operations.items()}


def median(operation: Callable[[], Any], rounds: int = 300) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        operation()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def hold(store: RedisStore, start: int, end: int) -> None:
    """Locks that stay held, as tasks would hold them; many acquires go in one round trip, to have a million soon."""
    client = store._connections.for_ttl()
    for first in range(start, end, BATCH):
        evalsha_all(client, scripts.ACQUIRE, [acquire(number) for number in range(first, min(first + BATCH, end))])


def hold_many(url: str, start: int, end: int) -> None:
    """The same from two processes: one packs while the server serves the other."""
    middle = (start + end) // 2
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        for done in [processes.submit(_hold, url, start, middle), processes.submit(_hold, url, middle, end)]:
            done.result()


def _hold(url: str, start: int, end: int) -> None:
    hold(RedisStore(url), start, end)


def acquire(number: int) -> Command:
    """The command of `RedisStore.acquire`, for an hour."""
    terms = (3_600_000_000, 1, 1, "shop.resync[0123456789ab] at web1", 0, MOST_HOLDERS)
    return lock_command(scripts.ACQUIRE, f"bench:{{{number}}}", f"{number:032x}", *terms)


def used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])
