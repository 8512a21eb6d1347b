"""Valkey's own client, which is a fork of redis-py: its errors are others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import valkey

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire import driver
from celery_locks.stores.types import Claim, Granted, Renewal
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer


def library(store: Store) -> str:
    assert isinstance(store, RedisStore)
    return type(store._connections.for_ttl().redis).__module__.partition(".")[0]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("valkey://localhost", "valkey"),
        ("valkeys://localhost?ssl_cert_reqs=none", "valkey"),
        ("valkey://localhost?client=redis", "redis"),
        ("redis://localhost", "redis"),
        ("redis://localhost/1?client=valkey", "valkey"),
        ("redis+socket:///run/redis.sock?client=valkey&virtual_host=1", "valkey"),
        ("valkey+sentinel://localhost/service", "valkey"),
    ],
)
def test_the_address_chooses_the_client(url: str, name: str) -> None:
    assert library(open_store(url)) == name


def test_without_it_redis_py_is_used(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(driver, "find_spec", lambda name: None)
    store = open_store(redis_url.replace("redis://", "valkey://"))
    assert library(store) == "redis"
    store.ping()


def test_there_are_two_clients() -> None:
    with pytest.raises(LockConfigError, match="client=redis or client=valkey"):
        open_store("redis://localhost?client=memcached")
    with pytest.raises(LockConfigError, match="client of redis-py or valkey-py"):
        RedisStore(object())  # type: ignore[arg-type]


@pytest.fixture
def proxied(redis_server: RedisServer, redis_url: str, proxy: Proxy) -> Iterator[RedisStore]:
    url = redis_url.replace(str(redis_server.port), str(proxy.port)).replace("redis://", "valkey://")
    store = RedisStore(url)
    yield store
    store.close()


def test_what_was_lost_on_the_way_is_done_once(proxied: RedisStore, proxy: Proxy, redis_url: str) -> None:
    with valkey.Valkey.from_url(redis_url) as client:
        client.script_flush()
    proxy.drop_reply(1, command="EVALSHA")
    first = proxied.acquire(Claim("p:{k}", "a", "a", 60))
    assert isinstance(first, Granted)
    assert proxied.acquire(Claim("p:{k}", "a", "a", 60)) == first
    proxy.drop_reply(1, command="EVALSHA")
    assert proxied.renew([Renewal("p:{k}", "a", 60), Renewal("p:{j}", "a", 60)]) == [None, "deleted"]
    proxy.refuse()
    with pytest.raises(StoreUnavailable, match=str(proxy.port)):
        proxied.ping()


def test_its_errors_become_ours(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(users={"poor": "on >secret ~* -@all +ping"})
    with pytest.raises(StoreUnavailable, match=r"\+evalsha"):
        Locks(server.url(scheme="valkey", user="poor", password="secret")).lock("k").try_acquire()
    with pytest.raises(StoreUnavailable, match="check user and password"):
        Locks(server.url(scheme="valkey", user="poor", password="wrong")).lock("k").try_acquire()
    assert open_store(server.url(scheme="valkey", user="poor", password="secret")).warnings(parks=True) == []
