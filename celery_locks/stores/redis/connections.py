"""Connections to a Redis or Valkey, and what their errors mean for a lock."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from celery_locks import threads
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


class Client:
    """A ``redis.Redis`` with a short way for single commands.

    The way of redis-py's own ``execute_command`` (retries, metrics, callbacks, a pool with a lock) costs more than half
    of what a lock costs on the client; nothing of it is needed here.
    """

    def __init__(self, redis_client: redis.Redis) -> None:
        self.redis = redis_client
        self._pool = redis_client.connection_pool
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def call(self, *command: Any) -> Any:
        """Sends a command and returns the answer.

        Raises:
            redis.RedisError: As redis-py raises it.
        """
        connection = self._take()
        try:
            connection.send_packed_command([packed(command)])
            answer = connection.read_response()
        except redis.ResponseError:  # an answer too: the connection is as good as before
            self._idle.append(connection)
            raise
        except BaseException:
            # Also where this thread was interrupted: the answer that is still to come is nobody else's.
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def call_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands in one round trip and returns the answers; an error is an answer too."""
        with self.redis.pipeline(transaction=False) as pipeline:
            send: Any = pipeline.execute_command
            for command in commands:
                send(*command)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            return answers

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
        self._pool.disconnect()

    def _take(self) -> Any:
        if self._pid != os.getpid():  # sockets that a fork doubled are the parent's
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._pool.make_connection()


def packed(command: Sequence[Any]) -> bytes:
    """A command in Redis' protocol. redis-py takes four times as long for it, as long as a round trip."""
    texts = [str(argument) for argument in command]
    parts = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if not parts.isascii():  # lengths are in bytes
        parts = "".join([f"${len(text.encode())}\r\n{text}\r\n" for text in texts])
    return f"*{len(texts)}\r\n{parts}".encode()


class Connections:
    """Clients of one server, that differ in how long they wait for an answer.

    Args:
        client: A client whose settings (address, TLS, user, …) all of them share.
        name: The address without its password, for errors.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.name = name
        self._client = client
        self._clients: dict[tuple[float, int], Client] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """redis-py's settings of a connection."""
        return cast(Mapping[str, Any], self._client.connection_pool.connection_kwargs)

    def for_ttl(self, ttl: float | None = None) -> Client:
        """A client that gives up well before a lease of ``ttl`` seconds has to be renewed again.

        Timeouts are rounded down to a power of two, so that leases of all kinds of ttl share a few clients.
        """
        if ttl is None or ttl >= 4 * TIMEOUT:
            return self._with_timeout(TIMEOUT)
        return self._with_timeout(max(SHORTEST_TIMEOUT, 2.0 ** math.floor(math.log2(ttl / 4))))

    def for_blocking(self, longest: float) -> Client:
        """A client for commands that block up to ``longest`` seconds."""
        return self._with_timeout(longest + BLOCKING_MARGIN)

    def close(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _with_timeout(self, timeout: float) -> Client:
        which = (timeout, threads.apart())
        client = self._clients.get(which)
        return self._clients.setdefault(which, Client(self._derived(timeout))) if client is None else client

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
            rights = "+@scripting +@hash +@sortedset +@list +@string +@keyspace +time"
            advice = f"; allow this user {rights} and the prefix's keys"
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
