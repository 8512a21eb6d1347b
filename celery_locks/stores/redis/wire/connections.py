"""The connections to one Redis or Valkey server, with the timeouts that leases need."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery_locks._runtime import threads
from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.stores.redis.remedies import KEYS, RIGHTS, explained
from celery_locks.stores.redis.wire.client import LONGEST_IDLE_SECONDS, REQUEST_TIMEOUT_SECONDS, Client, Pool
from celery_locks.stores.redis.wire.driver import driver_of
from celery_locks.stores.redis.wire.sentinel import SentinelClient, master
from celery_locks.stores.redis.wire.urls import DEFAULT_TIMEOUTS, Address, Timeouts

if TYPE_CHECKING:
    import redis

    from celery_locks.stores.types import Claim

T = TypeVar("T")

#: The shortest timeout of a request, also for very short leases.
SHORTEST_TIMEOUT_SECONDS = 0.05
#: The shortest timeout of a request whose caller waits for less, if the lease is long enough.
SHORTEST_PATIENCE_SECONDS = 0.25
#: How long a waiter pauses after its connection broke: it must not spin if each new connection breaks immediately.
BROKEN_WAIT_PAUSE_SECONDS = 0.05


class Connections:
    """The clients of one server, which differ in their timeouts and share the connections.

    Args:
        client: The library's client, with the settings of all connections (address, TLS, user, …). If it is a
            Sentinel's, the connections go to the current master.
        name: The address without its password, for errors.
        timeouts: The longest times to connect, and for a request.
    """

    #: The commands and the keys that a user must be allowed.
    rights, keys = RIGHTS, KEYS

    def __init__(self, client: redis.Redis, name: str, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        self.name = name
        self.driver = driver_of(client)
        self._client = client
        self._timeouts = timeouts
        self._clients: dict[tuple[float, int], Client] = {}
        #: The pool of each group of threads that may share connections.
        self._pools: dict[int, Pool] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The library's settings of a connection."""
        return cast(Mapping[str, Any], self._client.connection_pool.connection_kwargs)

    def for_ttl(self, ttl: float | None = None) -> Client:
        """Return a client that times out well before a lease of ``ttl`` seconds is due for renewal."""
        which = (timeout_for(ttl, self._timeouts.request), threads.connection_set())
        return self._clients.get(which) or self._new_client(*which)

    def for_blocking(self, longest: float) -> Client:
        """Return a client for commands that block up to ``longest`` seconds. Its timeout is not much longer."""
        margin = min(self._timeouts.request, max(longest, SHORTEST_PATIENCE_SECONDS))
        return self.for_ttl().with_timeout(longest + margin)

    def twice(self, ttl: float | None, call: Callable[..., T], *args: Any) -> T:
        """Call with a client for a ttl. If its connection breaks or times out, call once more over a new one."""
        client = self.for_ttl(ttl)
        try:
            return call(client, *args)
        except self.driver.broken:
            return call(client.for_repeat(), *args)

    def first_filled(self, lists: Collection[str], seconds: float) -> list[str]:
        """Wait until one of several lists has an element, and take it.

        Args:
            lists: Their keys.
            seconds: How long to wait at most.

        Returns:
            The list that had an element; no list when the time is over. If the connection broke, all lists after a
            pause, since an element may be lost with the connection.
        """
        seconds = max(0.001, seconds)  # 0 would block for ever
        try:
            taken = self.for_blocking(seconds).call("BLPOP", *lists, f"{seconds:.3f}")
        except self.driver.broken:
            time.sleep(min(seconds, BROKEN_WAIT_PAUSE_SECONDS))
            return list(lists)
        return [] if taken is None else [as_text(taken[0])]

    def close_idle(self) -> None:
        """Close the idle connections."""
        for pool in list(self._pools.values()):
            pool.close()

    def close(self) -> None:
        pools, self._clients, self._pools = self._pools, {}, {}
        for pool in list(pools.values()):
            pool.end()

    def _new_client(self, timeout: float, apart: int) -> Client:
        longest_idle = min(self.settings.get("health_check_interval") or LONGEST_IDLE_SECONDS, LONGEST_IDLE_SECONDS)
        pool = self._pools.setdefault(apart, Pool(longest_idle))
        client = Client(self._derived(timeout), timeout, pool, self.driver)
        return self._clients.setdefault((timeout, apart), client)

    def _derived(self, timeout: float) -> redis.Redis:
        pool: Any = self._client.connection_pool
        settings = {
            **pool.connection_kwargs,
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, self._timeouts.connect),
            "retry": self.driver.no_retry(),
        }
        settings.pop("retry_on_error", None)
        settings.pop("health_check_interval", None)  # idle connections are closed, not checked
        if hasattr(pool, "sentinel_manager"):
            return self._by_sentinel(pool, settings)
        made = self.driver.pool(connection_class=pool.connection_class, max_connections=2**31, **settings)
        return cast("redis.Redis", self.driver.client(connection_pool=made))

    def _by_sentinel(self, pool: Any, settings: dict[str, Any]) -> redis.Redis:
        """Return a client with its own Sentinel clients. They hold locks, which greenlets and threads can't share."""
        settings.pop("connection_pool")
        known = pool.sentinel_manager
        asked = {
            **known.sentinel_kwargs,
            # If a Sentinel is silent, the next one is asked. The time of one command should suffice for all of them.
            "socket_timeout": (patience := min(settings["socket_timeout"], REQUEST_TIMEOUT_SECONDS) / 2),
            "socket_connect_timeout": patience,
            "retry": self.driver.no_retry(),
        }
        places = [sentinel.connection_pool.connection_kwargs for sentinel in known.sentinels]
        sentinel = self.driver.sentinel(
            [(place["host"], place["port"]) for place in places],
            min_other_sentinels=known.min_other_sentinels,
            sentinel_kwargs=asked,
            **({"force_master_ip": forced} if (forced := getattr(known, "_force_master_ip", None)) else {}),
        )
        sentinel.sentinels = [SentinelClient(each, self.driver) for each in sentinel.sentinels]
        kind: Any = pool.connection_class
        client = sentinel.master_for(pool.service_name, connection_class=kind, max_connections=2**31, **settings)
        return cast("redis.Redis", client)

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """Return the error to raise for an error of the library, with a remedy."""
        return StoreUnavailable(f"the lock store {self.name} failed: {explained(error, self.rights, self.keys)}")

    def too_few(self, confirmed: int, wanted: int) -> StoreUnavailable:
        """Return the error to raise when too few replicas have a lease."""
        return StoreUnavailable(
            f"the lock store {self.name} has the lease on {confirmed} of the {wanted} replicas that min_replicas asks "
            "for, so it does not count: check the replicas, or lower min_replicas"
        )


def timeout_for(ttl: float | None, longest: float = REQUEST_TIMEOUT_SECONDS) -> float:
    """Return the timeout of a request about a lease of ``ttl`` seconds, at most ``longest``.

    It is rounded down to a power of two, so that leases with various ttls share a few clients.
    """
    if ttl is None or ttl >= 4 * longest:
        return longest
    return float(max(SHORTEST_TIMEOUT_SECONDS, 2.0 ** math.floor(math.log2(ttl / 4))))


def patient_ttl(claim: Claim) -> float:
    """Return the ttl for `timeout_for`, by which two requests of a claim end before its caller gives up."""
    if claim.patience is None:
        return claim.ttl
    return min(claim.ttl, max(4 * SHORTEST_PATIENCE_SECONDS, 2 * claim.patience))


def connections(address: Address) -> Connections:
    """Return the connections to the server at an address, or to the master that Sentinels name.

    ``redis://``, ``rediss://`` (TLS), ``redis+socket:///path?virtual_host=1`` or ``unix:///path?db=1``;
    ``redis+sentinel://host,host/service/1``; and the same with ``valkey`` for ``redis``. User and password are
    percent-decoded.

    Raises:
        LockConfigError: The address is incomplete, or a cluster's.
    """
    if address.topology == "cluster":
        raise LockConfigError(f"{address.masked} is a cluster's address: use RedisClusterStore, or Locks(url)")
    client = master(address) if address.topology == "sentinel" else address.driver.client.from_url(address.url)
    return Connections(client, address.masked, address.timeouts)


def as_text(value: Any) -> str:
    """Return a reply as text, whether the client decodes replies or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
