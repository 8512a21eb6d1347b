"""Redis Cluster: the contract, and what happens when slots move and masters fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.aio import AsyncLocks
from celery_locks.keys.names import key_and_part
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.listing import NameRange
from celery_locks.stores.parking import Dispatch, Parked, Ticket
from celery_locks.stores.redis import hash_tags
from celery_locks.stores.redis.cluster import RedisClusterStore
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from celery_locks.testing import ListingCompliance, ParkingCompliance, StoreCompliance, ValueCompliance
from celery_locks.testing.compliance.base import ODD_NAMES
from tests.stores.compliance_stores import OnAMovedServerClock
from tests.stores.test_exclusion import exclude_each_other
from tests.support.clusters import Cluster
from tests.support.loop import on_a_loop, soon
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


class OnACluster(OnAMovedServerClock):
    short = 0.5  # the servers have half of it to answer, also on a busy machine

    @pytest.fixture
    def store(self, redis_cluster: Cluster) -> Store:
        return open_store(redis_cluster.url())

    @pytest.fixture
    def another(self, store: Store, redis_cluster: Cluster) -> Store:
        return RedisClusterStore(redis_cluster.url())


class TestStore(OnACluster, StoreCompliance):
    pass


class TestParkingByAClientThatDecodesProtocol3(OnAMovedServerClock, ParkingCompliance):
    short = OnACluster.short

    @pytest.fixture
    def store(self, redis_cluster: Cluster) -> Iterator[Store]:
        port = redis_cluster.masters[1].port
        with redis.RedisCluster(host="127.0.0.1", port=port, protocol=3, decode_responses=True) as client:
            yield RedisClusterStore(client)

    @pytest.fixture
    def another(self, store: Store, redis_cluster: Cluster) -> Store:
        return RedisClusterStore(redis_cluster.url())


class TestListing(OnACluster, ListingCompliance):
    pass


class TestValuesByValkeysOwnClient(ValueCompliance):
    @pytest.fixture
    def store(self, redis_cluster: Cluster) -> Store:
        return RedisClusterStore(redis_cluster.url("valkey"))

    @pytest.fixture(autouse=True)
    def _a_cluster(self, redis_cluster: Cluster) -> None:
        self._cluster = redis_cluster

    @contextmanager
    def losing_a_reply(self, store: Store) -> Iterator[Store]:
        """By proxies before all masters, one of which is the lock's."""
        with closing(RedisClusterStore(self._cluster.url())) as unlucky, ExitStack() as stack:
            proxies = []
            for master in self._cluster.masters:
                proxies.append(proxy := stack.enter_context(Proxy(master.port)))
                proxy.drop_reply(1, command="EVALSHA")
                node = unlucky._nodes._connect(("127.0.0.1", proxy.port))
                node.place = ("127.0.0.1", master.port)
                unlucky._nodes._nodes[node.place] = node
            yield unlucky
            assert sum(proxy.dropped for proxy in proxies) == 1


def claim(token: str, name: str = "p:{k}", ttl: float = 60, **options: int) -> Claim:
    return Claim(name, token, f"owner {token}", ttl, **options)  # type: ignore[arg-type]


@pytest.fixture
def store(redis_cluster: Cluster) -> Iterator[RedisClusterStore]:
    redis_cluster.flush()
    made = RedisClusterStore(redis_cluster.url())
    yield made
    made.close()


def slot(name: str) -> int:
    return hash_tags.SLOT_OF[hash_tags.tag_of(name)]


async def in_line(locks: AsyncLocks, number: int) -> bool:
    return (await locks.info("moves")).waiting == number


def names_on_each(cluster: Cluster) -> list[str]:
    """The name of a lock on each of the masters, in their order."""
    found: dict[int, str] = {}
    for number in range(1000):
        name = f"p:{{{number}}}"
        found.setdefault(cluster.owner(slot(name)).port, name)
        if len(found) == 3:
            break
    return [found[master.port] for master in cluster.masters]


class TestParts:
    def test_tags_lie_in_the_slots_that_the_servers_say(self, redis_cluster: Cluster) -> None:
        for tag, where in list(hash_tags.SLOT_OF.items())[::16]:
            assert redis_cluster.call(redis_cluster.masters[0], "CLUSTER", "KEYSLOT", f"{tag}p:{{k}}:line") == where

    def test_tags_are_as_they_were(self) -> None:
        """Other tags, or another way to deal names out, and processes of two releases would not exclude each other."""
        assert hash_tags.TAGS[:3] == ("{14}", "{10}", "{100}")
        assert len(set(hash_tags.TAGS)) == hash_tags.PARTITIONS == 128
        assert hash_tags.tag_of("celery-locks:{user:7}") == "{122}"

    def test_each_master_has_its_share(self, redis_cluster: Cluster) -> None:
        ports = Counter(redis_cluster.owner(where).port for where in hash_tags.SLOT_OF.values())
        assert sorted(ports.values()) == [42, 43, 43]
        used = Counter(hash_tags.tag_of(f"celery-locks:{{user:{number}}}") for number in range(12_800))
        assert len(used) == 128
        assert max(used.values()) < 200

    @pytest.mark.parametrize("key", [*ODD_NAMES.values(), "}", "k"])
    def test_all_of_a_lock_is_in_one_slot(self, redis_cluster: Cluster, store: RedisClusterStore, key: str) -> None:
        locks = Locks(store)
        name = locks._space.name(key)
        store.acquire(claim("a", name))
        store.acquire(claim("b", name), line_up=60)
        store.enter(claim("c", name), Ticket("t:0", "message", "t"))
        store.write(name, "a", "text", 60)
        store.release(name, "a")
        keys = redis_cluster.keys()
        assert len(keys) >= 8
        assert {redis.crc.key_slot(each.encode()) for each in keys} == {slot(name)}
        assert [item.key for item in locks.list().items] == [key]


class TestCommands:
    def test_an_acquire_and_a_release_are_a_command_each(
        self, redis_cluster: Cluster, store: RedisClusterStore
    ) -> None:
        store.acquire(claim("b"))
        store.release("p:{k}", "b")
        before = evals(redis_cluster)
        store.acquire(claim("a"))
        store.release("p:{k}", "a")
        assert sum(evals(redis_cluster)) - sum(before) == 2

    def test_a_master_that_does_not_know_the_scripts(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        names = names_on_each(redis_cluster)
        for name in names:
            assert isinstance(store.acquire(claim("a", name)), Granted)
        redis_cluster.call(redis_cluster.masters[1], "SCRIPT", "FLUSH")
        assert store.renew([Renewal(name, "a", 60) for name in names]) == [None] * 3
        redis_cluster.call(redis_cluster.masters[2], "SCRIPT", "FLUSH")
        assert all(store.release(name, "a") for name in names)
        redis_cluster.call(redis_cluster.masters[0], "SCRIPT", "FLUSH")
        assert store.stats("p", 1.0).holders == 0

    def test_a_page_asks_each_part_twice_at_most(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        locks = Locks(store)
        for number in range(600):
            store.acquire(claim("a", locks._space.name(f"{number:03}")))
        locks.list()
        before = evals(redis_cluster)
        page = locks.list(count=500)
        assert [item.key for item in page.items] == [f"{number:03}" for number in range(500)]
        assert page.next == "499"
        assert sum(evals(redis_cluster)) - sum(before) <= 2 * hash_tags.PARTITIONS

    def test_a_wake_up_comes_immediately(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        locks = Locks(store)
        lease, waited = locks.lock("k").acquire(), list[float]()

        def wait() -> None:
            got = Locks(redis_cluster.url()).lock("k").acquire(timeout=60)
            waited.append(time.monotonic())
            got.release()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        eventually(lambda: store.waiting(locks._space.name("k")) == 1, 30)
        lease.release()
        thread.join(30)
        assert waited


def evals(cluster: Cluster) -> list[int]:
    """How many scripts each master was asked for."""
    found = []
    for master in cluster.masters:
        with master.client() as client:
            found.append(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])
    return found


class TestMovingSlots:
    def test_a_lease_goes_with_its_slot(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        """MOVED: who knew the old master is told, by each way to ask."""
        name = "p:{moves}"
        granted = store.acquire(claim("a", name))
        others = [RedisClusterStore(redis_cluster.url()) for _ in range(3)]
        for other in others:
            assert other.held(name) == 1  # so it knows where the slot was
        store.acquire(claim("b", name), line_up=60)
        self.move(redis_cluster, slot(name))
        assert store.renew([Renewal(name, "a", 90)]) == [None]
        assert store.acquire(claim("a", name)) == granted, "the fencing token went along"
        assert others[0].write(name, "a", "text", 60)
        assert others[1].value(name) == "text"
        assert [state.name for state in others[2].page(NameRange("p", "p:{", "", 100)).items] == [name]
        start = time.monotonic()
        store.release(name, "a")
        store.wait(name, "b", 30)
        assert time.monotonic() - start < 25, "the one in line was not woken"
        assert isinstance(store.acquire(claim("b", name)), Granted)

    def test_one_that_waits_while_its_slot_moves_looks_again(
        self, redis_cluster: Cluster, store: RedisClusterStore
    ) -> None:
        name = "p:{waits}"
        store.acquire(claim("a", name))
        store.acquire(claim("b", name), line_up=60)
        waiter = RedisClusterStore(redis_cluster.url())
        thread = threading.Thread(target=waiter.wait, args=(name, "b", 60), daemon=True)
        thread.start()
        master = redis_cluster.owner(slot(name))
        eventually(lambda: redis_cluster.call(master, "INFO", "clients")["blocked_clients"] == 1, 30)
        self.move(redis_cluster, slot(name))
        thread.join(30)
        assert not thread.is_alive()

    def test_while_a_slot_moves_nothing_is_granted_or_lost(
        self, redis_cluster: Cluster, store: RedisClusterStore
    ) -> None:
        """Half of a lock's keys here, half there: a script that ran on either side would find the lock free."""
        name, free = "p:{torn}", self.other_name("p:{torn}")
        granted = store.acquire(claim("a", name, ttl=3))
        store.write(name, "a", "text", 60)
        where = slot(name)
        source, target = redis_cluster.begin_move(where)
        try:
            moved = 0
            while True:  # whichever keys are there and whichever here, nobody gets in
                for store_now in (store, RedisClusterStore(redis_cluster.url())):
                    for refused in (claim("b", name, ttl=0.4), claim("b", free, ttl=0.4)):
                        with pytest.raises(StoreUnavailable):
                            store_now.acquire(refused)
                if not redis_cluster.move_keys(where, source, target, most=2):
                    break
                moved += 1
            assert moved >= 2, "the lock's keys went in one step"
            assert store.value(name) == "text", "ASK: it is there already"
            with pytest.raises(StoreUnavailable):
                store.renew([Renewal(name, "a", 0.4)])
        finally:
            redis_cluster.end_move(where, target)
        assert isinstance(store.acquire(claim("b", free)), Granted)
        if isinstance(again := store.acquire(claim("a", name)), Granted):
            assert again.fencing_token >= granted.fencing_token  # type: ignore[union-attr]
        assert store.release(name, "a")

    def test_a_lease_lives_through_a_move(self, redis_cluster: Cluster) -> None:
        locks = Locks(redis_cluster.url())
        lock = locks.lock("long", ttl=120, renew=0.2)
        with lock as lease:
            where = slot(locks._space.name("long"))
            source, target = redis_cluster.begin_move(where)
            while redis_cluster.move_keys(where, source, target, most=1):
                assert lease.held
            redis_cluster.end_move(where, target)
            before = lease._confirmed
            eventually(lambda: lease._confirmed > before, 60, "it is renewed no more")
            assert [holder.token for holder in lock.holders()] == [lease.token]
        assert not lease.lost

    @on_a_loop
    async def test_coroutines_in_line_go_on_where_their_slot_went(self, redis_cluster: Cluster) -> None:
        locks, served = AsyncLocks(redis_cluster.url(), prefix="aio"), list[int]()
        lease = await locks.lock("moves", ttl=120).acquire()

        async def use(number: int) -> None:
            async with locks.lock("moves", ttl=120):
                served.append(number)

        users = []
        for number in range(5):
            users.append(asyncio.ensure_future(use(number)))
            await soon(lambda: in_line(locks, len(users)))
        await asyncio.to_thread(self.move, redis_cluster, slot(locks.plain._space.name("moves")))
        await lease.release()
        await asyncio.gather(*users)
        assert served == [0, 1, 2, 3, 4]
        await locks.close()

    def move(self, cluster: Cluster, where: int) -> None:
        source, target = cluster.begin_move(where)
        while cluster.move_keys(where, source, target):
            pass
        cluster.end_move(where, target)

    def other_name(self, name: str) -> str:
        """A lock in the same part."""
        tag = hash_tags.tag_of(name)
        return next(other for number in range(10**6) if hash_tags.tag_of(other := f"p:{{o{number}}}") == tag)


class TestMastersThatFail:
    def test_those_on_the_others_are_renewed(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        names = names_on_each(redis_cluster)
        for name in names:
            store.acquire(claim("a", name))
        renewals = [Renewal(name, "a", 8) for name in names]
        hangs: RedisServer = redis_cluster.masters[1]
        with hangs.paused():
            assert store.renew(renewals) == [None, "unreachable", None]
            with pytest.raises(StoreUnavailable, match=r"in time|Timeout"):
                store.renew(renewals[1:2])
            with pytest.raises(StoreUnavailable):
                store.ping()
        eventually(lambda: store.renew(renewals) == [None] * 3, 60)

    def test_connections_that_were_cut_are_made_anew(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        names = names_on_each(redis_cluster)
        for name in names:
            store.acquire(claim("a", name))
        for master in redis_cluster.masters:
            redis_cluster.call(master, "CLIENT", "KILL", "TYPE", "normal")
        assert store.renew([Renewal(name, "a", 60) for name in names]) == [None] * 3
        for master in redis_cluster.masters:
            redis_cluster.call(master, "CLIENT", "KILL", "TYPE", "normal")
        assert store.release(names[2], "a")


@pytest.fixture
def with_replica() -> Iterator[tuple[Cluster, RedisServer]]:
    """A cluster of this test's own, and a replica of its second master."""
    with Cluster() as cluster, cluster.replica_of(cluster.masters[1]) as replica:
        yield cluster, replica


def test_a_lease_lives_through_the_death_of_its_master(with_replica: tuple[Cluster, RedisServer]) -> None:
    cluster, replica = with_replica
    locks = Locks(cluster.url())
    keys = [key_and_part(f"celery-locks:{{{number}}}")[0] for number in range(20)]
    leases = [locks.lock(key, ttl=300, renew=0.5).acquire() for key in keys]
    master = cluster.masters[1]
    there = {lease.key for lease in leases if cluster.owner(slot(lease._claim.name)) is master}
    assert 0 < len(there) < 20
    written = cluster.call(master, "INFO", "replication")["master_repl_offset"]
    eventually(lambda: cluster.call(replica, "INFO", "replication")["slave_repl_offset"] >= written, 60)
    master.kill()
    died = leases[0]._clock.now()
    for lease in leases:
        if lease.key not in there:
            eventually(lambda lease=lease: lease._confirmed > died, 60, "a lease on a master that lives is not renewed")
    cluster.call(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
    for lease in leases:
        eventually(lambda lease=lease: lease._confirmed > died, 60, "the new master is not found")
        assert lease.release() is True
    locks.close()


class TestAddresses:
    def test_any_node_leads_to_all(self, redis_cluster: Cluster) -> None:
        redis_cluster.flush()
        store = RedisClusterStore(f"redis+cluster://127.0.0.1:1,127.0.0.1:{redis_cluster.masters[2].port}/0")
        for name in names_on_each(redis_cluster):
            assert isinstance(store.acquire(claim("any", name)), Granted)
            assert store.release(name, "any")
        store.ping()

    def test_promise_21_a_user_with_the_rights_that_the_error_names(self, redis_cluster: Cluster) -> None:
        def allow(*rights: str) -> None:
            for master in redis_cluster.masters:
                redis_cluster.call(master, "ACL", "SETUSER", "locks", "reset", "on", ">se%40cret", *rights)

        url = redis_cluster.url().replace("//", "//locks:se%2540cret@", 1)
        allow("+ping", "+cluster|slots")
        with pytest.raises(StoreUnavailable) as caught:
            Locks(url).lock("k").try_acquire()
        keys, _, named = str(caught.value).partition("give it the keys ")[2].partition(", and allow this user ")
        allow(*named.split(), keys)
        locks = Locks(url)
        with locks.lock("k") as lease:
            lease.update([1])
            assert [item.key for item in locks.list().items] == ["k"]
        assert locks.delete("k")

    def test_no_holder(self) -> None:
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://u:\*\*\*@127\.0\.0\.1:1"):
            Locks("redis+cluster://u:secret@127.0.0.1:1,127.0.0.1:2").lock("k").try_acquire()

    @pytest.mark.parametrize("url", ["redis+cluster://h/1", "redis+cluster://a:b@h,c:d@h", "redis+cluster://,h"])
    def test_what_makes_no_sense_is_refused(self, url: str) -> None:
        with pytest.raises(LockConfigError):
            open_store(url)

    def test_a_cluster_is_no_single_server(self, redis_cluster: Cluster) -> None:
        with pytest.raises(LockConfigError, match=r"redis\+cluster"):
            RedisStore(redis_cluster.url())

    def test_without_replicas_none_can_be_asked_for(self, redis_cluster: Cluster, store: RedisClusterStore) -> None:
        careful = RedisClusterStore(redis_cluster.url() + "?min_replicas=1")
        with pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
            careful.acquire(claim("a"))
        assert store.held("p:{k}") == 0
        store.acquire(claim("a"))
        with pytest.raises(StoreUnavailable, match="0 of the 1 replicas"):
            careful.renew([Renewal("p:{k}", "a", 60)])


def test_parked_tasks_are_found_by_their_moment(store: RedisClusterStore) -> None:
    store.acquire(claim("a"))
    answer = store.enter(claim("b"), Ticket("t:0", "message", "t", wait=0.3))
    assert isinstance(answer, Parked)
    start = time.monotonic()
    calls: tuple[Dispatch, ...] = ()
    while not calls and time.monotonic() < start + 30:
        store.await_due("p", "", 5.0)
        calls = store.sweep("p", "")
    assert [call.id for call in calls] == ["t:0"]
    assert calls[0].name == "p:{k}"
    assert isinstance(store.acquire(claim("c")), Refused)


def test_eight_processes(redis_cluster: Cluster, tmp_path: Path) -> None:
    exclude_each_other(redis_cluster.url(), tmp_path)
