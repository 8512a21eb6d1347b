"""Requests to a Redis or Valkey server, over a pool of connections."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery_locks._runtime import process
from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import Command, packed

if TYPE_CHECKING:
    import redis

#: How long a connection and a request may take by default, in seconds.
REQUEST_TIMEOUT_SECONDS = 2.0
#: How many idle connections a pool keeps at most.
MOST_IDLE = 50
#: A connection that was idle for this long is closed: firewalls and servers drop idle connections.
LONGEST_IDLE_SECONDS = 30.0


class Pool:
    """The idle connections to one server, the most recently used one at the end.

    Args:
        longest_idle: How long an idle connection is kept, in seconds.
    """

    _ended = False

    def __init__(self, longest_idle: float = LONGEST_IDLE_SECONDS) -> None:
        self._longest_idle = longest_idle
        self._idle: list[Connection] = []
        self._fork = process.forks

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle) if self._fork == process.forks else 0

    def take(self, now: float) -> Connection | None:
        """Return a recently used connection, if there is one."""
        if self._fork != process.forks:  # the sockets are the parent's
            self._idle, self._fork = [], process.forks
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        if now - connection.used_at <= self._longest_idle:
            return connection
        connection.disconnect()
        self.close()  # the others have been idle for longer
        return None

    def put(self, connection: Connection, now: float) -> None:
        """Keep a connection whose replies have all been read."""
        connection.used_at = now
        self._idle.append(connection)
        if self._ended:
            self.close()
        elif len(self._idle) > 1:
            self._trim(now)

    def end(self) -> None:
        """Close the idle connections now, and each connection in use when its request has ended."""
        self._ended = True
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    def _trim(self, now: float) -> None:
        idle, oldest = self._idle, now - self._longest_idle
        with suppress(IndexError):  # another thread took the last one
            while len(idle) > MOST_IDLE or idle[0].used_at < oldest:
                idle.pop(0).disconnect()


class Client:
    """A client that sends commands to one server, with the same timeout for each reply.

    redis-py's own ``execute_command`` (retries, metrics, callbacks, a pool with a lock) takes more than half of the
    client's time for a lock. Nothing of it is needed here.

    Args:
        redis_client: The library's client, which makes the connections.
        timeout: How long a request may take, in seconds, including the time to connect.
        pool: The idle connections.
        driver: The library.

    Attributes:
        repeats: Whether the requests are repeats of requests whose reply was lost; see `for_repeat`.
    """

    def __init__(self, redis_client: redis.Redis, timeout: float, pool: Pool, driver: Driver) -> None:
        self.redis = redis_client
        self.timeout = timeout
        self.driver = driver
        self.repeats = False
        self._connects = False
        self._pool = pool

    @property
    def connected(self) -> bool:
        """Whether there is an idle connection."""
        return self._pool.idle > 0

    def with_timeout(self, timeout: float) -> Client:
        """Return a client with another timeout."""
        return Client(self.redis, timeout, self._pool, self.driver)

    def for_repeat(self) -> Client:
        """Return a client that repeats a request after its connection broke. It begins with a new connection."""
        client = self.with_timeout(self.timeout)
        client.repeats = client._connects = True
        return client

    def call(self, *command: Any) -> Any:
        """Send a command and return the reply.

        Raises:
            redis.RedisError: The request failed, or the server replied with an error.
        """
        return self.ask(packed(command))

    def ask(self, command: Command) -> Any:
        """Send a command that is packed already and return the reply; see `call`."""
        now = monotonic()
        connection = self._take(now)
        try:
            connection.send(command)
            reply = connection.receive()
        except BaseException as error:
            # Also if this thread was interrupted: the reply may still come, and no other request may read it.
            self._drop(connection, error)
            raise
        if isinstance(reply, Exception):
            self._keep(connection, (reply,))
            raise reply
        self._pool.put(connection, now)
        return reply

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands over one connection in one round trip and return the replies; an error is a reply too."""
        return self.receive(self.send(commands), len(commands))

    def send(self, commands: Sequence[Command]) -> Connection:
        """Send commands and return their connection, for `receive`."""
        connection = self._take(monotonic())
        try:
            connection.send(b"".join(commands))
        except BaseException as error:
            self._drop(connection, error)
            raise
        return connection

    def receive(self, connection: Connection, count: int) -> list[Any]:
        """Return the replies to commands that were sent; an error is a reply too."""
        try:
            replies = []
            for _ in range(count):
                connection.set_timeout(connection.until - monotonic())
                replies.append(connection.receive())
        except BaseException as error:
            self._drop(connection, error)
            raise
        self._keep(connection, [reply for reply in replies if isinstance(reply, Exception)])
        return replies

    def _take(self, now: float) -> Connection:
        connection = None if self._connects else self._pool.take(now)
        if connection is None:
            connection = self._connect()
            connection.set_timeout(now + self.timeout - monotonic())
        elif connection.timeout != self.timeout:
            connection.set_timeout(self.timeout)
        connection.until = now + self.timeout
        return connection

    def _connect(self) -> Connection:
        made: Any = self.redis.connection_pool.make_connection()
        try:
            made.connect()  # this asks Sentinels for the master
            connection = Connection(made, self.driver)
        except OSError as error:  # this process has no file left
            made.disconnect()
            raise self.driver.connection_error(f"Error while connecting to the server: {error}") from error
        except BaseException as error:
            made.disconnect()
            if isinstance(error, self.driver.broken):
                self._pool.close()
            raise
        self._connects = False
        return connection

    def _keep(self, connection: Connection, errors: Sequence[Exception]) -> None:
        """Keep a connection, unless its server is no longer the master: a new connection may reach the new master."""
        for error in errors:
            if _is_demotion(error):
                broken = self.driver.connection_error(f"this server is a replica now: {error}")
                self._drop(connection, broken)
                raise broken from error
            if not isinstance(error, self.driver.response_error):  # the server is loading, or has too many connections
                self._drop(connection, error)
                raise error
        self._pool.put(connection, monotonic())

    def _drop(self, connection: Connection, error: BaseException) -> None:
        connection.disconnect()
        if isinstance(error, self.driver.broken):
            self._pool.close()  # the others go to the same server


def _is_demotion(error: Exception) -> bool:
    """Return whether an error means that the server is a replica now. Redis before 7 has the code within a text."""
    text = str(error)
    return type(error).__name__ == "ReadOnlyError" or text.startswith("UNBLOCKED") or "-READONLY" in text
