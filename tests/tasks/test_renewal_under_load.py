"""Leases are renewed whatever the bodies do."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from celery_locks import LockLost
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

SOON = 100
#: Seconds, and three times as many.
TTL, THRICE = 1, 3


def begun(shop: Shop, key: str) -> None:
    eventually(lambda: shop.journal.entries("begin", key=key), SOON)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
def test_promise_13_a_body_that_never_yields_keeps_its_lease(
    request: pytest.FixtureRequest, key: str, pool: str
) -> None:
    shop: Shop = request.getfixturevalue(f"{pool}_shop")
    result = shop.task("spins", ttl=TTL).delay(key, THRICE)
    begun(shop, key)
    first = shop.lock(key).holders()[0].fencing_token
    fences = set()
    while not result.ready():
        fences |= {holder.fencing_token for holder in shop.lock(key).holders()}
        time.sleep(0.05)  # the body needs the processor
    assert result.get() == "spun"
    assert fences == {first}
    assert not shop.journal.entries("lost", key=key)


@pytest.mark.slow
@pytest.mark.parametrize("ticking", [False, True])
def test_a_run_in_frozen_time_keeps_its_lease(prefork_shop: Shop, key: str, ticking: bool) -> None:
    assert prefork_shop.task("freezes", ttl=TTL).delay(key, THRICE, ticking).get(timeout=SOON) == "frozen"
    assert not prefork_shop.journal.entries("lost", key=key)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_body_that_never_yields_can_look_for_itself(request: pytest.FixtureRequest, key: str, pool: str) -> None:
    """The hub doesn't run, so nobody can stop it; but a real thread has noticed."""
    shop: Shop = request.getfixturevalue(f"{pool}_shop")
    result = shop.task("spins").delay(key, 20, checks=True)
    begun(shop, key)
    shop.lock(key).force_release()
    with pytest.raises(LockLost) as caught:
        result.get(timeout=SOON)
    assert caught.value.reason == "force_released"
    assert len(shop.journal.entries("lost", key=key)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_body_that_never_yields_fails_at_its_end(request: pytest.FixtureRequest, key: str, pool: str) -> None:
    shop: Shop = request.getfixturevalue(f"{pool}_shop")
    result = shop.task("spins").delay(key, 2)
    begun(shop, key)
    shop.lock(key).force_release()
    with pytest.raises(LockLost):
        result.get(timeout=SOON)
    assert result.state == "FAILURE"


@pytest.mark.slow
def test_promise_13_concurrent_runs_share_nothing(any_shop: Shop, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(12)]
    results = [any_shop.task("sees_its_own").delay(each, 0.3) for each in keys]
    assert [result.get(timeout=SOON) for result in results] == [[each] for each in keys]


@pytest.mark.slow
def test_promise_13_a_fork_within_a_run_leaves_its_lease_alone(prefork_shop: Shop, key: str) -> None:
    assert prefork_shop.task("forks", ttl=TTL).delay(key, 1.5 * TTL).get(timeout=SOON) == 0
    assert not prefork_shop.journal.entries("lost", key=key)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_promise_13_two_hundred_runs_in_one_process_keep_their_leases(
    open_shop: Callable[..., Shop], key: str, pool: str
) -> None:
    shop = open_shop()
    shop.start_worker(pool=pool, concurrency=200)
    # Longer leases than elsewhere: two hundred runs begin at once, on a machine that may be slow.
    results = [shop.task("swallows_errors", ttl=6).delay(f"{key}-{number}", 7) for number in range(200)]
    for result in results:
        result.get(timeout=4 * SOON)
    assert not shop.journal.entries("lost")
    assert shop.journal.most_at_once() == 1


@pytest.mark.slow
# gevent shows the rule for both pools of greenlets; eventlet repeats it for eleven seconds.
@pytest.mark.parametrize("pool", ["prefork", "gevent", pytest.param("eventlet", marks=pytest.mark.exhaustive)])
def test_promise_10_a_store_that_answers_late_is_no_loss(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str, pool: str
) -> None:
    shop = open_shop(SHOP_STORE=redis_url.replace(str(redis_server.port), str(proxy.port)))
    shop.start_worker(pool=pool)
    proxy.delay(0.1)
    assert shop.task("swallows_errors", ttl=6).delay(key, 9).get(timeout=SOON) == key
    assert not shop.journal.entries("lost", key=key)
