"""``on_contention="park"``: tasks that wait in line in the store, on real workers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from celery.exceptions import ChordError, MaxRetriesExceededError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult

from celery_locks import LockQueueFull, Locks, LockTimeout, owners
from celery_locks.stores.parking import Parking
from celery_locks.stores.types import Granted
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.testing.harness import AssertFree
from tests.support.cli import Run, found
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 100


@pytest.fixture
def shop(parking_shop: Shop) -> Shop:
    return parking_shop


def waiting(shop: Shop, key: str) -> int:
    locks = Locks.from_app(shop.app)
    assert isinstance(locks.store, Parking)
    return locks.store.waiting(locks._space.name(key))


@contextmanager
def parked(shop: Shop, key: str, *results: AsyncResult) -> Any:
    """Until the end of the block these tasks stand in line."""
    eventually(lambda: waiting(shop, key) == len(results), SOON, "they never parked")
    yield


def send_parked(shop: Shop, key: str, count: int = 1, body: str = "work", **options: Any) -> list[AsyncResult]:
    """Call a task some times, each time when the call before stands in line."""
    results, task, before = [], shop.task(body, on_contention="park", **options), waiting(shop, key)
    for number in range(before + 1, before + count + 1):
        results.append(task.delay(key))
        eventually(lambda number=number: waiting(shop, key) == number, SOON)
    return results


def order(shop: Shop, key: str) -> list[str]:
    return [stretch.task_id for stretch in shop.journal.stretches(key)]


def test_a_parked_task_costs_two_messages_and_holds_no_slot(shop: Shop, key: str) -> None:
    with shop.lock(key):
        results = send_parked(shop, key, 12)  # three times as many as there are slots
        assert shop.task().delay(f"{key}-other").get(timeout=SOON), "an unrelated task did not get a slot"
        time.sleep(1)  # long enough for a poll, if there were one
    for result in results:
        result.get(timeout=SOON)
    log = shop.worker.logs()
    received = [log.count(f"[{result.id}] received") for result in results]
    # The parent speaks of those alone that it hands to the pool.
    assert received == [1 if "SHOP_EARLY" in shop.variables else 2] * 12


def test_a_parked_task_is_waiting_and_shows_its_position(shop: Shop, key: str) -> None:
    with shop.lock(key):
        first, second = send_parked(shop, key, 2)
        eventually(lambda: second.state == "WAITING", SOON)
        assert (first.state, first.info) == ("WAITING", {"key": key, "position": 0})
        assert second.info == {"key": key, "position": 1}
        assert not second.ready()
    assert second.get(timeout=SOON) == key


def test_the_message_comes_back_as_it_was(shop: Shop, key: str) -> None:
    task = shop.task("shows_message", on_contention="park")
    expires = datetime.now(timezone.utc) + timedelta(hours=1)
    signature = task.s(key)
    signature.stamp(tenant="acme")
    sent = {
        "headers": {"mine": {"a": 1}},
        "priority": 3,
        "expires": expires,
        "countdown": 0.1,
        "soft_time_limit": 50,
        "time_limit": 60,
        "shadow": "other name",
    }
    at_once = signature.clone().apply_async(**sent).get(timeout=SOON)
    with shop.lock(key):
        result = signature.clone().apply_async(**sent)
        with parked(shop, key, result):
            pass
    later = result.get(timeout=SOON)
    assert later["stamps"] == {"tenant": "acme"}
    assert later["headers"]["mine"] == {"a": 1}
    for changing in ("root_id", "reply_to", "eta"):
        assert bool(at_once.pop(changing)) == bool(later.pop(changing)), changing
    at_once["delivery"].pop("redelivered")
    later["delivery"].pop("redelivered")
    assert later == at_once


def test_links_chain_group_and_chord_go_on(shop: Shop, key: str) -> None:
    park, then, add_up = shop.task(on_contention="park"), shop.task("then"), shop.task("add_up")
    with shop.lock(key):
        in_chain = chain(park.si(key), then.s("chained")).apply_async()
        in_chord = chord([park.si(key), park.si(key)], add_up.s()).apply_async()
        in_group = group(park.si(key), park.si(key)).apply_async()
        body_parks = chord([then.si("header")], park.si(key)).apply_async()
        eventually(lambda: waiting(shop, key) == 6, SOON)
    assert in_chain.get(timeout=SOON) == [key, "chained"]
    assert in_chord.get(timeout=SOON) == [key, key]
    assert in_group.get(timeout=SOON) == [key, key]
    assert body_parks.get(timeout=SOON) == key


def test_max_wait_fails_the_task_its_errback_and_its_chord(shop: Shop, key: str) -> None:
    task = shop.task(on_contention="park", max_wait=1)
    with shop.lock(key, ttl=60):
        began = time.monotonic()
        result = task.apply_async((key,), link_error=shop.task("on_error").s())
        in_chord = chord([task.si(key)], shop.task("add_up").s()).apply_async()
        with pytest.raises(LockTimeout) as caught:
            result.get(timeout=SOON)
        assert time.monotonic() - began >= 1
        with pytest.raises((ChordError, LockTimeout, CeleryTimeout)) as of_chord:
            in_chord.get(timeout=SOON)
        assert "was not acquired" in f"{of_chord.value} {of_chord.value.__context__}"
        eventually(lambda: shop.journal.entries("errback", task_id=result.id, error="LockTimeout"), SOON)
    assert caught.value.key == key
    assert caught.value.holders
    assert not shop.journal.stretches(key)
    assert waiting(shop, key) == 0


def test_max_waiters_refuses_one_more_and_loses_none(shop: Shop, key: str) -> None:
    with shop.lock(key):
        (first,) = send_parked(shop, key, max_waiters=1)
        with pytest.raises(LockQueueFull) as caught:
            shop.task(on_contention="park", max_waiters=1).delay(key).get(timeout=SOON)
    assert caught.value.key == key
    assert first.get(timeout=SOON) == key


def test_a_limit_above_one_calls_as_many_as_fit(shop: Shop, key: str, tmp_path: Path) -> None:
    results = [shop.task(on_contention="park", limit=2).delay(key, until=str(tmp_path / "go")) for _ in range(6)]
    eventually(lambda: waiting(shop, key) == 4, SOON)
    (tmp_path / "go").touch()
    assert [result.get(timeout=SOON) for result in results] == [key] * 6
    assert shop.journal.most_at_once(key) == 2


def test_the_release_of_a_lock_outside_tasks_dispatches_a_parked_task(shop: Shop, key: str) -> None:
    lease = shop.lock(key, ttl=60).acquire()
    (result,) = send_parked(shop, key)
    released = time.monotonic()
    lease.release()
    result.get(timeout=SOON)
    assert shop.journal.stretches(key)[0].begin - released < 5


def test_a_lock_outside_tasks_waits_in_the_same_line(shop: Shop, key: str) -> None:
    holder = shop.lock(key).acquire()
    (first,) = send_parked(shop, key)
    locks = Locks.from_app(shop.app)
    lock = locks.lock(key)
    claim = lock._new_claim()
    assert not isinstance(locks.store.acquire(claim, 30), Granted)
    (last,) = send_parked(shop, key)
    holder.release()
    eventually(lambda: isinstance(locks.store.acquire(claim, 30), Granted), SOON)
    assert first.get(timeout=SOON) == key
    assert not last.ready(), "it overtook a waiter"
    locks.store.release(claim.name, claim.token)
    assert last.get(timeout=SOON) == key


@pytest.mark.parametrize("body", ["retries", "autoretries"])
def test_promise_06_retries_of_a_parked_task_run_each(shop: Shop, key: str, assert_free: AssertFree, body: str) -> None:
    with shop.lock(key):
        (result,) = send_parked(shop, key, body=body)
    with pytest.raises((MaxRetriesExceededError, ValueError)):
        result.get(timeout=SOON)
    assert len(shop.journal.stretches(key)) == 4
    assert_free(key)


@pytest.mark.parametrize("other", ["broker", "sqlite"])
def test_broker_and_store_apart(
    open_shop: Callable[..., Shop], other_redis_url: str, key: str, other: str, tmp_path: Path
) -> None:
    apart = {
        "broker": {"SHOP_BROKER": other_redis_url},
        "sqlite": {"SHOP_STORE": f"sqlite:///{tmp_path}/locks.db"},
    }
    shop = open_shop(**apart[other])
    shop.start_worker(concurrency=4)
    with shop.lock(key):
        results = send_parked(shop, key, 4)
    assert [result.get(timeout=SOON) for result in results] == [key] * 4
    assert order(shop, key) == [result.id for result in results]


@pytest.mark.slow
def test_a_killed_worker_leaves_its_waiters_to_another(
    open_shop: Callable[..., Shop], key: str, tmp_path: Path
) -> None:
    """SIGKILL the parent and its children while one runs and others wait: the next runs when the lease has ended."""
    shop = open_shop()
    victim = shop.start_worker(concurrency=1, queues=["doomed"])
    second = shop.start_worker(concurrency=2)
    holder = shop.task(on_contention="park").apply_async((key,), {"until": str(tmp_path / "never")}, queue="doomed")
    eventually(lambda: shop.journal.stretches(key), SOON)
    results = send_parked(shop, key)
    victim.kill()
    killed = time.monotonic()
    assert results[0].get(timeout=SOON) == key
    assert shop.journal.stretches(key)[1].begin - killed < 5 + 5, "ttl and some more"
    assert second.container.status == "running"
    assert holder.state != "SUCCESS"


def test_a_parked_task_is_named_with_the_queue_of_its_message(shop: Shop, key: str) -> None:
    with shop.lock(key):
        (result,) = send_parked(shop, key)
        (waiter,) = Locks.from_app(shop.app).info(key).line
        assert waiter.owner == owners.parked(shop.task(on_contention="park").name, result.id, "celery")
    result.get(timeout=SOON)


@pytest.mark.slow
def test_promise_48_a_dispatched_task_that_has_not_started_is_not_shown_as_running(
    open_shop: Callable[..., Shop], key: str
) -> None:
    """Its worker was killed: until another one consumes the queue, no process has it."""
    shop = open_shop()
    victim = shop.start_worker(concurrency=1, queues=["side"])
    with shop.lock(key):
        result = shop.task(on_contention="park").apply_async((key,), queue="side")
        eventually(lambda: waiting(shop, key) == 1, SOON)
        victim.kill()
    locks = Locks.from_app(shop.app)
    shop.start_worker(concurrency=1, queues=["celery"])  # it sweeps, and dispatches the task
    eventually(lambda: locks.info(key).holders, SOON)
    (holder,) = locks.info(key).holders
    assert (holder.state, holder.queue, holder.worker, holder.task_id) == ("dispatched", "side", None, result.id)
    texts = [item["text"] for item in found(shop.app, 1)["consumers"]]
    assert f"consumes the queue side, where a dispatched task has not started, such as that of {key}" in str(texts)
    assert "dispatched tasks that have not started: 1 in side" in found(shop.app, 1)["waiters"][0]["text"]
    assert f"{holder.owner}, not started" in Run(shop.app)("list").output
    shop.start_worker(concurrency=1, queues=["side"])
    assert result.get(timeout=SOON) == key


@pytest.mark.slow
def test_a_call_whose_caller_died_before_it_sent_is_made_again(
    open_shop: Callable[..., Shop], other_redis_url: str, key: str
) -> None:
    shop = open_shop(SHOP_BROKER=other_redis_url)
    shop.start_worker()
    lock = shop.lock(key)
    lease = lock.acquire()
    first, second = send_parked(shop, key, 2)
    parking = lock._store
    assert isinstance(parking, Parking)
    released, dispatches = parking.end_run(lock._name, lease.token, "final", broker=broker_id(shop.app))
    assert released
    assert len(dispatches) == 1
    assert first.get(timeout=SOON) == key
    assert second.get(timeout=SOON) == key
    assert order(shop, key) == [first.id, second.id]


@pytest.mark.slow
def test_a_safety_copy_that_comes_after_the_run_is_dropped(shop: Shop, key: str) -> None:
    with shop.lock(key):
        (result,) = send_parked(shop, key, park_safety_copy=2)
    assert result.get(timeout=SOON) == key
    shop.worker.wait_for_log(f"[{result.id}]: it is done")
    assert len(shop.journal.stretches(key)) == 1


@pytest.mark.slow
def test_a_safety_copy_runs_when_the_store_forgot(
    open_shop: Callable[..., Shop], other_redis_url: str, key: str
) -> None:
    shop = open_shop(SHOP_STORE=other_redis_url)
    shop.start_worker()
    lease = shop.lock(key).acquire()
    (result,) = send_parked(shop, key, park_safety_copy=2)
    redis.Redis.from_url(other_redis_url).flushdb()
    assert not lease.release()
    assert result.get(timeout=SOON) == key


def test_monitors_see_a_parked_task_waiting(open_shop: Callable[..., Shop], key: str) -> None:
    """By the state that Flower keeps, made of the worker's events."""
    shop = open_shop()
    shop.start_worker(concurrency=2, arguments=["--task-events"])
    state, seen = shop.app.events.State(), []

    def note(event: dict[str, Any]) -> None:
        state.event(event)
        seen.append((event["type"], state.tasks[event["uuid"]].state if "uuid" in event else ""))

    with capturing(shop, note):
        eventually(lambda: seen, SOON, "no event came")
        with shop.lock(key):
            (result,) = send_parked(shop, key)
            eventually(lambda: ("task-waiting", "WAITING") in seen, SOON)
            assert state.tasks[result.id].state == "WAITING"
        eventually(lambda: ("task-succeeded", "SUCCESS") in seen, SOON)
    assert ("task-running", "RUNNING") in seen


@contextmanager
def capturing(shop: Shop, note: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Receives events, in a thread as Flower does."""
    with shop.app.connection_for_read() as connection:
        receiver = shop.app.events.Receiver(connection, handlers={"*": note})
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=True), daemon=True)
        thread.start()
        yield
        receiver.should_stop = True
        thread.join(10)


def test_nothing_is_left_of_parked_tasks_but_tombstones(shop: Shop, key: str) -> None:
    with shop.lock(key):
        results = send_parked(shop, key, 2)
    for result in results:
        result.get(timeout=SOON)
    client = redis.Redis.from_url(shop.variables["SHOP_URL"])
    name = Locks.from_app(shop.app)._space.name(key)

    def left() -> Counter[str]:
        found = [found.decode().removeprefix(name) for found in client.scan_iter(f"*{key}*")]
        return Counter(part.split(":")[1] if part else "fence" for part in found)

    eventually(lambda: left() == Counter({"fence": 1, "ticket": 2}), SOON)
    assert all(client.ttl(found) > 0 for found in client.scan_iter(f"*{key}*"))
    assert client.zscore("celery-locks:parked", name) is None


@pytest.mark.slow
def test_a_store_that_is_killed_with_its_data_on_disk_keeps_its_waiters(
    start_redis: Callable[..., RedisServer], open_shop: Callable[..., Shop], key: str
) -> None:
    """SIGKILL of a Redis with AOF while tasks stand in line; its key's holder is gone with it."""
    server = start_redis(appendonly=True)
    shop = open_shop(SHOP_STORE=server.url())
    shop.start_worker()
    shop.lock(key, ttl=3, renew=False).acquire()
    results = send_parked(shop, key, 3)
    server.kill()
    server.start()
    assert [result.get(timeout=SOON) for result in results] == [key] * 3
    assert order(shop, key) == [result.id for result in results]


def test_a_store_user_without_rights_to_the_queue_sends_by_the_broker(
    start_redis: Callable[..., RedisServer], open_shop: Callable[..., Shop], key: str
) -> None:
    """The store would push a called message itself, and may not."""
    users = {"locks": "on >secret ~celery-locks:* &* +@all"}
    server = start_redis(users=users)
    url = server.url()
    shop = open_shop(SHOP_URL=url, SHOP_STORE=url.replace("redis://", "redis://locks:secret@"))
    shop.start_worker()
    with shop.lock(key):
        results = send_parked(shop, key, 2)
    assert [result.get(timeout=SOON) for result in results] == [key] * 2
