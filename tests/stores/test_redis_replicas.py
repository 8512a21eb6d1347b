"""``min_replicas``: a lease counts only when so many replicas have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

import pytest
import redis

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.aio import AsyncLocks
from celery_locks.stores import open_store
from celery_locks.stores.parking import Dropped, Parked, Ticket
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value
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
def store(master: RedisServer, replica: RedisServer) -> Iterator[RedisStore]:
    with closing(RedisStore(master.url() + "?min_replicas=1")) as store:
        yield store


@pytest.fixture
def careless(master: RedisServer, replica: RedisServer) -> Iterator[RedisStore]:
    with closing(RedisStore(master.url())) as store:
        yield store


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


def test_too_few_replicas_are_reported_and_the_lease_released(
    store: RedisStore, careless: RedisStore, replica: RedisServer
) -> None:
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("a"))
    assert store.held(NAME) == 0
    with replica.paused():
        assert isinstance(careless.acquire(claim("b")), Granted), "nobody else asks for replicas"
        assert isinstance(store.acquire(claim("c")), Refused), "a refusal needs no replica"
    assert careless.release(NAME, "b")
    assert isinstance(store.acquire(claim("d")), Granted)


def test_a_renewal_that_is_not_confirmed_does_not_count(store: RedisStore, replica: RedisServer) -> None:
    store.acquire(claim("a", ttl=60))
    with replica.paused():
        with pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
            store.renew([Renewal(NAME, "a", 2)])
        assert store.held(NAME) == 1, "a renewal is not undone: the lease has its time still"
    assert store.renew([Renewal(NAME, "a", 2)]) == [None]


def test_an_adopted_lease_is_not_confirmed_by_enough_replicas(store: RedisStore, replica: RedisServer) -> None:
    store.acquire(claim("call", ttl=60, task_id="t"))
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("run", adopts="call"))
    assert store.held(NAME) == 0
    with replica.paused(), pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
        store.acquire(claim("newest", replaces=True))
    assert isinstance(store.acquire(claim("run")), Granted)


def test_a_parked_task_whose_turn_is_not_confirmed_is_not_done(store: RedisStore, replica: RedisServer) -> None:
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


# --- A server that refuses writes while replicas are missing (min-replicas-to-write)

Refusing = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def refusing(master: RedisServer, replica: RedisServer) -> Iterator[Refusing]:
    """Have the master refuse writes, as it does while it has fewer replicas than it asks for."""
    with master.client() as client:

        @contextmanager
        def refusing() -> Iterator[None]:
            client.config_set("min-replicas-to-write", 2)
            try:
                yield
            finally:
                client.config_set("min-replicas-to-write", 0)

        with refusing():
            try:
                client.eval("redis.call('SET', KEYS[1], 1)", 1, "tried")
            except redis.ResponseError:
                pass
            else:
                pytest.skip("before Redis 7 a script writes all the same")
        yield refusing


CALLS: dict[str, Callable[[RedisStore], object]] = {
    "release": lambda store: store.release(NAME, "a"),
    "release with a value": lambda store: store.release(NAME, "a", Value("1", 60)),
    "force_release": lambda store: store.force_release(NAME),
    "force_release of one": lambda store: store.force_release(NAME, "a"),
    "renew": lambda store: store.renew([Renewal(NAME, "a", 60)]),
    "renew many": lambda store: store.renew([Renewal(NAME, "a", 60)] * 2),
    "shrink": lambda store: store.shrink(NAME, "a", 1),
    "end_run": lambda store: store.end_run(NAME, "a", "final", broker=""),
    "acquire again": lambda store: store.acquire(claim("a", limit=2)),
    "adopt": lambda store: store.acquire(claim("new", adopts="a")),
    "replace": lambda store: store.acquire(claim("new", replaces=True)),
}


@pytest.mark.parametrize("situation", ["sole", "several", "line"])
def test_promise_35_a_refused_write_changes_nothing(careless: RedisStore, refusing: Refusing, situation: str) -> None:
    assert isinstance(careless.acquire(claim("a", ttl=60, limit=3, permits=2)), Granted)
    if situation == "several":
        assert isinstance(careless.acquire(claim("b", ttl=60, limit=3)), Granted)
    elif situation == "line":
        assert isinstance(careless.acquire(claim("b", ttl=60, limit=2), line_up=60), Refused)
    permits, waiting = careless.held(NAME), careless.waiting(NAME)
    with refusing():
        for call in CALLS.values():
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                call(careless)
    assert (careless.held(NAME), careless.waiting(NAME)) == (permits, waiting)
    assert careless.value(NAME) is None
    assert careless.renew([Renewal(NAME, "a", 60)]) == [None]
    assert careless.release(NAME, "a")


def test_promise_35_a_refused_release_is_no_loss(careless: RedisStore, refusing: Refusing) -> None:
    locks, lost = Locks(careless), list[object]()
    lease = locks.lock("a", ttl=60).acquire()
    lease.on_lost(lambda *_: lost.append(_))
    with refusing(), pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        lease.release()
    assert not lease.held, "it is renewed no more"
    assert lease.release()
    assert not locks.lock("a").locked()
    assert lost == []


def test_promise_35_a_block_that_ends_meanwhile_is_released_afterwards(
    careless: RedisStore, refusing: Refusing
) -> None:
    locks = Locks(careless)
    with ExitStack() as stack:
        with locks.lock("a", ttl=60) as lease:
            stack.enter_context(refusing())
        assert locks.lock("a").locked()
    eventually(lambda: not locks.lock("a").locked(), 30)
    assert not lease.lost


def test_promise_35_coroutines_release_afterwards(careless: RedisStore, refusing: Refusing) -> None:
    async def main() -> bool:
        async with AsyncLocks(careless) as locks:
            lease = await locks.lock("a", ttl=60).acquire()
            with refusing(), pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await lease.release()
            return await lease.release()

    assert asyncio.run(main())
    assert not Locks(careless).lock("a").locked()


def test_promise_35_what_was_granted_on_too_few_replicas_is_released_afterwards(
    store: RedisStore, refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica goes while an acquisition waits for it; from then on the server refuses the release, too."""
    run, locks = store._run, Locks(store)
    with ExitStack() as stack:

        def refused(*args: Any, **options: Any) -> Any:
            stack.enter_context(refusing())
            monkeypatch.setattr(store, "_run", run)
            return run(*args, **options)

        monkeypatch.setattr(store, "_run", refused)
        monkeypatch.setattr(store, "_min_replicas", 2)
        with pytest.raises(StoreUnavailable, match="1 of the 2 replicas"):
            locks.lock("a", ttl=60).try_acquire()
        assert locks.lock("a").locked()
    eventually(lambda: not locks.lock("a").locked(), 30)


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5", ""])
def test_a_number_that_makes_no_sense(wrong: str) -> None:
    with pytest.raises(LockConfigError, match="min_replicas"):
        open_store(f"redis://localhost?min_replicas={wrong}")


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "many"])
def test_a_number_that_makes_no_sense_for_a_client(wrong: Any) -> None:
    with pytest.raises(LockConfigError, match="min_replicas"):
        RedisStore(redis.Redis(), min_replicas=wrong)
