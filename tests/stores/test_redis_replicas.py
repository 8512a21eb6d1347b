"""``min_replicas``: a lease counts only when so many replicas have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Claim, Granted, Refused, Renewal
from celery_locks.stores.parking import Dropped, Parked, Ticket
from celery_locks.stores.redis.store import RedisStore
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.redis

TICKET = Ticket("t:0", "message", "t")
NAME = "p:{k}"


@pytest.fixture(scope="module")
def master() -> Iterator[RedisServer]:
    with RedisServer(options={"repl-diskless-sync-delay": "0"}) as server:
        yield server


@pytest.fixture(scope="module")
def connected(master: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(options={"replicaof": f"127.0.0.1 {master.port}"}) as server:
        yield server


@pytest.fixture
def replica(master: RedisServer, connected: RedisServer) -> RedisServer:
    """In step with the master, which is empty."""
    with master.client() as client:
        client.flushall()
        eventually(lambda: client.execute_command("WAIT", 1, 1000) == 1, 60, "the replica is not in step")
    return connected


@pytest.fixture
def store(master: RedisServer, replica: RedisServer) -> RedisStore:
    return RedisStore(master.url() + "?min_replicas=1")


@pytest.fixture
def careless(master: RedisServer, replica: RedisServer) -> RedisStore:
    return RedisStore(master.url())


def claim(token: str, ttl: float = 2, **options: Any) -> Claim:
    return Claim(NAME, token, f"owner {token}", ttl, **options)


def deadline(client: redis.Redis, token: str) -> float:
    """That of a holder, in microseconds; 0 where it has none."""
    sole, terms = client.hmget(NAME, "sole", "terms")
    return float(terms.split()[0] if sole == token else client.zscore(f"{NAME}:until", token) or 0)


def test_what_was_granted_is_on_the_replica(store: RedisStore, replica: RedisServer) -> None:
    with replica.client() as client:
        for number in range(50):
            assert isinstance(store.acquire(claim(f"{number}", ttl=60, limit=100)), Granted)
            assert deadline(client, f"{number}"), "granted before the replica had it"
        assert store.renew([Renewal(NAME, f"{number}", 900) for number in range(50)]) == [None] * 50
        ends = [deadline(client, f"{number}") for number in range(50)]
        assert min(ends) > max(ends) - 120e6
        assert store.renew([Renewal(NAME, "0", 9000)]) == [None]
        assert deadline(client, "0") > max(ends)
    assert store.release(NAME, "0")


def test_a_shortfall_is_told_and_undone(store: RedisStore, careless: RedisStore, replica: RedisServer) -> None:
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("a"))
    assert store.held(NAME) == 0
    with replica.paused():
        assert isinstance(careless.acquire(claim("b")), Granted), "nobody else asks for replicas"
        assert isinstance(store.acquire(claim("c")), Refused), "a refusal needs no replica"
    assert careless.release(NAME, "b")
    assert isinstance(store.acquire(claim("d")), Granted)


def test_a_renewal_that_falls_short_does_not_count(store: RedisStore, replica: RedisServer) -> None:
    store.acquire(claim("a", ttl=60))
    with replica.paused():
        with pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
            store.renew([Renewal(NAME, "a", 2)])
        assert store.held(NAME) == 1, "a renewal is not undone: the lease has its time still"
    assert store.renew([Renewal(NAME, "a", 2)]) == [None]


def test_a_lease_that_is_handed_over_falls_short(store: RedisStore, replica: RedisServer) -> None:
    store.acquire(claim("call", ttl=60, task_id="t"))
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("run", adopts="call"))
    assert store.held(NAME) == 0
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("newest", replaces=True))
    assert isinstance(store.acquire(claim("run")), Granted)


def test_a_parked_task_whose_turn_falls_short_is_not_done(store: RedisStore, replica: RedisServer) -> None:
    """Undone like any other release, its ticket would be: its message, sent again, would be dropped."""
    store.acquire(claim("a", ttl=60))
    assert isinstance(store.enter(claim("b"), TICKET), Parked)
    assert store.end_run(NAME, "a", "final", broker="")[1][0].id == "t:0"
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.enter(claim("b"), TICKET)
    assert store.held(NAME) == 0
    assert not store.release(NAME, "b"), "as the lock does in the background, after an error"
    assert isinstance(store.enter(claim("b"), TICKET), Granted)
    assert store.end_run(NAME, "b", "final", broker="") == (True, ())
    assert store.enter(claim("c"), TICKET) == Dropped("done")


def test_parking_needs_no_replica(store: RedisStore, careless: RedisStore, replica: RedisServer) -> None:
    careless.acquire(claim("a", ttl=60))
    with replica.paused():
        assert isinstance(store.park(claim("b"), TICKET), Parked)


def test_outside_tasks(master: RedisServer, replica: RedisServer) -> None:
    locks = Locks(RedisStore(redis.Redis.from_url(master.url(), protocol=3, decode_responses=True), min_replicas=1))
    with locks.lock("k") as lease:
        lease.extend(60)
    with replica.paused(), pytest.raises(StoreUnavailable):
        locks.lock("k", ttl=1).acquire(timeout=0.1)
    eventually(lambda: not locks.lock("k").locked(), 30)


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", ""])
def test_a_number_that_makes_no_sense(wrong: str) -> None:
    with pytest.raises(LockConfigError, match="min_replicas"):
        open_store(f"redis://localhost?min_replicas={wrong}")


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "many"])
def test_a_number_that_makes_no_sense_for_a_client(wrong: Any) -> None:
    with pytest.raises(LockConfigError, match="min_replicas"):
        RedisStore(redis.Redis(), min_replicas=wrong)
