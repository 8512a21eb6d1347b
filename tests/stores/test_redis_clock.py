"""A Redis server whose clock is set back: no dead holder or waiter lives on (promise 41)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.chaos.clock import ShiftedClock
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

HOUR = 3600
#: Seconds that a lease lives in these tests, and those after which it must have ended.
TTL, SOON = 1.0, 5.0


def claim(key: str, token: str, ttl: float = TTL, limit: int = 1) -> Claim:
    return Claim(f"p:{{{key}}}", token, f"owner {token}", ttl, limit)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> ShiftedClock:
    clock = ShiftedClock(tmp_path_factory.mktemp("clock"))
    if clock.missing:
        pytest.skip(clock.missing)
    return clock


@pytest.fixture(scope="module")
def server(clock: ShiftedClock) -> Iterator[RedisServer]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in clock.env.items():
            patch.setitem(os.environ, variable, value)
        server = RedisServer()
        server.start()
    with server:
        yield server


@pytest.fixture
def store(server: RedisServer, clock: ShiftedClock) -> Iterator[RedisStore]:
    clock.shift(0)
    server.client().flushall()
    with closing(RedisStore(server.url())) as store:
        yield store
    clock.shift(0)


def is_granted(store: RedisStore, asked: Claim) -> bool:
    return isinstance(store.acquire(asked, line_up=60), Granted)


@pytest.mark.parametrize("known", ["alone", "seen by others", "renewed", "renewed for longer"])
@pytest.mark.parametrize("limit", [1, 2])
def test_promise_41_a_dead_holder_ends_after_its_ttl(
    store: RedisStore, clock: ShiftedClock, known: str, limit: int
) -> None:
    dead = [claim("k", f"dead {number}", limit=limit) for number in range(limit)]
    for each in dead:
        assert isinstance(store.acquire(each), Granted)
    if known != "alone":
        assert isinstance(store.acquire(claim("k", "other", limit=limit)), Refused)
    if "renewed" in known:
        ttl = 2 * TTL if "longer" in known else TTL
        assert store.renew([Renewal(each.name, each.token, ttl) for each in dead]) == [None] * limit
    clock.shift(-HOUR)
    refused = store.acquire(claim("k", "next", limit=limit))
    assert isinstance(refused, Refused)
    assert refused.retry_in <= 2 * TTL
    eventually(lambda: is_granted(store, claim("k", "next", limit=limit)), SOON)


def test_promise_41_a_living_holder_keeps_its_lease(store: RedisStore, clock: ShiftedClock) -> None:
    holder = claim("k", "holder", ttl=60)
    assert isinstance(store.acquire(holder), Granted)
    clock.shift(-HOUR)
    assert isinstance(refused := store.acquire(claim("k", "other")), Refused)
    assert 50 < refused.holders[0].expires_in <= 60
    assert store.renew([Renewal(holder.name, holder.token, 60)]) == [None]
    assert isinstance(store.acquire(claim("k", "other")), Refused)
    assert store.release(holder.name, holder.token)


def test_promise_41_a_renewal_after_it_does_not_keep_the_late_deadline(
    store: RedisStore, server: RedisServer, clock: ShiftedClock
) -> None:
    holder = claim("k", "holder", ttl=60)
    assert isinstance(store.acquire(holder), Granted)
    before = server.client().time()[0]
    clock.shift(-HOUR)
    eventually(lambda: server.client().time()[0] < before, SOON, "the server goes on by a time that it has kept")
    assert store.renew([Renewal(holder.name, holder.token, 60)]) == [None]
    assert store.holders(holder.name)[0].expires_in <= 60


def test_promise_41_a_dead_waiter_is_passed_over(store: RedisStore, clock: ShiftedClock) -> None:
    holder = claim("k", "holder", ttl=60)
    store.acquire(holder)
    assert isinstance(store.acquire(claim("k", "dead"), line_up=1), Refused)
    clock.shift(-HOUR)
    assert store.release(holder.name, holder.token)
    assert isinstance(refused := store.acquire(claim("k", "next", ttl=60), line_up=60), Refused)
    assert refused.retry_in <= 61
