"""Locked tasks with a database server as the store, and Valkey or Redis as the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_locks import Locks
from celery_locks.stores.parking import Parking
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

SOON = 60


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_tasks_run_one_at_a_time_and_parked_ones_in_their_order(
    open_shop: Callable[..., Shop], request: pytest.FixtureRequest, database: str, key: str
) -> None:
    shop = open_shop(SHOP_STORE=request.getfixturevalue(f"{database}_url"))
    shop.start_worker(concurrency=4)
    locks = Locks.from_app(shop.app)
    parking = locks.store
    assert isinstance(parking, Parking)
    with shop.lock(key):
        results = []
        for number in range(6):
            results.append(shop.task(on_contention="park").delay(key))
            eventually(lambda number=number: parking.waiting(locks._space.name(key)) == number + 1, SOON)
    assert [result.get(timeout=SOON) for result in results] == [key] * 6
    assert [stretch.task_id for stretch in shop.journal.stretches(key)] == [result.id for result in results]
    others = [shop.task().delay(f"{key}-{number % 3}") for number in range(30)]
    for result in others:
        result.get(timeout=SOON)
    assert shop.journal.most_at_once() == 1
    fences = [stretch.fence for stretch in shop.journal.stretches(f"{key}-0")]
    assert len(fences) == 10
    assert fences == sorted(set(fences))
    assert parking.waiting(locks._space.name(key)) == 0
    assert not parking.sweep(locks.prefix, "")
    locks.store.close()
