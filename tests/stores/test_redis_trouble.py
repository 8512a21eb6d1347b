"""A record of a foreign type in Redis: the trouble stays with its key (promise 37)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from celery_locks import StoreUnavailable
from celery_locks.stores.listing import NameRange
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.redis.store import BATCH, SCRIPT_BATCH, RedisStore
from celery_locks.stores.types import Claim, Granted, Renewal

BAD = "p:{bad}"


def name(key: object) -> str:
    return f"p:{{{key}}}"


def claim(key: object, token: str = "holder", **options: Any) -> Claim:
    return Claim(name(key), token, "owner", 60, **options)


@pytest.fixture
def store(each_redis_url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(each_redis_url)) as store:
        yield store


@pytest.fixture
def client(each_redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(each_redis_url, decode_responses=True) as client:
        yield client


#: Of a lock: the record that something else wrote.
RECORDS = {"lock": "", "deadlines": ":until", "lists of the line": ":alive"}


def spoil(client: redis.Redis, record: str = "") -> None:
    client.delete(BAD + record)
    client.set(BAD + record, "oops")


@pytest.mark.parametrize("many", [2, SCRIPT_BATCH, SCRIPT_BATCH + 1, BATCH + 1])
def test_promise_37_other_leases_of_the_batch_are_renewed(store: RedisStore, client: redis.Redis, many: int) -> None:
    keys = [*range(many - 1), "bad"]
    for key in keys:
        assert isinstance(store.acquire(claim(key)), Granted)
    spoil(client)
    answers = store.renew([Renewal(name(key), "holder", 600) for key in keys])
    # Alone in a request it may raise: the trouble is that of this lease.
    assert answers == [None] * (many - 1) + ["unreachable"]
    assert all(store.holders(name(key))[0].expires_in > 500 for key in keys[:-1][:10])


def test_promise_37_several_spoilt_leases_of_a_batch(store: RedisStore, client: redis.Redis) -> None:
    for key in ("a", "bad", "b"):
        store.acquire(claim(key, limit=2))
        store.acquire(claim(key, "other", limit=2))
    spoil(client, ":until")
    renewals = [Renewal(name(key), token, 600) for token in ("holder", "other") for key in ("a", "bad", "b")]
    assert store.renew(renewals) == [None, "unreachable", None] * 2


def test_promise_37_a_batch_of_nothing_but_trouble(store: RedisStore, client: redis.Redis) -> None:
    store.acquire(claim("bad"))
    spoil(client)
    assert store.renew([Renewal(BAD, token, 60) for token in ("a", "b")]) == ["unreachable"] * 2


def park(store: RedisStore, key: str) -> None:
    assert isinstance(store.acquire(claim(key)), Granted)
    assert isinstance(store.enter(claim(key, "waiter"), Ticket(key, f"message {key}", f"task {key}")), Parked)


def test_promise_37_a_sweep_dispatches_the_tasks_of_other_locks(store: RedisStore, client: redis.Redis) -> None:
    for key in ("a", "bad", "c"):
        park(store, key)
        store.release(name(key), "holder")
    client.zadd("p:parked", {BAD: 1.0})  # first
    spoil(client)
    assert {dispatch.message for dispatch in store.sweep("p", "")} == {"message a", "message c"}
    assert store.sweep("p", "") == ()
    seconds, _ = client.time()
    assert client.zscore("p:parked", BAD) > (seconds + 30) * 1e6, "it is in the way each time"


def test_promise_37_a_lock_that_can_not_be_swept_is_reported(store: RedisStore, client: redis.Redis) -> None:
    park(store, "bad")
    store.release(BAD, "holder")
    spoil(client)
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.sweep("p", "")


def test_promise_37_a_sweep_goes_on_when_the_record_is_gone(store: RedisStore, client: redis.Redis) -> None:
    park(store, "bad")
    store.release(BAD, "holder")
    spoil(client)
    with pytest.raises(StoreUnavailable):
        store.sweep("p", "")
    client.delete(BAD)
    client.zadd("p:parked", {BAD: 1.0})  # as when the pause is over
    assert [dispatch.message for dispatch in store.sweep("p", "")] == ["message bad"]


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_promise_37_other_locks_are_listed(store: RedisStore, client: redis.Redis, record: str) -> None:
    for key in ("a", "bad", "c"):
        store.acquire(claim(key))
        store.acquire(claim(key, "waiter"), line_up=60)
    spoil(client, record)
    page = store.page(NameRange("p", "p:{", "", 10))
    assert [item.name for item in page.items if item.name != BAD] == [name("a"), name("c")]
    assert page.last is None
    assert store.stats("p", 1).waiting >= 2


def test_promise_37_what_cleans_the_list_passes_over_it(store: RedisStore, client: redis.Redis) -> None:
    store.acquire(Claim(BAD, "a", "owner", 0.001))
    spoil(client)
    for number in range(100):  # each sixteenth cleans the list
        assert isinstance(store.acquire(claim(number)), Granted)
    assert client.zscore("p:locks", "n{bad}") is None


@pytest.mark.parametrize(
    "value", ["oops", "", "ticket x y", "ticket 9 ab", "other 1 ab", b"\xff\xfe \x01 z", b"lease 1 \xffa"]
)
def test_promise_37_a_stray_record_of_a_task_does_not_keep_its_ticket_in_line(
    store: RedisStore, client: redis.Redis, value: str | bytes
) -> None:
    store.acquire(claim("a"))
    parked = store.enter(claim("a", "run"), Ticket("T", "message", "task", broker="b"))
    assert isinstance(parked, Parked)
    client.set("p:task:task", value)  # the record of the ticket is that of its broker
    assert [each.message for each in store.withdraw("p", "b", "task")] == ["message"]
    assert store.waiting(name("a")) == 0
