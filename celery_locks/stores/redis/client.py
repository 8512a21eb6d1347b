"""A client of redis-py with a short way for commands."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery_locks import threads
from celery_locks.stores.redis.driver import driver_of
from celery_locks.stores.redis.protocol import Command, packed

if TYPE_CHECKING:
    import redis

#: The longest a command may take, in seconds.
TIMEOUT = 2.0


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
        self._fork = threads.forks

    @property
    def connected(self) -> bool:
        """Whether there is a connection that nobody uses."""
        return bool(self._idle) and self._fork == threads.forks

    def call(self, *command: Any) -> Any:
        """Sends a command and returns the answer.

        Raises:
            redis.RedisError: As the library raises it.
        """
        return self.ask(packed(command))

    def ask(self, command: Command) -> Any:
        """As `call`, with a command that is packed already."""
        connection = self._take()
        try:
            sock = connection._sock
            if type(sock) is socket.socket and not connection.health_check_interval:
                answer = self._asked(sock, command)
            else:  # TLS can't look ahead; and a connection is looked after by the library, if it is to be
                connection.send_packed_command([command])
                answer = None
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

    def _asked(self, sock: socket.socket, command: Command) -> int | None:
        """Sends a command, and returns the answer if it is a number, as most are, in a quarter of the library's time.

        It is looked at before it is taken, so that all else is left to the library: other answers, and half an answer.
        """
        try:
            sock.sendall(command)
            seen = sock.recv(32, socket.MSG_PEEK)
            # In bytes: 58 is a colon, 10 the end of a line.
            if not seen or seen[0] != 58 or seen[-1] != 10:
                return None
            return int(sock.recv(len(seen))[1:])
        except (TimeoutError, BlockingIOError) as error:
            raise self.driver.timeout_error("Timeout while talking to the server") from error
        except OSError as error:
            raise self.driver.connection_error(f"Error while talking to the server: {error}") from error

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands in one round trip, over one connection, and returns the answers; an error is an answer too."""
        return self.receive(self.send(commands), len(commands))

    def send(self, commands: Sequence[Command]) -> Any:
        """Sends commands, and returns the connection that their answers will come by: give it to `receive`."""
        connection = self._take()
        try:
            connection.send_packed_command([b"".join(commands)])
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
        if self._fork != threads.forks:  # sockets that a fork doubled are the parent's
            self._idle, self._fork = [], threads.forks
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
