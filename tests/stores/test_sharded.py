"""Sharded: the contract over several stores, who serves what, and what happens when one is away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import pytest

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks._addresses import place_of
from celery_locks.keys.names import name_of
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Dispatch, Parked, Parking, Ticket, tickets_of
from celery_locks.stores.redis.redlock import Redlock
from celery_locks.stores.sharded import Sharded
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.stores.types import Claim, Granted, Renewal
from celery_locks.testing import (
    ListingCompliance,
    MovableClock,
    ParkingCompliance,
    StoreCompliance,
    ValueCompliance,
)
from tests.stores.compliance_stores import OnAMovableClock
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer


class InShards(OnAMovableClock):
    @pytest.fixture
    def store(self, clock: MovableClock) -> Store:
        return Sharded({name: MemoryStore(clock) for name in "abc"})


class TestStore(InShards, StoreCompliance):
    pass


class TestParking(InShards, ParkingCompliance):
    pass


class TestListing(InShards, ListingCompliance):
    pass


class TestValues(InShards, ValueCompliance):
    pass


def names(count: int) -> list[str]:
    return [f"p:{{user:{number}}}" for number in range(count)]


def test_a_new_store_takes_its_share_and_nothing_else_moves() -> None:
    stores = {name: MemoryStore() for name in ("one", "two", "three", "four")}
    before, after = Sharded({name: stores[name] for name in ("one", "two", "three")}), Sharded(stores)
    moved = [name for name in names(8_000) if before.store_of(name) is not after.store_of(name)]
    assert all(after.store_of(name) is stores["four"] for name in moved)
    assert 1_800 < len(moved) < 2_200  # a quarter; five standard deviations are 194
    shares = Counter(list(stores.values()).index(after.store_of(name)) for name in names(8_000))  # type: ignore[arg-type]
    assert all(1_800 < share < 2_200 for share in shares.values())


def test_the_order_of_the_stores_does_not_matter() -> None:
    one, other = (
        Sharded(["memory://a", "memory://b", "memory://c"]),
        Sharded(["memory://c", "memory://a", "memory://b"]),
    )
    assert all(one.store_of(name) is other.store_of(name) for name in names(200))


def test_who_serves_what_stays_so_for_ever() -> None:
    """Locks would be lost if this changed between two releases."""
    sharded = Sharded(["memory://a", "memory://b", "memory://c"])
    places = "".join("abc"[list(sharded._stores.values()).index(sharded.store_of(name))] for name in names(24))
    assert places == "cccccaabbccbbccaacaaaaab"


def test_user_password_and_parameters_move_nothing() -> None:
    plain = Sharded(["redis://h1/0", "redis://h2:7000/0"])
    other = Sharded(["redis://u:p%40ss@h1/0?client=redis", "redis://:x@h2:7000/0"])
    assert list(plain._stores) == list(other._stores) == ["redis://h1/0", "redis://h2:7000/0"]


@pytest.mark.parametrize(
    ("place", "addresses"),
    [
        ("redis://h1/0", ["redis://h1", "redis://H1:6379/", "redis://h1./?db=0", "valkey://h1/0", "redis://h%31//0/"]),
        ("redis://h1/3", ["redis://u:p%40ss@h1/3", "redis://h1?db=3", "redis://h1/0?client=redis&db=3"]),
        ("redis://localhost/0", ["redis://", "redis://127.0.0.1", "redis://localhost:6379/0", "redis://[::1]:6379"]),
        ("redis://[2001:db8::1]:7000/0", ["redis://[2001:DB8:0:0::1]:7000"]),
        ("rediss://h1/0", ["valkeys://h1:6379/0?ssl_cert_reqs=none"]),
        ("unix:///run/a b?db=2", ["unix:///run/a%20b?db=2", "redis+socket:///run//a%20b?virtual_host=2"]),
        (
            "redis+sentinel://a,b:7000/main/0",
            ["redis+sentinel://b:7000,A:26379/main", "valkey+sentinel://a;b:7000/main/0/"],
        ),
        ("redis+cluster://a,b", ["redis+cluster://b:6379,a/", "valkey+cluster://a,b"]),
        ("redis+redlock://a,b,c/1", ["redlock://c,b,a/1", "redis+redlock://u:x@a,u:x@b,u:x@c:6379?db=1"]),
        (
            "postgresql://h1/lo cks",
            ["postgresql://u:p@H1:5432/lo%20cks?sslmode=require", "postgresql+psycopg://h1/lo%20cks/?listen=no"],
        ),
        ("postgresql://h1/locks?table_prefix=a_", ["postgresql://h1/locks?prepare=yes&table_prefix=a_"]),
        ("mysql://localhost/locks", ["mariadb://127.0.0.1:3306/locks", "mysql:///locks?table_prefix=celery_locks_"]),
        ("sqlite:////tmp/a b.db", ["sqlite:////tmp//x/../a%20b.db?timeout=5"]),
        ("memory://a", ["memory://a"]),
    ],
)
def test_equivalent_addresses_are_one_shard(place: str, addresses: list[str]) -> None:
    assert {place_of(address) for address in addresses} == {place_of(place)}


def test_different_stores_are_different_shards() -> None:
    addresses = [
        *(
            "redis://h1",
            "redis://h2",
            "redis://h1:7000",
            "redis://h1/1",
            "rediss://h1",
            "unix:///h1",
            "unix:///h1?db=1",
        ),
        *("redis+sentinel://h1/a", "redis+sentinel://h1/b", "redis+cluster://h1", "redlock://h1,h2,h3"),
        *("postgresql://h1/a", "postgresql://h1/b", "postgresql://h1/a?table_prefix=b_", "mysql://h1/a"),
        *("sqlite:////tmp/a.db", "sqlite:////tmp/b.db", "memory://a", "memory://b", "memory://"),
    ]
    assert len({place_of(address) for address in addresses}) == len(addresses)


def test_an_address_that_can_not_be_read() -> None:
    with pytest.raises(LockConfigError, match="can't be read"):
        Sharded(["redis://h1/0", "redis://h2:port/0"])


class TestStrategies:
    STORES: ClassVar[list[str]] = ["memory://a", "memory://b", "memory://c"]

    def places(self, sharded: Sharded, count: int) -> str:
        stores = list(sharded._stores.values())
        return "".join("abc"[stores.index(sharded.store_of(name))] for name in names(count))

    def test_the_default(self) -> None:
        assert self.places(Sharded(self.STORES, strategy="rendezvous"), 24) == self.places(Sharded(self.STORES), 24)

    def test_modulo_stays_so_for_ever(self) -> None:
        sharded = Sharded(self.STORES, strategy="modulo")
        assert self.places(sharded, 24) == "bcbaabcbcbbaaaacaccaccaa"
        shares = Counter(self.places(sharded, 3_000))
        assert all(900 < share < 1_100 for share in shares.values())

    def test_a_function_gets_keys_and_names(self) -> None:
        seen = []

        def by_tenant(key: str, shards: Sequence[str]) -> str:
            seen.append((key, shards))
            return "eu" if key.startswith("eu:") else "us"

        stores = {"eu": MemoryStore(), "us": MemoryStore()}
        locks = Locks(Sharded(stores, strategy=by_tenant))
        with locks.lock("eu:7"), locks.lock("{odd}"):
            assert stores["eu"].holders(locks._space.name("eu:7"))
            assert stores["us"].holders(locks._space.name("{odd}"))
        assert set(seen) == {("eu:7", ("eu", "us")), ("{odd}", ("eu", "us"))}

    def test_a_part_is_where_its_key_is(self) -> None:
        sharded = Sharded({"eu": MemoryStore(), "us": MemoryStore()}, strategy=lambda key, shards: key)
        assert sharded.store_of(name_of("p", "us", "call")) is sharded.store_of(name_of("p", "us"))

    def test_wrong_ones(self) -> None:
        with pytest.raises(LockConfigError, match="rendezvous"):
            Sharded(self.STORES, strategy="random")
        with pytest.raises(LockConfigError, match="return one of"):
            Sharded(self.STORES, strategy=lambda key, shards: "d").store_of("p:{k}")


def test_it_can_do_what_all_can(tmp_path: Path) -> None:
    both = Sharded({"memory": MemoryStore(), "file": SQLiteStore(str(tmp_path / "locks.db"))})
    assert tickets_of(both) is both
    assert (both.wakes, both.shared, both.machines, both.semaphores) == (False, False, False, True)
    poor = Sharded({"memory": MemoryStore(), "majority": Redlock("redlock://h1,h2,h3")})
    assert tickets_of(poor) is None
    assert (poor.semaphores, poor.fair, poor.lists, poor.values, poor.fencing) == (False, False, False, False, True)


@pytest.mark.parametrize(
    ("stores", "match"),
    [([], "at least one"), (["memory://a", "memory://a"], "twice"), ([MemoryStore()], "names"), ("memory://", "list")],
)
def test_wrong_ones(stores: list[str], match: str) -> None:
    with pytest.raises(LockConfigError, match=match):
        Sharded(stores)


def test_a_url() -> None:
    store = open_store("sharded:redis://h1/0|redis://h2/0 | redlock://a,b,c")
    assert isinstance(store, Sharded)
    assert list(store._stores) == ["redis://h1/0", "redis://h2/0", "redis+redlock://a,b,c/0"]
    assert "secret" not in Locks("sharded:redis://h1:7000/0|redis://:secret@h2|redis://:secret@h3").url


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


@pytest.fixture
def proxies(servers: list[RedisServer]) -> Iterator[list[Proxy]]:
    with ExitStack() as stack:
        for server in servers:
            server.client().flushall()
        yield [stack.enter_context(Proxy(server.port)) for server in servers]


@pytest.fixture
def sharded(proxies: list[Proxy]) -> Iterator[Sharded]:
    store = Sharded({str(number): f"redis://127.0.0.1:{proxy.port}/0" for number, proxy in enumerate(proxies)})
    yield store
    store.close()


def served_by(store: Sharded, number: int) -> str:
    """A name that this one of the stores serves."""
    return next(name for name in names(100) if store.store_of(name) is store._stores[str(number)])


def claim(name: str, token: str = "t") -> Claim:
    return Claim(name, token, "owner", 60)


def test_one_that_hangs_loses_no_leases_of_others(sharded: Sharded, proxies: list[Proxy]) -> None:
    own = [served_by(sharded, number) for number in range(3)]
    for name in own:
        assert isinstance(sharded.acquire(claim(name)), Granted)
    proxies[1].hang()
    assert sharded.renew([Renewal(name, "t", 60) for name in own]) == [None, "unreachable", None]


def test_one_that_is_away_is_missed_by_its_own_locks(sharded: Sharded, proxies: list[Proxy]) -> None:
    own = [served_by(sharded, number) for number in range(3)]
    for name in own:
        assert isinstance(sharded.acquire(claim(name)), Granted)
    proxies[1].refuse()
    assert sharded.renew([Renewal(name, "t", 60) for name in own]) == [None, "unreachable", None]
    assert sharded.release(own[0], "t")
    for call in (lambda: sharded.holders(own[1]), sharded.ping, lambda: sharded.stats("p", 10)):
        with pytest.raises(StoreUnavailable, match=str(proxies[1].port)):
            call()
    for proxy in proxies:
        proxy.refuse()
    with pytest.raises(StoreUnavailable):
        sharded.renew([Renewal(name, "t", 60) for name in own])


def test_pages_over_all_stores_come_in_order(sharded: Sharded) -> None:
    locks = Locks(sharded, prefix="p")
    keys = sorted(f"user:{number}" for number in range(50))
    leases = [locks.lock(key, renew=False).acquire() for key in keys]
    found, after = list[str](), None
    while True:
        page = locks.list(prefix="user:", after=after, count=7)
        found += [item.key for item in page.items]
        if (after := page.next) is None:
            break
    assert found == sorted(keys, key=locks._space.name)
    assert (locks.stats().locks, locks.stats().holders) == (50, 50)
    assert locks.stats().oldest == keys[0]
    for lease in leases:
        lease.release()


def test_what_is_due_in_any_store_is_found(sharded: Sharded, proxies: list[Proxy]) -> None:
    assert isinstance(sharded, Parking)
    parked = [served_by(sharded, number) for number in (0, 2)]
    for name in parked:
        sharded.acquire(claim(name))
        assert isinstance(sharded.enter(claim(name, "next"), Ticket(name, "message", name)), Parked)
        waiting = threading.Thread(target=sharded.await_due, args=("p", "", 60.0), daemon=True)
        waiting.start()
        sharded.release(name, "t")
        waiting.join(40)
        assert not waiting.is_alive(), "it was not told"
        if name == parked[0]:
            proxies[1].refuse()  # from now on one is away
        (call,) = _swept(sharded)
        assert call.name == name
        sharded.published(call, 60)
    with pytest.raises(StoreUnavailable):  # the one that is away may have it
        sharded.withdraw("p", "", "nobody")
    proxies[1].heal()
    assert sharded.withdraw("p", "", "nobody") == ()


class Looked(MemoryStore):
    """Counts how often it was waited in."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.timeouts: list[float] = []

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        self.waits += 1
        self.timeouts.append(timeout)
        super().await_due(prefix, broker, timeout)


def test_each_shard_is_waited_in_once() -> None:
    stores = {str(number): Looked() for number in range(8)}
    sharded = Sharded(dict(stores))
    assert isinstance(sharded, Parking)
    begun = time.monotonic()
    sharded.await_due("p", "", 1.0)
    assert time.monotonic() - begun >= 0.99
    assert all(store.waits <= 2 for store in stores.values())


def test_a_wait_that_is_under_way_is_not_begun_anew() -> None:
    stores = {"a": Looked(), "b": Looked()}
    sharded = Sharded(dict(stores))
    assert isinstance(sharded, Parking)
    name = next(name for name in names(100) if sharded.store_of(name) is stores["a"])
    for turn in range(3):
        sharded.acquire(claim(name))
        assert isinstance(sharded.enter(claim(name, f"next {turn}"), Ticket(f"{turn}", "message", name)), Parked)
        sharded.release(name, "t")
        begun = time.monotonic()
        sharded.await_due("p", "", 60.0)
        assert time.monotonic() - begun < 30
        for call in sharded.sweep("p", ""):
            sharded.finish(name, call.id)
    assert stores["b"].waits == 1


def _swept(store: Parking) -> tuple[Dispatch, ...]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(StoreUnavailable):
            if calls := store.sweep("p", ""):
                return calls
    return ()
