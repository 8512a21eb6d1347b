"""Connections to a Redis or Valkey, and what their errors mean for a lock."""

from __future__ import annotations

import math
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from celery_locks import threads
from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.stores.redis.driver import driver_of
from celery_locks.stores.redis.sentinel import Asked, master
from celery_locks.stores.redis.urls import Address

if TYPE_CHECKING:
    import redis

#: The longest a command may take, in seconds.
TIMEOUT = 2.0
#: The shortest time that a server is given to answer, however short the lease.
SHORTEST_TIMEOUT = 0.05
#: The commands that scripts and waits are made of, as a server's access control lists name them.
RIGHTS = "+@scripting +@hash +@sortedset +@list +@string +@keyspace +time"
#: How much longer than a blocking command its connection waits for the answer.
BLOCKING_MARGIN = 5.0


_PEEK = getattr(socket, "MSG_PEEK", 0)


class Client:
    """A ``redis.Redis`` with a short way for commands.

    The way of redis-py's own ``execute_command`` (retries, metrics, callbacks, a pool with a lock) costs more than half
    of what a lock costs on the client; nothing of it is needed here.

    Args:
        redis_client: The client whose connections it uses.
        timeout: How long each of them waits for an answer, in seconds.
    """

    def __init__(self, redis_client: redis.Redis, timeout: float = TIMEOUT) -> None:
        self.redis = redis_client
        self.timeout = timeout
        self.driver = driver_of(redis_client)
        self._pool: Any = redis_client.connection_pool
        self._idle: list[Any] = []
        self._pid = os.getpid()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that nobody uses."""
        return bool(self._idle) and self._pid == os.getpid()

    def call(self, *command: Any) -> Any:
        """Sends a command and returns the answer.

        Raises:
            redis.RedisError: As the library raises it.
        """
        connection = self._take()
        try:
            connection.send_packed_command([packed(command)])
            answer = self._number(connection._sock)
            if answer is None:
                answer = self._read(connection)
        except self.driver.response_error as error:  # an answer too: the connection is as good as before
            self._give_back(connection, [error])
            raise
        except BaseException as error:
            # Also where this thread was interrupted: the answer that is still to come is nobody else's.
            self._drop(connection, error)
            raise
        self._idle.append(connection)
        return answer

    def _number(self, sock: Any) -> int | None:
        """The answer, if it is a number as most are: read in a quarter of the library's time.

        It is looked at before it is taken, so that all else is left to the library: other answers, TLS, half an answer.
        """
        if type(sock) is not socket.socket:  # TLS can't look ahead
            return None
        try:
            seen = sock.recv(32, _PEEK)
            # In bytes: 58 is a colon, 10 the end of a line.
            if not seen or seen[0] != 58 or seen[-1] != 10:
                return None
            return int(sock.recv(len(seen))[1:])
        except (TimeoutError, BlockingIOError) as error:
            raise self.driver.timeout_error("Timeout reading from socket") from error
        except OSError as error:
            raise self.driver.connection_error(f"Error while reading from socket: {error}") from error

    def call_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Sends commands in one round trip, over one connection, and returns the answers; an error is an answer too."""
        return self.receive(self.send(commands), len(commands))

    def send(self, commands: Sequence[Sequence[Any]]) -> Any:
        """Sends commands, and returns the connection that their answers will come by: give it to `receive`."""
        connection = self._take()
        try:
            connection.send_packed_command([b"".join([packed(command) for command in commands])])
        except BaseException as error:
            self._drop(connection, error)
            raise
        return connection

    def receive(self, connection: Any, count: int) -> list[Any]:
        """The answers to so many commands that were sent; an error is an answer too."""
        answers: list[Any] = []
        try:
            while len(answers) < count:
                answers.append(self._answer(connection))
        except BaseException as error:
            self._drop(connection, error)
            raise
        self._give_back(connection, [answer for answer in answers if isinstance(answer, Exception)])
        return answers

    def _answer(self, connection: Any) -> Any:
        try:
            return self._read(connection)
        except self.driver.response_error as error:
            return error

    def _read(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except self.driver.connection_error as error:
            if isinstance(error.__context__, BlockingIOError):  # so the kernel ends what took too long
                raise self.driver.timeout_error("Timeout reading from socket") from error
            raise

    def close(self) -> None:
        self._forget_idle()
        self._pool.disconnect()

    def _take(self) -> Any:
        if self._pid != os.getpid():  # sockets that a fork doubled are the parent's
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            connection = self._pool.make_connection()
        connection.connect()  # only so are Sentinels asked where to
        _wait_in_kernel(connection._sock, self.timeout)
        return connection

    def _give_back(self, connection: Any, errors: Sequence[Exception]) -> None:
        """Keeps a connection, unless its server is a master no more: then the next one may lead to the new master."""
        demoted = next((error for error in errors if _demoted(error)), None)
        if demoted is None:
            self._idle.append(connection)
            return
        broken = self.driver.connection_error(f"this server is a replica now: {demoted}")
        self._drop(connection, broken)
        raise broken from demoted

    def _drop(self, connection: Any, error: BaseException) -> None:
        connection.disconnect()
        if isinstance(error, self.driver.connection_error):
            self._forget_idle()  # they lead to the same server, which has gone

    def _forget_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()


def _wait_in_kernel(sock: Any, seconds: float) -> None:
    """Has the kernel end what takes longer, in place of Python, which asks it before each step whether it may go on.

    That halves the system calls of a command; in a process of many threads each of them is a chance to lose the
    interpreter's lock.
    """
    if sys.platform == "linux" and type(sock) is socket.socket and not threads.greenlets():
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6)))
        sock.settimeout(None)


def _demoted(error: Exception) -> bool:
    """Whether an answer says that the server is a replica now; of a script, Redis before 7 says so within a text."""
    text = str(error)
    return type(error).__name__ == "ReadOnlyError" or text.startswith("UNBLOCKED") or "-READONLY" in text


def packed(command: Sequence[Any]) -> bytes:
    """A command in Redis' protocol. redis-py takes four times as long for it, as long as a round trip."""
    texts = [argument if type(argument) is str else str(argument) for argument in command]
    parts = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if not parts.isascii():  # lengths are in bytes
        parts = "".join([f"${len(text.encode())}\r\n{text}\r\n" for text in texts])
    return f"*{len(texts)}\r\n{parts}".encode()


class Connections:
    """Clients of one server, that differ in how long they wait for an answer.

    Args:
        client: A client whose settings (address, TLS, user, …) all of them share. One of a Sentinel's will do: then
            they go where the master is.
        name: The address without its password, for errors.
    """

    #: What a user must be allowed.
    rights = f"{RIGHTS} and the prefix's keys"

    def __init__(self, client: redis.Redis, name: str) -> None:
        self.name = name
        self.driver = driver_of(client)
        self._client = client
        self._clients: dict[tuple[float, int], Client] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The library's settings of a connection."""
        return cast(Mapping[str, Any], self._client.connection_pool.connection_kwargs)

    def for_ttl(self, ttl: float | None = None) -> Client:
        """A client that gives up well before a lease of ``ttl`` seconds has to be renewed again."""
        return self._with_timeout(timeout_for(ttl))

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
        return self._clients.setdefault(which, Client(self._derived(timeout), timeout)) if client is None else client

    def _derived(self, timeout: float) -> redis.Redis:
        pool: Any = self._client.connection_pool
        settings = {
            **pool.connection_kwargs,
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, TIMEOUT),
            "retry": self.driver.no_retry(),
        }
        settings.pop("retry_on_error", None)
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
        if isinstance(error, self.driver.no_permission):
            advice = f"; allow this user {self.rights}"
        elif isinstance(error, self.driver.authentication):
            advice = "; check user and password in the address"
        else:
            advice = ""
        return StoreUnavailable(f"the lock store {self.name} failed: {type(error).__name__}: {error}{advice}")

    def too_few(self, confirmed: int, wanted: int) -> StoreUnavailable:
        """What it means that only so many replicas have a lease."""
        return StoreUnavailable(
            f"the lock store {self.name} has the lease on {confirmed} of the {wanted} replicas that min_replicas asks "
            "for, so it does not count: look after the replicas, or lower min_replicas"
        )


def timeout_for(ttl: float | None) -> float:
    """How long a command about a lease of ``ttl`` seconds may take, in seconds.

    Rounded down to a power of two, so that leases of all kinds of ttl share a few clients.
    """
    if ttl is None or ttl >= 4 * TIMEOUT:
        return TIMEOUT
    return float(max(SHORTEST_TIMEOUT, 2.0 ** math.floor(math.log2(ttl / 4))))


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
    if address.ways == "sentinel":
        return Connections(master(address), address.masked)
    return Connections(address.driver.client.from_url(address.url), address.masked)


def as_text(value: Any) -> str:
    """A reply as text, whether the client decodes replies or not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
