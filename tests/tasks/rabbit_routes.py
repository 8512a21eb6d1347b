"""How the tests of RabbitMQ send tasks, and wait for them to park."""

from __future__ import annotations

from typing import Any

from celery.result import AsyncResult

from celery_locks import Locks
from celery_locks.stores.parking import Parking
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 60


def kind(shop: Shop) -> str:
    return shop.variables["SHOP_QUEUES"]


def routes(shop: Shop) -> dict[str, dict[str, str]]:
    """The ways to a queue: by its name, and by exchanges of the user's own."""
    return {
        "plain": {"queue": f"{kind(shop)}-plain"},
        "topic": {"exchange": f"{kind(shop)}-orders", "routing_key": "orders.new"},
        "direct": {"exchange": f"{kind(shop)}-urgent", "routing_key": "urgent"},
        "no exchange": {"exchange": "", "routing_key": f"{kind(shop)}-plain"},
    }


def waiting(shop: Shop, key: str) -> int:
    locks = Locks.from_app(shop.app)
    assert isinstance(locks.store, Parking)
    return locks.store.waiting(locks._space.name(key))


def send_parked(shop: Shop, task: Any, key: str, way: str = "plain", **options: Any) -> AsyncResult:
    """Sends a task whose key is held, and waits until it stands in line."""
    before = waiting(shop, key)
    result = task.apply_async((key,), **routes(shop)[way], **options)
    eventually(lambda: waiting(shop, key) == before + 1, SOON, "it did not park")
    return result
