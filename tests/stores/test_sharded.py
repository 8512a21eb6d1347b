"""Sharded: the contract over several stores, who serves what, and what happens when one is away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Claim, Granted, Renewal, Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parked, Parking, Ticket
from celery_locks.stores.redlock import Redlock
from celery_locks.stores.sharded import Sharded
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import (
    ListingCompliance,
    MovableClock,
    ParkingCompliance,
    StoreCompliance,
    ValueCompliance,
)
from tests.stores.kinds import OnAMovableClock
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


def test_it_can_do_what_all_can(tmp_path: Path) -> None:
    both = Sharded({"memory": MemoryStore(), "file": SQLiteStore(str(tmp_path / "locks.db"))})
    assert isinstance(both, Parking)
    assert (both.wakes, both.shared, both.machines, both.semaphores) == (False, False, False, True)
    poor = Sharded({"memory": MemoryStore(), "majority": Redlock("redlock://h1,h2,h3")})
    assert not isinstance(poor, Parking)
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
    assert list(store._stores) == ["redis://h1/0", "redis://h2/0", "redlock://a,b,c"]
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
    assert found == sorted(keys, key=locks.name)
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


def _swept(store: Parking) -> tuple[object, ...]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(StoreUnavailable):
            if calls := store.sweep("p", ""):
                return calls
    return ()
