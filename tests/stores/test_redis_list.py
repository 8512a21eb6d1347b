"""The list of what is held, in Redis: what it costs, and that it can't grow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from celery_locks import Locks
from celery_locks.stores.listing import NameRange, Page
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Renewal
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    return RedisStore(redis_url)


def hold(store: RedisStore, *keys: object, ttl: float = 60.0) -> None:
    for key in keys:
        store.acquire(Claim(f"p:{{{key}}}", f"token {key}", "me", ttl))


def test_a_page_and_figures_are_a_command_each(
    store: RedisStore, redis_server: RedisServer, redis_url: str, proxy: Proxy
) -> None:
    hold(store, *range(300))
    locks = Locks(redis_url.replace(str(redis_server.port), str(proxy.port)), prefix="p")
    locks.list(), locks.stats(), locks.info("1")  # the server knows the scripts from now on
    proxy.commands.clear()
    assert len(locks.list().items) == 100
    assert locks.stats().holders == 300
    assert locks.info("1").permits == 1
    assert proxy.commands == ["EVALSHA"] * 3


def test_a_page_looks_at_a_bounded_number_of_the_dead(store: RedisStore, client: redis.Redis) -> None:
    """The marks by deadline were lost, so nothing but a page can find them."""
    client.zadd("p:locks", {f"n{{{number:05}}}": 0 for number in range(3000)})
    hold(store, "zz")
    page = store.page(NameRange("p", "p:{", "", 100))
    assert page == Page((), "p:{01099}")
    assert client.zcard("p:locks") == 3000 - 1100 + 4
    pages = 1
    while page.last is not None:
        page = store.page(NameRange("p", "p:{", page.last, 100))
        pages += 1
    assert [item.name for item in page.items] == ["p:{zz}"]
    assert pages == 3
    assert client.zcard("p:locks") == 4


def test_promise_20_what_the_dead_left_on_the_list_goes(store: RedisStore, client: redis.Redis) -> None:
    hold(store, *range(2000), ttl=0.001)
    eventually(lambda: store.stats("p", 1.0).holders == 0, 30)
    assert client.zcard("p:locks") < 3000, "acquiring took away nothing"
    store.stats("p", 1.0)
    store.stats("p", 1.0)
    assert client.zrange("p:locks", 0, -1) == ["."]


def test_a_renewal_puts_back_what_the_list_lost(store: RedisStore, client: redis.Redis) -> None:
    hold(store, "k")
    client.delete("p:locks")
    assert store.page(NameRange("p", "p:{", "", 10)) == Page((), None)
    assert store.renew([Renewal("p:{k}", "token k", 60)]) == [None]
    assert len(store.page(NameRange("p", "p:{", "", 10)).items) == 1
    assert store.stats("p", 1.0).oldest_name == "p:{k}"
    assert store.release("p:{k}", "token k")
    assert client.zrange("p:locks", 0, -1) == ["."]
    assert client.pttl("p:locks") > 0


def test_promise_20_the_list_ends_though_not_each_holder_has_a_deadline(store: RedisStore, client: redis.Redis) -> None:
    for _ in range(50):  # most of them find a list that nobody is on, and a lock that is known
        hold(store, "k")
        assert client.pttl("p:locks") > 0
        store.release("p:{k}", "token k")
        assert client.pttl("p:locks") > 0


def test_more_lines_than_are_counted_are_reported(store: RedisStore) -> None:
    for number in range(1001):
        store.acquire(Claim(f"p:{{{number}}}", "a", "me", 60, limit=1, permits=2), line_up=60)
    stats = store.stats("p", 1.0)
    assert (stats.waiting, stats.locks, stats.complete) == (1000, 1001, False)


def test_a_page_costs_the_same_however_many_there_are(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()  # nobody else's commands are counted
    store, client = RedisStore(server.url()), server.client()

    def costs(ask: Callable[[], object]) -> dict[str, int]:
        client.config_resetstat()
        ask()
        stats = client.info("commandstats")
        return {name: each["calls"] for name, each in stats.items() if not name.endswith(("|resetstat", "config"))}

    def all_costs() -> list[dict[str, int]]:
        asks = (lambda: store.page(NameRange("p", "p:{a", "p:{a00050}", 100)), lambda: store.stats("p", 1.0))
        return [costs(ask) for ask in asks]

    hold(store, *(f"a{number:05}" for number in range(200)))
    all_costs()  # the server knows the scripts from now on
    few = all_costs()
    hold(store, *(f"a{number:05}" for number in range(200, 2000)), *(f"b{number:05}" for number in range(1000)))
    assert all_costs() == few
    assert sum(few[0].values()) < 100 * 4 + 20
    assert sum(few[1].values()) < 20
