"""Parked tasks that are revoked or expire while they wait."""

from __future__ import annotations

import pytest
from celery.exceptions import TaskRevokedError

from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.test_park import SOON, order, send_parked, waiting


@pytest.fixture
def shop(parking_shop: Shop) -> Shop:
    return parking_shop


def test_promise_16_a_revoked_task_leaves_the_line_immediately(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60):
        first, second, third = send_parked(shop, key, 3)
        second.revoke()
        eventually(lambda: waiting(shop, key) == 2, SOON)
        with pytest.raises(TaskRevokedError):
            second.get(timeout=SOON)
        assert second.state == "REVOKED"
        assert not first.ready()
    assert [result.get(timeout=SOON) for result in (first, third)] == [key] * 2
    assert order(shop, key) == [first.id, third.id]


def test_promise_16_a_task_that_expires_in_line_is_revoked_and_delays_no_other(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60):
        expiring = shop.task(on_contention="park").apply_async((key,), expires=1)
        eventually(lambda: waiting(shop, key) == 1, SOON)
        (after,) = send_parked(shop, key)
        eventually(lambda: expiring.state == "REVOKED", SOON)
    assert after.get(timeout=SOON) == key
    assert order(shop, key) == [after.id]
