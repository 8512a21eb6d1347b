"""Many tasks over few keys on several workers: one at a time for a key, each done once, none lost.

``EXCLUSION_TASKS=2000`` sends that many, in place of 1,000.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from celery import group

from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

KEYS = 50
TASKS = int(os.environ.get("EXCLUSION_TASKS", "1000"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("policy", "tasks"), [("retry", TASKS), ("wait", TASKS * 3 // 10)], ids=["retry", "wait"])
def test_many_tasks_over_fifty_keys(shop: Shop, policy: str, tasks: int) -> None:
    for _ in range(2):
        shop.start_worker(concurrency=4)
    keys = [f"key-{number % KEYS}" for number in range(tasks)]
    random.Random(7).shuffle(keys)
    results = group(shop.task(on_contention=policy).si(key) for key in keys).apply_async()
    assert Counter(results.get(timeout=500)) == Counter(keys)
    stretches = shop.journal.stretches()
    assert Counter(stretch.task_id for stretch in stretches) == Counter({result.id: 1 for result in results})
    assert shop.journal.most_at_once() == 1
    # On a busy machine, a process may find all tasks taken before it gets its first.
    assert len({stretch.pid for stretch in stretches}) > 1, "one process ran all tasks: nothing was shown"
    for key in set(keys):
        fences = [stretch.fence for stretch in stretches if stretch.key == key]
        assert fences == sorted(set(fences))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_children_that_are_killed_break_no_exclusion(open_shop: Callable[..., Shop]) -> None:
    """A killed child's run ends at its death; what it held is taken over only after its lease is over."""
    shop = open_shop()
    worker = shop.start_worker(concurrency=4)
    results = [shop.task("swallows_errors").delay(f"key-{number % 5}", 0.15) for number in range(100)]
    deaths: dict[int, float] = {}
    for _ in range(5):
        victim = eventually(lambda: _running_child(shop, worker.child_pids(), deaths), 60)
        os.kill(victim, signal.SIGKILL)
        deaths[victim] = time.monotonic()
    eventually(lambda: all(result.ready() for result in results), 300)
    stretches = shop.journal.stretches()
    for key in {stretch.key for stretch in stretches}:
        busy_until = 0.0
        for stretch in (stretch for stretch in stretches if stretch.key == key):
            assert stretch.begin >= busy_until, f"{key} ran beside itself"
            busy_until = stretch.end if stretch.end is not None else deaths[stretch.pid]


def _running_child(shop: Shop, pids: list[int], dead: dict[int, float]) -> int | None:
    running = [s.pid for s in shop.journal.stretches() if s.end is None and s.pid in pids and s.pid not in dead]
    return running[-1] if running else None
