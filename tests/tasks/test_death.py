"""When a process dies that holds a lease, its key is free soon after, and never before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

from celery_locks.stores.parking import tickets_of
from celery_locks.testing.harness import AssertFree, AssertLocked
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.faults import FAULTS, SHUTDOWNS, SOON, Fault, watch

pytestmark = pytest.mark.slow
#: What the machine may take for itself in a test that measures a bound.
SLACK = 2

OpenShop = Callable[..., Shop]


def holder(shop: Shop, key: str) -> int:
    """The process that holds a key, once its body runs."""
    return int(eventually(lambda: shop.journal.stretches(key), SOON)[0].pid)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_promise_01_and_02_a_child_that_died_holds_nothing(prefork_shop: Shop, key: str, fault: Fault) -> None:
    seen = watch(prefork_shop, prefork_shop.worker, fault, key)
    assert seen.free_after < fault.within + SLACK
    assert not seen.body_ended


@pytest.mark.parametrize("fault", SHUTDOWNS[:3], ids=lambda fault: fault.name)
def test_promise_02_a_worker_that_shuts_down_leaves_nothing(open_shop: OpenShop, key: str, fault: Fault) -> None:
    shop = open_shop(**dict(fault.environment))
    worker = shop.start_worker(concurrency=1)
    seen = watch(shop, worker, fault, key)
    assert seen.free_after < fault.within + SLACK
    assert seen.body_ended == (fault is SHUTDOWNS[0])
    worker.container.wait(SOON)
    assert not list(shop.folder.glob("celery-locks-*")), "its records and their folders are gone"


def test_promise_01_another_worker_releases_the_keys_of_a_dead_one(shop: Shop, key: str) -> None:
    fault = SHUTDOWNS[-1]
    worker = shop.start_worker(pool="threads")
    shop.start_worker(pool="solo", queues=["another"])
    seen = watch(shop, worker, fault, key)
    assert seen.free_after < fault.within + SLACK


def test_promise_01_a_restarted_worker_releases_what_it_held_before(
    shop: Shop, key: str, assert_free: AssertFree, assert_locked: AssertLocked
) -> None:
    worker = shop.start_worker(pool="threads", concurrency=1)
    result = shop.task("dies").delay(key, seconds=100)
    assert holder(shop, key) == worker.pid
    assert [(lease["key"], lease["id"]) for lease in inspected(shop)] == [(key, result.id)], "threads are seen too"
    worker.kill()
    assert_locked(key)
    shop.start_worker(pool="solo")
    assert_free(key, within=SOON)


def in_line(shop: Shop, key: str) -> int:
    """How many are parked."""
    lock = shop.lock(key)
    parking = tickets_of(lock._store)
    assert parking is not None
    return parking.waiting(lock._name)


def test_a_parked_task_is_dispatched_when_the_holder_dies(prefork_shop: Shop, key: str) -> None:
    shop = prefork_shop
    shop.task("dies").delay(key, seconds=100)
    pid = holder(shop, key)
    parked = shop.task(on_contention="park").delay(key)
    eventually(lambda: in_line(shop, key), SOON)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    assert parked.get(timeout=SOON) == key
    assert time.monotonic() - killed < 2 + SLACK


def test_promise_05_a_parked_run_that_died_is_no_run_that_ended(prefork_shop: Shop, key: str, tmp_path: Path) -> None:
    shop = prefork_shop
    with shop.lock(key):
        result = shop.task("dies_once", on_contention="park", acks_late=True, reject_on_worker_lost=True).delay(
            key, str(tmp_path / "was here")
        )
        eventually(lambda: in_line(shop, key), SOON)
    # Its message is delivered again and takes over the ticket: as that of a run that ended it would be dropped.
    assert result.get(timeout=SOON) == key
    first, second = shop.journal.stretches(key)
    assert first.pid != second.pid
    assert second.fence > first.fence


def test_a_lease_that_is_to_last_outlives_its_run(prefork_shop: Shop, key: str, assert_locked: AssertLocked) -> None:
    worker = prefork_shop.worker
    task = prefork_shop.task("dies", scope="until_expired")
    stranger = Celery(broker=prefork_shop.app.conf.broker_url, set_as_current=False)
    stranger.send_task(task.name, (key, "SIGKILL"))  # a client without locks: the run acquires the lease
    worker.wait_for_log(f"released {key!r}, held by {task.name}")  # that of its message alone
    assert_locked(key)


def test_a_child_that_was_replaced_in_good_order_leaves_nothing(shop: Shop, key: str, assert_free: AssertFree) -> None:
    shop.start_worker(concurrency=1, arguments=["--max-tasks-per-child", "1"])
    shop.task().delay(key).get(timeout=SOON)
    assert_free(key)
    dead = f"{holder(shop, key)}."
    eventually(lambda: not any(path.name.startswith(dead) for path in shop.folder.rglob("*.*")), SOON)


def test_keys_of_spawned_children_are_released_as_well(open_shop: OpenShop, key: str) -> None:
    shop = open_shop(SHOP_START="spawn")
    shop.start_worker(concurrency=1)
    shop.task("dies").delay(key, seconds=100)
    os.kill(holder(shop, key), signal.SIGKILL)
    eventually(lambda: not shop.lock(key).locked(), SOON)


def test_inspect_locks_lists_holders_and_keys(prefork_shop: Shop, key: str, tmp_path: Path) -> None:
    shop, until = prefork_shop, tmp_path / "go"
    result = shop.task("dies").delay(key, until=str(until))
    pid = holder(shop, key)
    [lease] = [lease for lease in inspected(shop) if lease["key"] == key]
    assert abs(time.time() - lease.pop("since")) < SOON
    assert lease == {"store": "default", "key": key, "task": "dies", "id": result.id, "pid": pid}
    token = shop.lock(key).holders()[0].token
    said = eventually(lambda: inspect_by_hand(shop), SOON)
    assert token not in said
    assert json.loads(said)[shop.worker.hostname()][-1]["key"] == key
    until.touch()
    assert result.get(timeout=SOON) == key
    eventually(lambda: key not in str(inspected(shop)), SOON)


def inspected(shop: Shop) -> list[dict]:
    """What the one worker answers."""
    [answer] = shop.app.control.broadcast("locks", reply=True, timeout=SOON, limit=1)
    return answer[shop.worker.hostname()]


def inspect_by_hand(shop: Shop) -> str:
    command = [sys.executable, "-m", "celery", "-A", "tests.tasks.shop", "inspect", "locks", "--timeout", "3", "--json"]
    env = {**os.environ, **shop.variables, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
