"""One connection to a Redis or Valkey server, which sends commands and reads replies, each with a timeout."""

from __future__ import annotations

import socket
from typing import Any

from celery_locks._runtime import threads
from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import Command

#: How many bytes one step of reading asks for.
READ_BYTES = 16_384
#: The shortest timeout of a socket, in seconds: 0 would make it non-blocking.
SHORTEST_SOCKET_TIMEOUT_SECONDS = 0.001
#: The first byte of a number, and the last byte of any reply.
_COLON, _NEWLINE = b":\n"


class Connection:
    """A connection that the client library has opened and authenticated.

    Afterwards the library is not used: its own parser takes longer than the server.

    Args:
        made: The library's connection.
        driver: The library.

    Attributes:
        until: When the replies to the last commands are due, by ``monotonic()``.
        used_at: When it was used last.
        timeout: How long a step of sending or receiving may take, in seconds.
    """

    until = used_at = timeout = 0.0

    def __init__(self, made: Any, driver: Driver) -> None:
        self._made, self._driver, self._sock = made, driver, made._sock
        # Python polls a socket with a timeout before each step. Sending hardly ever has to wait, so it uses a
        # non-blocking socket of the same connection.
        self._sender: socket.socket | None = None
        if type(made._sock) is socket.socket and not threads.greenlets():
            self._sender = made._sock.dup()
            self._sender.setblocking(False)
        #: The received bytes, and the position of the first byte that is not parsed yet.
        self._received, self._at = b"", 0

    def set_timeout(self, seconds: float) -> None:
        """Set the timeout of each step of sending or receiving, in seconds."""
        # This is Python's timeout. The kernel's would begin again after each signal.
        self.timeout = max(seconds, SHORTEST_SOCKET_TIMEOUT_SECONDS)
        self._sock.settimeout(self.timeout)

    def send(self, command: Command) -> None:
        """Send a command, or several."""
        sent = 0
        try:
            if self._sender is not None:
                try:
                    sent = self._sender.send(command)
                except BlockingIOError:  # the kernel's buffer is full
                    sent = 0
                if sent == len(command):
                    return
            self._sock.sendall(command[sent:])
        except TimeoutError as error:
            raise self._driver.timeout_error("Timeout while sending to the server") from error
        except OSError as error:
            raise self._driver.connection_error(f"Error while sending to the server: {error}") from error

    def receive(self) -> Any:
        """Return the next reply: a number, bytes, a list, a mapping. An error is a reply too."""
        if not self._received:
            received = self._receive()
            if received[0] == _COLON and received[-1] == _NEWLINE:  # most replies are a number and nothing else
                try:
                    return int(received[1:])
                except ValueError:
                    pass
            self._received = received
        reply = self._read()
        self._received, self._at = self._received[self._at :], 0
        return reply

    def disconnect(self) -> None:
        self._made.disconnect()
        if self._sender is not None:
            self._sender.close()

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def _receive(self) -> bytes:
        try:
            data: bytes = self._sock.recv(READ_BYTES)
        except TimeoutError as error:
            raise self._driver.timeout_error("Timeout while waiting for the server's reply") from error
        except OSError as error:
            raise self._driver.connection_error(f"Error while waiting for the server's reply: {error}") from error
        if not data:
            raise self._driver.connection_error("the server closed the connection")
        return data

    def _receive_more(self) -> None:
        self.set_timeout(self.until - monotonic())  # otherwise each step would have the whole time
        self._received, self._at = self._received[self._at :] + self._receive(), 0

    def _read(self) -> Any:
        """Parse a reply of version 2 or 3 of the protocol."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        match kind:
            case b":" | b"(":
                return int(rest)
            case b"$" | b"=":
                return None if rest == b"-1" else self._bytes(int(rest))
            case b"*" | b"~":
                return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
            case b"+":
                return rest
            case b"-":
                return self._error(rest)
            case b"_":
                return None
            case b"%":
                return {self._read(): self._read() for _ in range(int(rest))}
            case b"#":
                return rest == b"t"
            case b",":
                return float(rest)
            case b"!":
                return self._error(self._bytes(int(rest)))
            case b">":  # a push message is no reply
                for _ in range(int(rest)):
                    self._read()
                return self._read()
            case b"|":  # attributes of the next reply
                for _ in range(2 * int(rest)):
                    self._read()
                return self._read()
        raise self._driver.connection_error(f"the server replied {line[:80]!r}, which is not Redis' protocol")

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n", self._at)) < 0:
            self._receive_more()
        line = self._received[self._at : end]
        self._at = end + 2
        return line

    def _bytes(self, length: int) -> bytes:
        while len(self._received) < self._at + length + 2:
            self._receive_more()
        start, self._at = self._at, self._at + length + 2
        return self._received[start : start + length]

    def _error(self, text: bytes) -> Exception:
        error: Exception = self._made._parser.parse_error(text.decode("utf-8", "replace"))
        return error
