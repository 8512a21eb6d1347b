"""Connections to a Redis or Valkey, and what their errors mean for a lock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celery_locks._runtime import threads
from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.stores.redis.remedies import KEYS, RIGHTS, explained
from celery_locks.stores.redis.wire.client import LONGEST_IDLE_SECONDS, TIMEOUT, Client, Pool
from celery_locks.stores.redis.wire.driver import driver_of
from celery_locks.stores.redis.wire.sentinel import Asked, master
from celery_locks.stores.redis.wire.urls import DEFAULT_TIMEOUTS, Address, Timeouts

if TYPE_CHECKING:
    import redis

    from celery_locks.stores.types import Claim

T = TypeVar("T")

#: The shortest time that a server is given to answer, however short the lease.
SHORTEST_TIMEOUT = 0.05
#: The shortest time that a server is given to answer, however little its caller waits, where the lease allows it.
SHORTEST_PATIENCE_SECONDS = 0.25
#: How long a waiter pauses whose connection broke, in seconds: where each one breaks immediately, it must not spin.
BROKEN_WAIT_PAUSE_SECONDS = 0.05


class Connections:
    """Clients of one server, that differ in how long they wait for an answer. They share the connections.

    Args:
        client: A client whose settings (address, TLS, user, …) all of them share. One of a Sentinel's will do: then
            they go where the master is.
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
        #: By the threads that may share connections.
        self._pools: dict[int, Pool] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The library's settings of a connection."""
        return cast(Mapping[str, Any], self._client.connection_pool.connection_kwargs)

    def for_ttl(self, ttl: float | None = None) -> Client:
        """A client that gives up well before a lease of ``ttl`` seconds has to be renewed again."""
        which = (timeout_for(ttl, self._timeouts.request), threads.connection_set())
        return self._clients.get(which) or self._new_client(*which)

    def for_blocking(self, longest: float) -> Client:
        """A client for commands that block up to ``longest`` seconds.

        It waits little longer than the command does, so that no caller waits for much longer than it asked for.
        """
        margin = min(self._timeouts.request, max(longest, SHORTEST_PATIENCE_SECONDS))
        return self.for_ttl().within(longest + margin)

    def twice(self, ttl: float | None, call: Callable[..., T], *args: Any) -> T:
        """Call with a client for a ttl; once more, over a new connection, if that broke or the answer did not come."""
        client = self.for_ttl(ttl)
        try:
            return call(client, *args)
        except self.driver.broken:
            return call(client.anew(), *args)

    def first_filled(self, lists: Collection[str], seconds: float) -> list[str]:
        """Wait until one of several lists has an element, and take it.

        Args:
            lists: Their keys.
            seconds: How long to wait at most.

        Returns:
            The lists that may have had an element: the one that had; none when the time is over; all of them, after a
            pause, when the connection broke, since an element may be lost with it.
        """
        seconds = max(0.001, seconds)  # 0 would block for ever
        try:
            taken = self.for_blocking(seconds).call("BLPOP", *lists, f"{seconds:.3f}")
        except self.driver.broken:
            time.sleep(min(seconds, BROKEN_WAIT_PAUSE_SECONDS))
            return list(lists)
        return [] if taken is None else [as_text(taken[0])]

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
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
        settings.pop("health_check_interval", None)  # idle connections are not checked, but closed
        if hasattr(pool, "sentinel_manager"):
            return self._by_sentinel(pool, settings)
        made = self.driver.pool(connection_class=pool.connection_class, max_connections=2**31, **settings)
        return cast("redis.Redis", self.driver.client(connection_pool=made))

    def _by_sentinel(self, pool: Any, settings: dict[str, Any]) -> redis.Redis:
        """By Sentinels of its own: who connects asks them, and greenlets and threads may share no lock."""
        settings.pop("connection_pool")
        known = pool.sentinel_manager
        asked = {
            **known.sentinel_kwargs,
            # The next one is asked when one is silent; all of them should have been within one command's time.
            "socket_timeout": (patience := min(settings["socket_timeout"], TIMEOUT) / 2),
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
        sentinel.sentinels = [Asked(each, self.driver) for each in sentinel.sentinels]
        kind: Any = pool.connection_class
        client = sentinel.master_for(pool.service_name, connection_class=kind, max_connections=2**31, **settings)
        return cast("redis.Redis", client)

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """What an error of the library means, in words that say what to do."""
        return StoreUnavailable(f"the lock store {self.name} failed: {explained(error, self.rights, self.keys)}")

    def too_few(self, confirmed: int, wanted: int) -> StoreUnavailable:
        """What it means that only so many replicas have a lease."""
        return StoreUnavailable(
            f"the lock store {self.name} has the lease on {confirmed} of the {wanted} replicas that min_replicas asks "
            "for, so it does not count: look after the replicas, or lower min_replicas"
        )


def timeout_for(ttl: float | None, longest: float = TIMEOUT) -> float:
    """How long a command about a lease of ``ttl`` seconds may take, in seconds: at most ``longest``.

    Rounded down to a power of two, so that leases of all kinds of ttl share a few clients.
    """
    if ttl is None or ttl >= 4 * longest:
        return longest
    return float(max(SHORTEST_TIMEOUT, 2.0 ** math.floor(math.log2(ttl / 4))))


def patient_ttl(claim: Claim) -> float:
    """The ttl by which `timeout_for` finds the timeout of a claim: both tries of it end before its caller gives up."""
    if claim.patience is None:
        return claim.ttl
    return min(claim.ttl, max(4 * SHORTEST_PATIENCE_SECONDS, 2 * claim.patience))


def connections(address: Address) -> Connections:
    """Connections to the server, or to the master that Sentinels name, at an address.

    ``redis://``, ``rediss://`` (TLS), ``redis+socket:///path?virtual_host=1`` or ``unix:///path?db=1``;
    ``redis+sentinel://host,host/service/1``; and the same with ``valkey`` for ``redis``. User and password are
    percent-decoded.

    Raises:
        LockConfigError: It is that of a cluster, or incomplete.
    """
    if address.ways == "cluster":
        raise LockConfigError(f"{address.masked} is a cluster's address: use RedisClusterStore, or Locks(url)")
    client = master(address) if address.ways == "sentinel" else address.driver.client.from_url(address.url)
    return Connections(client, address.masked, address.timeouts)


def as_text(value: Any) -> str:
    """A reply as text, whether the client decodes replies or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
