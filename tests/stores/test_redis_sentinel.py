"""Sentinels: the contract, and a failover in the middle of leases, waits and parked tasks."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from redis.sentinel import Sentinel

from celery_locks import Lease, LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.parking import Parking, Ticket
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.stores.compliance_stores import AnswersOfEachKind, ParkingAnswersOfEachKind, WithShortDelays
from tests.stores.test_exclusion import exclude_each_other
from tests.support.clusters import SERVICE, Sentinels
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


#: Seconds of the leases that the tests below let end: the servers have half of them to answer.
SHORT = 0.5


class TestParking(WithShortDelays, ParkingAnswersOfEachKind):
    short = SHORT

    @pytest.fixture
    def store(self, sentinels: Sentinels) -> Store:
        return open_store(sentinels.url())

    @pytest.fixture
    def another(self, store: Store, sentinels: Sentinels) -> Store:
        return open_store(sentinels.url())


class TestByAClientThatDecodesProtocol3(AnswersOfEachKind):
    short = SHORT

    @pytest.fixture
    def store(self, sentinels: Sentinels) -> Store:
        asked = Sentinel([("127.0.0.1", port) for port in sentinels.ports])
        return RedisStore(asked.master_for(SERVICE, redis.Redis, protocol=3, decode_responses=True))


def test_valkeys_own_client(sentinels: Sentinels) -> None:
    locks = Locks(sentinels.url("valkey", db=3))
    with locks.lock("k") as lease:
        assert [holder.token for holder in Locks(sentinels.url(db=3)).lock("k").holders()] == [lease.token]
        assert Locks(sentinels.url()).lock("k").holders() == (), "that is another database"


def test_eight_processes(sentinels: Sentinels, tmp_path: Path) -> None:
    exclude_each_other(sentinels.url(), tmp_path)


# --- A failover: one for all of these tests, since it takes seconds ---


@dataclass
class Before:
    """What there was before the failover, and what was heard meanwhile."""

    locks: Locks
    kept: Lease
    lost: Lease
    held: Lease
    reasons: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)

    @property
    def parking(self) -> Parking:
        assert isinstance(self.locks.store, Parking)
        return self.locks.store


@pytest.fixture(scope="module")
def failed_over(sentinels: Sentinels) -> Iterator[Before]:
    """The master was killed. Of what it had, the replica knew all but one lease."""
    sentinels.settled()
    locks = Locks(sentinels.url())
    # Renewed often, and for so long that no busy machine lets them end.
    kept, lost, held = (locks.lock(key, ttl=300, renew=1).acquire() for key in ("kept", "lost", "held"))
    before = Before(locks, kept, lost, held)
    lost.on_lost(lambda lease, reason: before.reasons.append(reason))
    before.parking.enter(Claim(locks._space.name("held"), "parked", "parked", 300), Ticket("t:0", "message", "t"))
    sentinels.replicated()
    _forget(sentinels.replica, locks._space.name("lost"))
    new = sentinels.fail_over(RedisServer.kill)

    def served() -> bool:
        try:
            return locks.lock("after", ttl=300).try_acquire() is not None
        except StoreUnavailable as error:
            before.unavailable.append(str(error))
            raise

    eventually(served, 90, "the store doesn't find the new master")
    assert new.running
    yield before
    locks.close()


def _forget(replica: RedisServer, name: str) -> None:
    """As if the master had died before it could send this on."""
    with replica.client() as client:
        client.config_set("replica-read-only", "no")
        assert client.delete(name) == 1
        client.config_set("replica-read-only", "yes")


class TestFailover:
    def test_a_lease_that_reached_the_replica_lives_on(self, failed_over: Before) -> None:
        confirmed = failed_over.kept._confirmed
        eventually(lambda: failed_over.kept._confirmed > confirmed, 60, "it is renewed no more")
        assert failed_over.kept.held
        assert [each.token for each in failed_over.locks.lock("kept").holders()] == [failed_over.kept.token]
        assert failed_over.locks.lock("kept").try_acquire() is None
        assert failed_over.kept.release() is True

    def test_a_lease_that_was_lost_is_reported(self, failed_over: Before) -> None:
        eventually(lambda: failed_over.reasons, 60, "nobody is told")
        assert failed_over.reasons == ["deleted"]
        again = failed_over.locks.lock("lost", ttl=300).acquire(timeout=60)
        assert again.fencing_token > failed_over.lost.fencing_token
        again.release()

    def test_parked_tasks_and_waiters_go_on(self, failed_over: Before) -> None:
        name, store = failed_over.held._claim.name, failed_over.locks.store
        assert failed_over.parking.waiting(name) == 1
        released, (call,) = failed_over.parking.end_run(name, failed_over.held.token, "final", broker="")
        assert (released, call.id, call.message) == (True, "t:0", "message")
        assert isinstance(failed_over.parking.enter(Claim(name, "run", "run", 300), Ticket("t:0", "m", "t")), Granted)
        got: list[Lease] = []
        thread = threading.Thread(
            target=lambda: got.append(failed_over.locks.lock("held", ttl=300).acquire(timeout=60)), daemon=True
        )
        thread.start()
        eventually(lambda: failed_over.parking.waiting(name) == 1, 60)
        store.release(name, "run")
        thread.join(60)
        assert [lease.held for lease in got] == [True]

    def test_between_the_two_masters_nothing_was_granted(self, failed_over: Before, sentinels: Sentinels) -> None:
        assert sentinels.master.running
        assert all(SERVICE in message for message in failed_over.unavailable)


# --- A master that was demoted ---


@pytest.fixture
def pair(start_redis: Callable[..., RedisServer]) -> tuple[RedisServer, RedisServer]:
    return start_redis(), start_redis()


def demote(server: RedisServer, other: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", other.port)


def test_a_demoted_master_is_unavailable_and_not_asked_again(pair: tuple[RedisServer, RedisServer]) -> None:
    server, other = pair
    store = RedisStore(server.url())
    store.acquire(Claim("p:{k}", "a", "a", 60))
    demote(server, other)
    with pytest.raises(StoreUnavailable, match="replica now"):
        store.acquire(Claim("p:{j}", "b", "b", 60))
    with pytest.raises(StoreUnavailable, match="replica now"):
        store.renew([Renewal("p:{k}", "a", 60), Renewal("p:{j}", "a", 60)])
    # The connections were given up: they would lead to it for ever, whatever the address stands for by now.
    assert not store._connections.for_ttl(60).connected
    with server.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert isinstance(store.acquire(Claim("p:{j}", "b", "b", 60)), Granted)


def test_who_waits_at_a_master_that_is_demoted_hears_of_it(pair: tuple[RedisServer, RedisServer]) -> None:
    server, other = pair
    store = RedisStore(server.url())
    store.acquire(Claim("p:{k}", "a", "a", 60))
    assert isinstance(store.acquire(Claim("p:{k}", "b", "b", 60), 60), Refused)
    heard: list[str] = []

    def wait() -> None:
        try:
            while True:
                store.wait("p:{k}", "b", 60)
                store.acquire(Claim("p:{k}", "b", "b", 60), 60)
        except StoreUnavailable as error:
            heard.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    with server.client() as client:
        eventually(lambda: client.info("clients")["blocked_clients"] == 1, 30)
    demote(server, other)
    thread.join(60)
    assert heard


# --- Addresses ---


def test_promise_21_users_of_servers_and_sentinels(start_redis: Callable[..., RedisServer]) -> None:
    """Each has a password of its own; no Sentinel is asked for more than its words."""
    with Sentinels(password="p@ss:w/rd", sentinel_password="sentinels") as servers:
        url = servers.url().replace("p@ss:w/rd", quote("p@ss:w/rd", safe=""))
        locks = Locks(url)
        with locks.lock("k"):
            assert locks.lock("k").locked()
        wrong = Locks(url.replace("sentinel_password=sentinels", "sentinel_password=wrong-secret"))
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+ - Auth\w+: ") as caught:
            wrong.lock("k").try_acquire()
        assert "wrong-secret" not in f"{caught.value} {wrong.url}"


def test_no_holder() -> None:
    with pytest.raises(StoreUnavailable, match=r"redis\+sentinel://127\.0\.0\.1:1,127\.0\.0\.1:2/locks") as caught:
        Locks("redis+sentinel://127.0.0.1:1,127.0.0.1:2/locks").lock("k").try_acquire()
    assert re.search(r"127\.0\.0\.1:2 - ConnectionError: .*refused", str(caught.value))


def test_an_unknown_service(sentinels: Sentinels) -> None:
    with pytest.raises(StoreUnavailable, match="nothing"):
        Locks(sentinels.url().replace(f"/{SERVICE}/", "/nothing/")).lock("k").try_acquire()


@pytest.mark.parametrize(
    "url", ["redis+sentinel://h1,h2", "redis+sentinel://h/locks/x", "redis+sentinel://a:b@h,c:d@i/s"]
)
def test_an_address_that_makes_no_sense(url: str) -> None:
    with pytest.raises(LockConfigError):
        open_store(url)
