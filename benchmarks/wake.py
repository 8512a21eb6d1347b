"""How soon a blocked acquire goes on when the lock is released, from process to process."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from benchmarks.rows import Row
from celery_locks import Locks
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


def rows(server: RedisServer, rounds: int) -> list[Row]:
    """Latencies from the call of release to the return of acquire, in another process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    waiter = context.Process(target=_wait, args=(server.url(), theirs), daemon=True)
    waiter.start()
    locks = Locks(server.url())
    lock, latencies = locks.lock("wake", ttl=60), []
    try:
        for _ in range(rounds):
            lease = lock.acquire()
            mine.send(None)
            eventually(lambda: locks.info("wake").waiting == 1, 30, interval=0.001)
            released = time.monotonic()
            lease.release()
            latencies.append(mine.recv() - released)
    finally:
        waiter.kill()
    latencies = sorted(1000 * latency for latency in latencies[rounds // 10 :])
    p50, p95 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.95)]
    return [
        Row("blocked acquire: release to return, p50", p50, "ms"),
        Row("blocked acquire: release to return, p95", p95, "ms", at_most=10),
    ]


def _wait(url: str, pipe: Any) -> None:
    lock = Locks(url).lock("wake", ttl=60)
    while True:
        pipe.recv()
        lease = lock.acquire(timeout=60)
        at = time.monotonic()
        lease.release()
        pipe.send(at)
