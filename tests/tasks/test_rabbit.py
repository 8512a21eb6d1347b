"""RabbitMQ as the broker, with classic and quorum queues: where messages go, when they come, and what they are like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from kombu import Queue

from celery_locks import Backoff
from celery_locks.tasks.messages.pack import pack_message, publish
from celery_locks.tasks.policies.deferral import longest_pause
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.rabbit_queues import orders
from tests.tasks.rabbit_routes import SOON, kind, routes, send_parked, waiting

#: Seconds between a task's tries. The longer pause takes two rungs of Celery's ladder of delays.
PAUSES = (0.4, 2.2)
#: Starting the server and a worker counts as part of the first test.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shop(rabbit_shop: Shop) -> Shop:
    return rabbit_shop


@pytest.mark.slow
def test_a_retry_comes_back_to_where_it_came_from_and_not_before_its_time(shop: Shop, key: str) -> None:
    """All pauses on all routes at once. Quorum queues keep whole seconds only, and Celery forgets the route."""
    tasks = {pause: shop.task("shows_route", backoff=Backoff(base=pause, cap=pause, jitter="none")) for pause in PAUSES}
    cases = [(pause, way, f"{key}-{pause}-{way}".replace(" ", "-")) for pause in PAUSES for way in routes(shop)]
    leases = [shop.lock(own, ttl=120).acquire() for _, _, own in cases]
    sent = [tasks[pause].apply_async((own,), priority=3, **routes(shop)[way]) for pause, way, own in cases]
    for pause, _, own in cases:
        tries = eventually(lambda own=own: shop.journal.entries("contended", key=own)[:3][2:] and own, SOON)
        times = [entry["time"] for entry in shop.journal.entries("contended", key=tries)]
        assert min(after - before for before, after in pairwise(times)) >= pause, own
    for lease in leases:
        lease.release()
    for (_, way, own), result in zip(cases, sent, strict=True):
        shown = result.get(timeout=SOON)
        assert shown["priority"] == 3
        # The ladder of delays puts the seconds before it.
        assert shown["routing_key"].endswith({"topic": "orders.new", "direct": "urgent"}.get(way, "plain"))
        assert [entry["retries"] for entry in shop.journal.entries("begin", key=own)] == [0]


def test_parked_tasks_are_dispatched_once_in_order_and_to_where_they_came_from(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60):
        results = {
            way: send_parked(shop, shop.task("shows_route", on_contention="park"), key, way) for way in routes(shop)
        }
    shown = {way: result.get(timeout=SOON) for way, result in results.items()}
    assert shown == {
        "plain": {"exchange": f"{kind(shop)}-plain", "routing_key": "plain", "priority": 0},
        "topic": {"exchange": f"{kind(shop)}-orders", "routing_key": "orders.new", "priority": 0},
        "direct": {"exchange": f"{kind(shop)}-urgent", "routing_key": "urgent", "priority": 0},
        "no exchange": {"exchange": "", "routing_key": f"{kind(shop)}-plain", "priority": 0},
    }
    assert [run.task_id for run in shop.journal.stretches(key)] == [result.id for result in results.values()]
    assert shop.journal.most_at_once(key) == 1
    log = shop.worker.logs()
    assert [log.count(f"[{result.id}] received") for result in results.values()] == [2] * 4


def test_a_task_that_was_called_with_a_countdown_parks_and_comes_back(shop: Shop, key: str) -> None:
    """With quorum queues its message came by Celery's ladder of delays, whose name it bears."""
    with shop.lock(key, ttl=60):
        result = send_parked(shop, shop.task("shows_route", on_contention="park"), key, countdown=2)
    assert result.get(timeout=SOON)["routing_key"] == "plain"


@contextmanager
def tapped(shop: Shop, routing_key: str) -> Iterator[Any]:
    """Gets a copy of each message that comes to the shop's topic exchange by this routing key."""
    with shop.app.connection_for_read() as connection:
        exchange = orders(kind(shop))
        tap = Queue(f"tap-{routing_key}", exchange, routing_key=routing_key, auto_delete=True)
        tap = tap.bind(connection.default_channel)
        tap.declare()
        yield lambda: tap.get(no_ack=True)
        tap.delete()


def send_with_all(shop: Shop, key: str, routing_key: str) -> AsyncResult:
    """Sends a task to the topic exchange, with all that a message may have."""
    signature = shop.task("shows_route", on_contention="park").s(key)
    signature.stamp(tenant="acme")
    signature.link(shop.task("then").s())
    return signature.apply_async(
        exchange=f"{kind(shop)}-orders",
        routing_key=routing_key,
        priority=5,
        delivery_mode=1,
        message_id="m-1",
        app_id="shop",
        type="order",
        timestamp=1_767_225_600,
        compression="zlib",
        headers={"mine": {"a": 1}},
        expires=datetime.now(timezone.utc) + timedelta(hours=1),
        soft_time_limit=50,
        time_limit=60,
        shadow="other name",
    )


def assert_same(sent_on: Any, came: Any) -> None:
    ours, again = came.headers.pop("celery_locks"), sent_on.headers.pop("celery_locks")
    assert again["ticket"]
    assert again.items() >= ours.items()
    assert came.headers["compression"], "it was not compressed: nothing is shown by this"
    assert sent_on.headers == came.headers
    for message in (sent_on, came):
        message.properties.pop("application_headers")
    left, most = (int(message.properties.pop("expiration")) for message in (sent_on, came))
    assert -10 <= most - left < 1000 * SOON * 3  # our wall clock goes by steps of some milliseconds
    assert came.properties.items() >= {"delivery_mode": 1, "app_id": "shop", "type": "order"}.items()
    assert sent_on.properties == came.properties
    assert sent_on.decode() == came.decode()
    for name in ("exchange", "routing_key"):
        assert sent_on.delivery_info[name] == came.delivery_info[name]


def test_the_dispatched_message_is_the_one_that_came(shop: Shop, key: str) -> None:
    with tapped(shop, f"orders.{key}") as tap:
        lease = shop.lock(key, ttl=60).acquire()
        result = send_with_all(shop, key, f"orders.{key}")
        came = eventually(tap, SOON)
        eventually(lambda: waiting(shop, key) == 1, SOON)
        lease.release()
        sent_on = eventually(tap, SOON)
        assert result.get(timeout=SOON)["priority"] == 5
        assert tap() is None, "it was sent on twice"
    assert_same(sent_on, came)


def test_so_it_is_when_the_workers_parent_parks_it(shop: Shop, key: str) -> None:
    """As it does with ``locks_park_before_pool``: here it is the test that gets the message."""
    with tapped(shop, f"nobody-else.{key}") as tap:
        send_with_all(shop, key, f"nobody-else.{key}")
        came = eventually(tap, SOON)
        with shop.app.producer_or_acquire() as producer:
            publish(producer, pack_message(shop.app, came, {"ticket": "1"}))
        assert_same(eventually(tap, SOON), came)


@pytest.mark.slow
def test_a_safety_copy_comes_and_is_dropped(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60):
        result = send_parked(shop, shop.task(on_contention="park", park_safety_copy=2), key, "topic")
    assert result.get(timeout=SOON) == key
    shop.worker.wait_for_log(f"[{result.id}]: it is done")
    assert len(shop.journal.stretches(key)) == 1


def test_a_pause_stays_below_the_consumer_timeout() -> None:
    """A message that a worker keeps back is one that it has not acknowledged."""

    def longest(url: str, **options: float) -> float | None:
        return longest_pause(Celery(broker=url, set_as_current=False, broker_transport_options=options).conf)

    assert [longest(f"{scheme}://") for scheme in ("amqp", "amqps", "pyamqp")] == [900] * 3
    assert longest("amqp://", consumer_timeout=50) == 25
    assert longest("redis://") == 1800
    assert longest("memory://") is None
