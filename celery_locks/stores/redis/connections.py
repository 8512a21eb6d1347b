"""Connections to a Redis or Valkey, and what their errors mean for a lock."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.stores import mask

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:  # pragma: no cover - the test environment has it
    raise LockConfigError("this lock store needs redis-py: pip install 'celery-locks[redis]'") from error

#: The longest a command may take, in seconds.
TIMEOUT = 2.0
#: The shortest time that a server is given to answer, however short the lease.
SHORTEST_TIMEOUT = 0.05
#: How much longer than a blocking command its connection waits for the answer.
BLOCKING_MARGIN = 5.0


class Connections:
    """Clients of one server, that differ in how long they wait for an answer.

    Args:
        client: A client whose settings (address, TLS, user, …) all of them share.
        name: The address without its password, for errors.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.name = name
        self._client = client
        self._clients: dict[float, redis.Redis] = {}

    def for_ttl(self, ttl: float | None = None) -> redis.Redis:
        """A client that gives up well before a lease of ``ttl`` seconds has to be renewed again.

        Timeouts are rounded down to a power of two, so that leases of all kinds of ttl share a few clients.
        """
        if ttl is None or ttl >= 4 * TIMEOUT:
            return self._with_timeout(TIMEOUT)
        return self._with_timeout(max(SHORTEST_TIMEOUT, 2.0 ** math.floor(math.log2(ttl / 4))))

    def for_blocking(self, longest: float) -> redis.Redis:
        """A client for commands that block up to ``longest`` seconds."""
        return self._with_timeout(longest + BLOCKING_MARGIN)

    def close(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.connection_pool.disconnect()

    def _with_timeout(self, timeout: float) -> redis.Redis:
        client = self._clients.get(timeout)
        return self._clients.setdefault(timeout, self._derived(timeout)) if client is None else client

    def _derived(self, timeout: float) -> redis.Redis:
        pool = self._client.connection_pool
        settings = {
            **pool.connection_kwargs,
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, TIMEOUT),
            # The store retries by itself, knowing which command it is and how long the lease still lives.
            "retry": Retry(NoBackoff(), 0),
        }
        settings.pop("retry_on_error", None)
        return redis.Redis(
            connection_pool=redis.ConnectionPool(
                connection_class=pool.connection_class, max_connections=2**31, **settings
            )
        )

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """What an error of redis-py means, in words that say what to do."""
        if isinstance(error, redis.exceptions.NoPermissionError):
            advice = "; allow this user +@scripting +@hash +@sortedset +@list +@keyspace +time and the prefix's keys"
        elif isinstance(error, redis.AuthenticationError):
            advice = "; check user and password in the address"
        else:
            advice = ""
        return StoreUnavailable(f"the lock store {self.name} failed: {type(error).__name__}: {error}{advice}")


def connections(url: str) -> Connections:
    """Connections to the server at a URL.

    ``redis://``, ``rediss://`` (TLS), ``redis+socket:///path?virtual_host=1`` or ``unix:///path?db=1``, and the same
    with ``valkey://`` and ``valkeys://``. User and password are percent-decoded.
    """
    return Connections(redis.Redis.from_url(redis_url(url)), mask(url))


def redis_url(url: str) -> str:
    """The URL in the form that redis-py reads."""
    scheme, _, rest = url.partition("://")
    scheme = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}.get(scheme.lower(), scheme.lower())
    if scheme == "unix":
        # Celery's name for the database's number in such URLs.
        rest = rest.replace("virtual_host=", "db=")
    if scheme == "rediss":
        # Celery writes CERT_REQUIRED where redis-py wants "required".
        for name in parse_qs(urlsplit(url).query).get("ssl_cert_reqs", []):
            rest = rest.replace(f"ssl_cert_reqs={name}", f"ssl_cert_reqs={name.removeprefix('CERT_').lower()}")
    return f"{scheme}://{rest}"


def as_text(value: Any) -> str:
    """A reply as text, whether the client decodes replies or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
