"""Servers that speak nothing but TLS, with clients, Sentinels and each other, and take nobody without a certificate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
import redis
from redis.sentinel import Sentinel

from celery_locks import Lease, Locks, StoreUnavailable
from celery_locks.stores.redis import hash_tags
from celery_locks.stores.redis.cluster import RedisClusterStore
from celery_locks.stores.redis.store import RedisStore
from tests.support.clusters import SERVICE, Cluster, Sentinels
from tests.support.servers import RedisServer
from tests.support.tls import Certificates
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SCHEMES = pytest.mark.parametrize("scheme", ["rediss", "valkeys"])


def works(locks: Locks, key: str = "k") -> None:
    """Each way that commands go: alone, with others, and blocking."""
    lock = locks.lock(key, ttl=60)
    got: list[Lease] = []
    with lock as lease:
        thread = threading.Thread(target=lambda: got.append(lock.acquire(timeout=60)), daemon=True)
        thread.start()
        eventually(lambda: locks.info(key).waiting == 1, 30)
        lease.update([1])
        lease.extend(90)
        assert key in {item.key for item in locks.list().items}
    thread.join(60)
    assert [each.release() for each in got] == [True]
    assert locks.value(key) == [1]
    assert locks.delete(key)


def renewed(lease: Lease) -> bool:
    before = lease._confirmed
    return eventually(lambda: lease._confirmed > before, 60, "it is renewed no more")


def key_on(cluster: Cluster, master: RedisServer, locks: Locks) -> str:
    """The key of a lock that a master serves."""
    return next(key for key in map(str, range(1000)) if cluster.owner(slot(locks, key)) is master)


def slot(locks: Locks, key: str) -> int:
    return hash_tags.SLOT_OF[hash_tags.tag_of(locks._space.name(key))]


class TestCluster:
    @SCHEMES
    def test_an_address(self, cluster_by_tls: Cluster, certificates: Certificates, scheme: str) -> None:
        locks = Locks(cluster_by_tls.url(scheme, certificates.query))
        for master in cluster_by_tls.masters:
            works(locks, key_on(cluster_by_tls, master, locks))
        assert locks.stats().holders == 0
        locks.close()

    def test_a_client_of_ones_own(self, cluster_by_tls: Cluster, certificates: Certificates) -> None:
        port = cluster_by_tls.masters[1].port
        with redis.RedisCluster(host="127.0.0.1", port=port, ssl=True, **certificates.parameters) as client:
            works(Locks(RedisClusterStore(client)))

    def test_a_lease_goes_with_its_slot(self, cluster_by_tls: Cluster, certificates: Certificates) -> None:
        """The server's answer says where to, and not that it is by TLS."""
        locks = Locks(cluster_by_tls.url("rediss", certificates.query))
        where = slot(locks, "moves")
        with locks.lock("moves", ttl=120, renew=0.5) as lease:
            source, target = cluster_by_tls.begin_move(where)
            while cluster_by_tls.move_keys(where, source, target):
                pass
            cluster_by_tls.end_move(where, target)
            renewed(lease)
            assert [holder.token for holder in locks.lock("moves").holders()] == [lease.token]
        assert not lease.lost

    def test_a_client_that_trusts_no_authority_or_shows_no_certificate(
        self, cluster_by_tls: Cluster, certificates: Certificates
    ) -> None:
        refused(lambda query: cluster_by_tls.url("rediss", query), certificates)


class TestSentinel:
    @SCHEMES
    def test_an_address(self, sentinels_by_tls: Sentinels, certificates: Certificates, scheme: str) -> None:
        works(Locks(sentinels_by_tls.url(scheme, db=3, query=certificates.query)))

    def test_a_client_of_ones_own(self, sentinels_by_tls: Sentinels, certificates: Certificates) -> None:
        tls = {"ssl": True, **certificates.parameters}
        asked = Sentinel([("127.0.0.1", port) for port in sentinels_by_tls.ports], sentinel_kwargs=tls)
        works(Locks(RedisStore(asked.master_for(SERVICE, **tls))))

    def test_a_lease_lives_through_a_failover(self, sentinels_by_tls: Sentinels, certificates: Certificates) -> None:
        sentinels_by_tls.settled()
        locks = Locks(sentinels_by_tls.url("rediss", query=certificates.query))
        with locks.lock("long", ttl=300, renew=0.5) as lease:
            sentinels_by_tls.replicated()
            new = sentinels_by_tls.fail_over()
            renewed(lease)
            with new.client() as client:
                assert client.exists(locks._space.name("long"))
        assert not lease.lost

    def test_a_client_that_trusts_no_authority_or_shows_no_certificate(
        self, sentinels_by_tls: Sentinels, certificates: Certificates
    ) -> None:
        refused(lambda query: sentinels_by_tls.url("rediss", query=query), certificates)


def refused(url: Callable[[str], str], certificates: Certificates) -> None:
    """No lease for a client that can't know whom it talks to, nor for one that the servers can't know."""
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        Locks(url("")).lock("k").try_acquire()
    with pytest.raises(StoreUnavailable):
        Locks(url(urlencode({"ssl_ca_certs": certificates.authority}))).lock("k").try_acquire()
    with pytest.raises(StoreUnavailable):
        Locks(url("").replace("rediss", "redis", 1)).lock("k").try_acquire()
