"""Parking before the pool: what the worker's parent does with the messages of a held key.

That parked tasks fare the same as those that the pool parks is in ``test_park.py``, which runs over both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery, chord
from celery.result import AsyncResult
from kombu import Connection

from celery_locks import LockConfigError
from celery_locks.tasks.messages.header import HEADER
from celery_locks.tasks.messages.pack import pack_message, publish
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.worker.early_parking import PATIENCE_SECONDS, PAUSE_SECONDS, Pace
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.test_park import SOON, order, send_parked, waiting


def test_it_parks_while_every_slot_is_taken(open_shop: Callable[..., Shop], key: str, tmp_path: Path) -> None:
    shop = open_shop(SHOP_EARLY="1")
    shop.start_worker(concurrency=1)
    go = tmp_path / "go"
    holder = shop.task(on_contention="park").delay(key, until=str(go))
    eventually(lambda: shop.journal.stretches(key), SOON)
    results = send_parked(shop, key, 5)  # no slot is free to park them
    assert [result.state for result in results] == ["WAITING"] * 5
    go.touch()
    assert [result.get(timeout=SOON) for result in (holder, *results)] == [key] * 6
    assert order(shop, key) == [holder.id, *(result.id for result in results)]
    assert shop.journal.most_at_once(key) == 1


def test_an_error_in_the_parent_leaves_the_message_to_the_pool(early_shop: Shop, key: str) -> None:
    shop = early_shop
    result = shop.app.send_task("work(on_contention='park')", (), {"unknown": key})
    shop.worker.wait_for_log("a message of work(on_contention='park') could not be parked before the pool")
    with pytest.raises(TypeError):
        result.get(timeout=SOON)
    assert shop.task().delay(f"{key}-other").get(timeout=SOON), "the worker came to harm"


def test_a_key_made_by_a_function_is_left_to_the_run(early_shop: Shop, key: str) -> None:
    """The parent has not what the function may read, such as the tenant of the run; this one raises an error there."""
    with early_shop.lock(key):
        (result,) = send_parked(early_shop, key, body="has_key_in_children")
        assert result.state == "WAITING"
    assert result.get(timeout=SOON) == key
    assert "a message of has_key_in_children" not in early_shop.worker.logs()


def test_a_free_key_is_left_to_the_run(early_shop: Shop, key: str) -> None:
    """The parent takes no lease, so that none is left when the child never starts."""
    result = early_shop.task(on_contention="park").delay(key)
    assert result.get(timeout=SOON) == key
    assert f"[{result.id}] parked" not in early_shop.worker.logs()


def deliver(shop: Shop, key: str) -> AsyncResult:
    """Put a message into the queue, which is the same one each time."""
    id, app = f"twice-{key}", shop.app
    message = app.amqp.as_task_v2(id, shop.task(on_contention="park").name, (key,), {})
    headers = {**message.headers, HEADER: {"id": id, "publication": "1"}}
    with app.producer_or_acquire() as producer:
        producer.publish(message.body, headers=headers, routing_key="celery", serializer="json", **message.properties)
    return AsyncResult(id, app=app)


def test_a_copy_of_a_parked_message_is_the_same_waiter(early_shop: Shop, key: str) -> None:
    with early_shop.lock(key):
        first = deliver(early_shop, key)
        eventually(lambda: waiting(early_shop, key) == 1, SOON)
        deliver(early_shop, key)
        (last,) = send_parked(early_shop, key)
    assert first.get(timeout=SOON) == key
    assert last.get(timeout=SOON) == key
    assert order(early_shop, key) == [first.id, last.id]


def test_a_compressed_message_comes_back(parking_shop: Shop, key: str) -> None:
    task = parking_shop.task(on_contention="park")
    with parking_shop.lock(key):
        squeezed = task.apply_async((key,), compression="zlib")
        eventually(lambda: waiting(parking_shop, key) == 1, SOON)
        in_chord = chord([task.si(key)], parking_shop.task("add_up").s()).apply_async(compression="zlib")
        eventually(lambda: waiting(parking_shop, key) == 2, SOON)
    assert squeezed.get(timeout=SOON) == key
    assert in_chord.get(timeout=SOON) == [key]


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_message_is_published_again_as_it_came(serializer: str) -> None:
    """Its body too when that is no text, and all of its headers; a broker in memory shows both messages."""
    headers = {"id": "1", "task": "any", "retries": 2, "mine": {"a": [1]}}
    sent = {"headers": headers, "serializer": serializer, "priority": 4, "correlation_id": "1", "reply_to": "me"}
    with (
        Connection("memory://") as connection,
        connection.SimpleQueue(f"early-{serializer}", accept=["json", "pickle"]) as queue,
    ):
        queue.put([["é"], {}, {}], **sent)
        came = queue.get(timeout=SOON)
        came.ack()
        publish(queue.producer, pack_message(Celery(set_as_current=False), came, {"ticket": "1:2"}))
        again = queue.get(timeout=SOON)
    assert again.payload == came.payload == [["é"], {}, {}]
    assert again.headers == {**headers, "celery_locks": {"id": "1", "ticket": "1:2"}}
    for name in ("content_type", "content_encoding"):
        assert getattr(again, name) == getattr(came, name)
    for name in ("priority", "correlation_id", "reply_to", "delivery_info"):
        assert again.properties[name] == came.properties[name], name


@pytest.mark.slow
def test_a_store_that_is_away_costs_the_parent_little(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str
) -> None:
    shop = open_shop(SHOP_EARLY="1", SHOP_STORE=redis_url.replace(str(redis_server.port), str(proxy.port)))
    worker = shop.start_worker(concurrency=2)
    assert shop.task(on_contention="park").delay(key).get(timeout=SOON) == key
    proxy.refuse()
    results = [shop.task(on_contention="park").delay(key) for _ in range(3)]
    worker.wait_for_log("messages are parked by the pool for 5 s")
    assert shop.task("then").delay("unlocked", "x").get(timeout=SOON), "the worker came to harm"
    proxy.heal()
    assert [result.get(timeout=SOON) for result in results] == [key] * 3


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["hang", "slow"])
def test_a_store_that_hangs_does_not_hold_up_the_event_loop(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str, trouble: str
) -> None:
    """Forty messages of two tasks come while each request takes long: the worker handles others meanwhile."""
    shop = open_shop(SHOP_EARLY="1", SHOP_STORE=redis_url.replace(str(redis_server.port), str(proxy.port)))
    worker = shop.start_worker(pool="threads", concurrency=60)
    tasks = [shop.task(on_contention="park"), shop.task(on_contention="park", ttl=20)]
    assert [task.delay(key).get(timeout=SOON) for task in tasks] == [key] * 2
    assert shop.task("then").delay("warm", "up").get(timeout=SOON)
    if trouble == "hang":
        proxy.hang()
    else:
        proxy.delay(0.4)
    results = [task.delay(key) for task in tasks for _ in range(20)]
    began = time.monotonic()
    assert shop.task("then").delay("unlocked", "x").get(timeout=SOON)
    took = time.monotonic() - began
    worker.wait_for_log("messages are parked by the pool for 5 s")
    proxy.heal()
    assert [result.get(timeout=SOON) for result in results] == [key] * 40
    assert took < 40 * 0.25, "each message held up the event loop"


def test_only_a_second_slow_answer_in_a_row_counts(caplog: pytest.LogCaptureFixture) -> None:
    pace, slow = Pace(), 2 * PATIENCE_SECONDS
    for seconds in (slow, 0.0, slow, 0.0):
        pace.note(seconds)
    assert not pace.is_paused(time.monotonic())
    assert not caplog.records
    for seconds in (slow, slow):
        pace.note(seconds)
    assert pace.is_paused(time.monotonic())
    assert not pace.is_paused(time.monotonic() + PAUSE_SECONDS)


def test_a_message_with_its_id_in_the_body_goes_to_the_pool(early_shop: Shop, key: str) -> None:
    """Celery reads messages whose headers name the task alone, and whose arguments are those of protocol 1."""
    id, task = f"hybrid-{key}", early_shop.task(on_contention="park")
    with early_shop.app.producer_or_acquire() as producer:
        body = {"id": id, "task": task.name, "args": [key], "kwargs": {}}
        producer.publish(body, headers={"task": task.name}, routing_key="celery", serializer="json")
    assert AsyncResult(id, app=early_shop.app).get(timeout=SOON) == key
    assert task.delay(f"{key}-other").get(timeout=SOON), "the worker came to harm"


def test_a_result_backend_that_hangs_does_not_hold_up_the_event_loop(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str
) -> None:
    shop = open_shop(SHOP_URL=redis_url, SHOP_EARLY="1")
    shop.start_worker(concurrency=2, env={"SHOP_RESULTS": redis_url.replace(str(redis_server.port), str(proxy.port))})
    with shop.lock(key, ttl=60):
        proxy.hang()
        result = shop.task(on_contention="park").delay(key)
        eventually(lambda: shop.app.control.ping(timeout=1, limit=1), SOON, "the event loop was held up")
        assert waiting(shop, key) == 0, "the result backend did not hang"
        proxy.heal()
        eventually(lambda: waiting(shop, key) == 1, SOON)
    assert result.get(timeout=SOON) == key


def test_the_setting_is_a_switch() -> None:
    with pytest.raises(LockConfigError, match="locks_park_before_pool is True or False"):
        check_settings({"locks_park_before_pool": "yes"})
