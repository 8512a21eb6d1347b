"""Tasks with a limit above one, on real workers: as many at once as there are permits for, and never more."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from celery_locks import Locks
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop, shared_shop

LIMIT, TASKS = 5, 60
#: How many permits a task takes.
WEIGHTS = (1, 2, 3)


def most_permits(shop: Shop, key: str, weights: dict[AsyncResult, int], deaths: dict[int, float] | None = None) -> int:
    """The most permits in use at one moment, by what the bodies wrote; ``weights`` by result."""
    moments, by_id = [], {result.id: weight for result, weight in weights.items()}
    for stretch in shop.journal.stretches(key):
        end = stretch.end if stretch.end is not None else (deaths or {})[stretch.pid]
        weight = by_id[stretch.task_id]
        moments += [(stretch.begin, weight), (end, -weight)]
    most = used = 0
    for _, change in sorted(moments):
        used += change
        most = max(most, used)
    return most


@pytest.fixture(scope="module")
def busy_shop() -> Iterator[Shop]:
    """Two workers, for all tests of this file: each has a key of its own."""
    with shared_shop() as shop:
        for _ in range(2):
            shop.start_worker(concurrency=4)
        yield shop


@pytest.mark.slow
def test_as_many_runs_at_the_same_time_as_the_limit(busy_shop: Shop, key: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    results = [busy_shop.task(limit=5, ttl=1.5).delay(key, until=str(go)) for _ in range(30)]
    eventually(lambda: len(busy_shop.journal.stretches(key)) == LIMIT, 60)
    go.touch()
    for result in results:
        assert result.get(timeout=60) == key
    assert len(busy_shop.journal.stretches(key)) == 30
    assert busy_shop.journal.most_at_once(key) == LIMIT
    fences = [stretch.fence for stretch in busy_shop.journal.stretches(key)]
    assert len(set(fences)) == 30


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["retry", "wait", "park"])
def test_promise_19_weights_never_add_up_to_more_than_the_limit(busy_shop: Shop, key: str, policy: str) -> None:
    weights = {}
    for permits in random.Random(19).choices(WEIGHTS, k=TASKS):
        task = busy_shop.task(limit=LIMIT, permits=permits, on_contention=policy, ttl=1.5)
        weights[task.delay(key, seconds=0.05)] = permits
    for result in weights:
        assert result.get(timeout=60) == key
    assert len(busy_shop.journal.stretches(key)) == TASKS
    assert most_permits(busy_shop, key, weights) == LIMIT
    assert not Locks.from_app(busy_shop.app).semaphore(key, limit=LIMIT).holders()


@pytest.mark.slow
def test_promise_19_children_that_are_killed_break_no_limit(open_shop: Callable[..., Shop], key: str) -> None:
    shop = open_shop()
    worker = shop.start_worker(concurrency=6)
    weights = {}
    for permits in random.Random(7).choices(WEIGHTS, k=TASKS):
        task = shop.task(limit=LIMIT, permits=permits, ttl=1.5)
        weights[task.delay(key, seconds=0.1)] = permits
    deaths: dict[int, float] = {}

    def running() -> int | None:
        pids = worker.child_pids()
        stretches = [s.pid for s in shop.journal.stretches() if s.end is None and s.pid in pids and s.pid not in deaths]
        return stretches[-1] if stretches else None

    for _ in range(5):
        victim = eventually(running, 60)
        os.kill(victim, signal.SIGKILL)
        deaths[victim] = time.monotonic()
    eventually(lambda: all(result.ready() for result in weights), 100)
    assert sum(stretch.end is None for stretch in shop.journal.stretches(key)) >= 1
    assert most_permits(shop, key, weights, deaths) <= LIMIT
    semaphore = Locks.from_app(shop.app).semaphore(key, limit=LIMIT)
    eventually(lambda: semaphore.available() == LIMIT, 5, "the permits of the dead never came back")


def test_tasks_and_a_semaphore_share_the_permits(prefork_shop: Shop, key: str) -> None:
    semaphore = Locks.from_app(prefork_shop.app).semaphore(key, limit=LIMIT)
    lease = semaphore.acquire(permits=3)
    heavy = prefork_shop.task(limit=5, permits=3, ttl=1.5, on_contention="wait").delay(key)
    line = f"celery-locks:{{{key}}}:line"
    eventually(lambda: prefork_shop.journal._redis.zcard(line), 10, "the task is not in line")
    assert semaphore.available() == 2
    assert semaphore.try_acquire() is None, "it overtook the task"
    assert not prefork_shop.journal.stretches(key)
    lease.release()
    assert heavy.get(timeout=30) == key
