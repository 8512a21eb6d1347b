"""Parked tasks while workers and their children are killed at random: none is forgotten, none runs beside itself.

``CHAOS_TASKS`` and ``CHAOS_KILLS`` make it larger: 10000 and 60 take some five minutes.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from celery_locks import Locks
from celery_locks.stores.parking import Parking
from tests.support.celery_worker import Worker
from tests.support.journal import Stretch
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

TASKS = int(os.environ.get("CHAOS_TASKS", "300"))
KILLS = int(os.environ.get("CHAOS_KILLS", "6"))
KEYS = max(10, TASKS // 100)
SEED = 7


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_parked_tasks_survive_any_death(open_shop: Callable[..., Shop]) -> None:
    # Short, so that what a death leaves behind is found soon.
    shop = open_shop(SHOP_VISIBILITY="10", SHOP_CALL_TTL="5")
    workers = [shop.start_worker(concurrency=4) for _ in range(2)]
    results = send_all_parked(shop)
    deaths = kill_at_random(shop, workers, random.Random(SEED))

    eventually(lambda: len(ended(shop)) == TASKS, 600, "some tasks never ran to their end", interval=0.5)
    eventually(lambda: sum(waiting(shop, key) for key in keys()) == 0, 60, "some are left in line")
    assert Counter(ended(shop)) == Counter({task_id: 1 for task_ids in results.values() for task_id in task_ids})
    stretches = shop.journal.stretches()
    for key in keys():
        of_key = [stretch for stretch in stretches if stretch.key == key]
        assert_never_two_at_once(of_key, deaths)
        assert_in_order(shop, of_key, results[key])


def keys() -> list[str]:
    return [f"key-{number}" for number in range(KEYS)]


def waiting(shop: Shop, key: str) -> int:
    locks = Locks.from_app(shop.app)
    assert isinstance(locks.store, Parking)
    return locks.store.waiting(locks._space.name(key))


def send_all_parked(shop: Shop) -> dict[str, list[str]]:
    """Sends all tasks while their keys are held, and lets go when all have parked. Returns each key's line."""
    leases = [shop.lock(key).acquire() for key in keys()]
    task = shop.task(on_contention="park", acks_late=True, reject_on_worker_lost=True, ttl=2)
    for number in range(TASKS):
        task.delay(keys()[number % KEYS], 0.005)
    eventually(lambda: sum(waiting(shop, key) for key in keys()) == TASKS, 300, "they never parked", interval=0.5)
    lines = {key: line(shop, key) for key in keys()}
    for lease in leases:
        assert lease.release()
    return lines


def line(shop: Shop, key: str) -> list[str]:
    """The ids of the tasks in line, in order."""
    import redis

    name = Locks.from_app(shop.app)._space.name(key)
    server = redis.Redis.from_url(shop.variables["SHOP_URL"], decode_responses=True)
    return [server.hget(f"{name}:{ticket}", "task") for ticket in server.zrange(f"{name}:line", 0, -1)]


def kill_at_random(shop: Shop, workers: list[Worker], chance: random.Random) -> dict[int, float]:
    """Kills children, parents, and whole workers, and starts new ones. Returns when which process died."""
    deaths: dict[int, float] = {}
    for _ in range(KILLS):
        before = len(ended(shop))
        eventually(lambda before=before: len(ended(shop)) >= min(before + TASKS // (2 * KILLS), TASKS), 300)
        victim = chance.choice(workers)
        how = chance.choice(["child", "child", "parent", "all"])
        if how == "child":
            dying = [chance.choice(eventually(victim.child_pids, 60))]
            os.kill(dying[0], signal.SIGKILL)
        else:
            dying = kill_worker(victim, os.kill if how == "parent" else os.killpg)
        deaths.update({pid: time.monotonic() for pid in dying})
        if how != "child":
            workers.remove(victim)
            workers.append(shop.start_worker(concurrency=4))
    return deaths


def kill_worker(worker: Worker, kill: Callable[[int, int], None]) -> list[int]:
    """Kills a worker, and returns its children. They die with it in any case: Celery asks the system for that."""
    os.kill(worker.pid, signal.SIGSTOP)  # so that it makes no more of them
    eventually(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, 60)
    children = worker.child_pids()
    kill(worker.pid, signal.SIGKILL)
    return children


def ended(shop: Shop) -> set[str]:
    return {stretch.task_id for stretch in shop.journal.stretches() if stretch.end is not None}


def assert_never_two_at_once(stretches: list[Stretch], deaths: dict[int, float]) -> None:
    busy_until = 0.0
    for stretch in stretches:
        assert stretch.begin >= busy_until, f"{stretch} ran beside another"
        busy_until = stretch.end if stretch.end is not None else deaths[stretch.pid]


def assert_in_order(shop: Shop, stretches: list[Stretch], line: list[str]) -> None:
    """First come, first served, but for those that were delivered more often than parking needs."""
    logs = "".join(worker.logs() for worker in shop.worker_cluster)
    received = Counter(re.findall(r"Task work\(.*\)\[([0-9a-f-]+)\] received", logs))
    usual = [stretch.task_id for stretch in stretches if received[stretch.task_id] == 2]
    first = list(dict.fromkeys(usual))
    assert first == [task_id for task_id in line if task_id in set(first)]
    assert len(first) > len(line) / 2, "nearly all were delivered again: nothing was shown"
