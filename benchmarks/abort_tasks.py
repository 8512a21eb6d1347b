"""The task that `benchmarks.abort` stops."""

from __future__ import annotations

import random
import time

from benchmarks.app import app
from celery_locks import Lease, LockedTask, current_lease
from celery_locks._runtime import threads
from tests.tasks.bodies import BLOCKS, SHORT


def lose_soon(lease: Lease, noticed: list[float]) -> None:
    """Loses the lease as the watch does: in a thread like it, some milliseconds from now."""

    def lose() -> None:
        never = threads.new_lock()
        never.acquire()
        never.acquire(True, random.uniform(0.005, 0.015))
        noticed.append(time.perf_counter())
        lease._lose("deleted")

    threads.start(lose, "thief")


@app.task(base=LockedTask, lock_key="<number>:<how>", ignore_result=True)
def blocked(number: int, how: str) -> None:
    noticed: list[float] = []
    lease = current_lease()
    assert lease is not None
    try:
        lose_soon(lease, noticed)
        while True:
            BLOCKS[how](SHORT)
    finally:
        app.backend.client.rpush(f"abort:{how}", time.perf_counter() - noticed[0])
