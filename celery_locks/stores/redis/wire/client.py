"""Requests to a Redis or Valkey server, over connections that are kept for the next ones."""

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

#: The longest that a request takes by default, in seconds.
TIMEOUT = 2.0
#: How many idle connections are kept at most.
MOST_IDLE = 50
#: A connection that was not used for this long is closed: firewalls and servers forget idle ones.
LONGEST_IDLE_SECONDS = 30.0


class Pool:
    """The idle connections to one server, the one that was used last at the end.

    Args:
        longest_idle: For how long a connection is kept, in seconds.
    """

    _ended = False

    def __init__(self, longest_idle: float = LONGEST_IDLE_SECONDS) -> None:
        self._longest_idle = longest_idle
        self._idle: list[Connection] = []
        self._fork = process.forks

    @property
    def idle(self) -> int:
        """How many connections no request uses."""
        return len(self._idle) if self._fork == process.forks else 0

    def take(self, now: float) -> Connection | None:
        """Return a connection that was used lately, if there is one."""
        if self._fork != process.forks:  # sockets that a fork doubled are the parent's
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
        """Keep a connection whose answers have all been read."""
        connection.used_at = now
        self._idle.append(connection)
        if self._ended:
            self.close()
        elif len(self._idle) > 1:
            self._trim(now)

    def end(self) -> None:
        """Close the idle connections, and those in use when their requests have ended."""
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
    """What sends commands to one server, and waits for each answer for the same time.

    redis-py's own ``execute_command`` (retries, metrics, callbacks, a pool with a lock) costs more than half of what a
    lock costs on the client. Nothing of it is needed here.

    Args:
        redis_client: The client of the library that makes the connections.
        timeout: How long an answer is awaited, in seconds, including the time to connect.
        pool: The connections that may be used.
        driver: The library.

    Attributes:
        repeats: Whether a request is the repeat of one whose answer was lost; see `anew`.
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
        """Whether there is a connection that no request uses."""
        return self._pool.idle > 0

    def within(self, timeout: float) -> Client:
        """Return a client that waits for another time."""
        return Client(self.redis, timeout, self._pool, self.driver)

    def anew(self) -> Client:
        """Return a client to repeat a request with, whose connection broke. It begins with a new connection."""
        client = self.within(self.timeout)
        client.repeats = client._connects = True
        return client

    def call(self, *command: Any) -> Any:
        """Send a command and return the answer.

        Raises:
            redis.RedisError: As the library raises it.
        """
        return self.ask(packed(command))

    def ask(self, command: Command) -> Any:
        """As `call`, with a command that is packed already."""
        now = monotonic()
        connection = self._take(now)
        try:
            connection.send(command)
            answer = connection.receive()
        except BaseException as error:
            # Also where this thread was interrupted: the answer that is still to come is no one else's.
            self._drop(connection, error)
            raise
        if isinstance(answer, Exception):
            self._give_back(connection, (answer,))
            raise answer
        self._pool.put(connection, now)
        return answer

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip, over one connection, and return the answers; an error is an answer too."""
        return self.receive(self.send(commands), len(commands))

    def send(self, commands: Sequence[Command]) -> Connection:
        """Send commands, and return the connection that their answers will come by: give it to `receive`."""
        connection = self._take(monotonic())
        try:
            connection.send(b"".join(commands))
        except BaseException as error:
            self._drop(connection, error)
            raise
        return connection

    def receive(self, connection: Connection, count: int) -> list[Any]:
        """Return the answers to commands that were sent; an error is an answer too."""
        try:
            answers = []
            for _ in range(count):
                connection.set_timeout(connection.until - monotonic())
                answers.append(connection.receive())
        except BaseException as error:
            self._drop(connection, error)
            raise
        self._give_back(connection, [answer for answer in answers if isinstance(answer, Exception)])
        return answers

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

    def _give_back(self, connection: Connection, errors: Sequence[Exception]) -> None:
        """Keep a connection, unless its server is not the master any more: a new one may lead to the new master."""
        for error in errors:
            if _demoted(error):
                broken = self.driver.connection_error(f"this server is a replica now: {error}")
                self._drop(connection, broken)
                raise broken from error
            if not isinstance(error, self.driver.response_error):  # the server is loading, or full of connections
                self._drop(connection, error)
                raise error
        self._pool.put(connection, monotonic())

    def _drop(self, connection: Connection, error: BaseException) -> None:
        connection.disconnect()
        if isinstance(error, self.driver.broken):
            self._pool.close()  # the others lead to the same server, by the same way


def _demoted(error: Exception) -> bool:
    """Whether an answer says that the server is a replica now; of a script, Redis before 7 says so within a text."""
    text = str(error)
    return type(error).__name__ == "ReadOnlyError" or text.startswith("UNBLOCKED") or "-READONLY" in text
