"""A proxy before a server, for a network that fails when a test says so."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from celery_locks.testing.nodes.ports import free_port
from tests.support.resp import Frames, command_name


@dataclass(frozen=True)
class _Request:
    """What a client has sent: the command's name, and all of it where that is to be looked at."""

    command: str
    data: bytes = b""


@dataclass
class _Drop:
    """Which replies are still to be dropped."""

    count: int
    after: int
    command: str | None
    holding: tuple[bytes, ...] = ()

    def wants(self, request: _Request) -> bool:
        """Whether it is about replies to such a request."""
        named = self.command in (None, request.command)
        return named and (not self.holding or any(part in request.data for part in self.holding))

    def takes(self, request: _Request) -> bool:
        """Whether the reply to this request is to be dropped; counts it."""
        if self.count == 0 or not self.wants(request):
            return False
        if self.after:
            self.after -= 1
            return False
        self.count -= 1
        return True


@dataclass(eq=False)
class _Connection:
    """A client's connection and its twin to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    unanswered: collections.deque[_Request] = field(default_factory=collections.deque)
    swallowed: bool = False
    half_open: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)


class Proxy:
    """Forwards to a port of 127.0.0.1, from a thread of its own, until a test asks it to misbehave.

    Every method may be called while connections are open, and has taken effect when it returns.

    Args:
        target: The server's port.
        tls: Speak TLS to clients, with this context; the server is spoken to without it.
        redis: Whether the server speaks Redis' protocol. Otherwise each piece of data from the server counts as a
            reply, and there are no `commands`.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None, redis: bool = True) -> None:
        self.target = target
        self.port = free_port()
        #: The commands that clients sent, in upper case and in order. Clear it to count those of one step.
        self.commands: list[str] = []
        #: How many replies were dropped so far.
        self.dropped = 0
        self._tls = tls
        self._redis = redis
        self._mode: Literal["pass", "hang", "dribble"] = "pass"
        self._delay = 0.0
        self._drop = _Drop(0, 0, None)
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target}", daemon=True)
        self._thread.start()
        try:
            self._run(self._listen_first())
        except BaseException:
            self._stop_loop()
            raise

    # --- What tests say ---

    def heal(self) -> None:
        """Back to forwarding everything at once. Connections that lost data in a hang are cut."""
        self._run(self._heal())

    def refuse(self) -> None:
        """Cuts all connections, and refuses new ones."""
        self._in_loop(self._refuse)

    def hang(self) -> None:
        """Accepts connections and data, forwards nothing, and answers nothing: a black hole."""
        self._in_loop(self._set, "hang", 0.0)

    def delay(self, seconds: float) -> None:
        """Holds each reply back for as long."""
        self._in_loop(self._set, "pass", seconds)

    def dribble(self) -> None:
        """Sends each reply a byte at a time."""
        self._in_loop(self._set, "dribble", 0.0)

    def half_open(self) -> None:
        """Connections that are open now stay so for both sides, and carry nothing any more. New ones are served."""
        self._in_loop(self._half_open)

    def drop_reply(
        self, count: int = 1, *, after: int = 0, command: str | None = None, holding: Collection[str] = ()
    ) -> None:
        """Lets requests through, and cuts the connection before the reply: done by the server, an error for the client.

        Args:
            count: How many replies are dropped.
            after: How many replies pass before that. For each in turn, try 0, 1, 2, …
            command: Count only replies to this command, say ``EVALSHA``, and let all others pass.
            holding: Count only replies to requests that hold one of these texts, say a script's digest.
        """
        parts = tuple(part.encode() for part in holding)
        drop = _Drop(count, after, command.upper() if command else None, parts)
        self._in_loop(setattr, self, "_drop", drop)

    @property
    def drops_left(self) -> int:
        """How many replies are still to be dropped: 0 when what `drop_reply` asked for has happened."""
        return self._drop.count

    def cut(self) -> None:
        """Resets the connections that are open now, once. New ones are served."""
        self._in_loop(self._cut)

    def close(self) -> None:
        """Ends the proxy and its thread."""
        if not self._loop.is_closed():
            self._in_loop(self._refuse)
            self._stop_loop()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- In the thread ---

    def _in_loop(self, function: Callable[..., None], *args: Any) -> None:
        async def call() -> None:
            function(*args)

        self._run(call())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _stop_loop(self) -> None:
        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen_first(self) -> None:
        while self._listener is None:
            with contextlib.suppress(OSError):  # someone else took the port: try another one
                await self._listen()
                return
            self.port = free_port()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)

    def _set(self, mode: Literal["pass", "hang", "dribble"], delay: float) -> None:
        self._mode, self._delay = mode, delay

    async def _heal(self) -> None:
        self._set("pass", 0.0)
        self._drop = _Drop(0, 0, None)
        for connection in [each for each in self._connections if each.swallowed]:
            connection.reset()
        if self._listener is None:
            await self._listen()

    def _half_open(self) -> None:
        for connection in self._connections:
            connection.half_open = connection.swallowed = True

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        if self._listener is None:  # refused meanwhile
            connection.reset()
        both = [self._requests(connection, reader), self._replies(connection, server_reader)]
        ways = [asyncio.ensure_future(way) for way in both]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._connections.discard(connection)
            writer.close()
            server_writer.close()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._mode == "hang" or connection.half_open:
                    connection.swallowed = True
                    continue
                requests = [self._request(frame) for frame in frames.feed(data)] if self._redis else []
                self.commands += [request.command for request in requests]
                connection.unanswered += requests
                connection.server.write(data)
                await connection.server.drain()

    def _request(self, frame: bytes) -> _Request:
        return _Request(command_name(frame), frame if self._drop.holding else b"")

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for reply in frames.feed(data) if self._redis else [data]:
                    if not await self._answer(connection, reply):
                        return

    async def _answer(self, connection: _Connection, reply: bytes) -> bool:
        """Hands a reply on, or doesn't. Returns whether the connection goes on."""
        if not reply.startswith(b">"):  # news to subscribers answer no request
            request = connection.unanswered.popleft() if connection.unanswered else _Request("")
            if self._drop.takes(request):
                self.dropped += 1
                connection.reset()
                return False
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._mode == "hang" or connection.half_open:
            connection.swallowed = True
            return True
        for piece in (reply[at : at + 1] for at in range(len(reply))) if self._mode == "dribble" else (reply,):
            connection.client.write(piece)
            await connection.client.drain()
            await asyncio.sleep(0.002 if self._mode == "dribble" else 0)
        return True


def tls_proxy(target: int, folder: Path) -> tuple[Proxy, Path]:
    """A proxy that speaks TLS to clients, and the certificate that they must trust.

    Args:
        target: The port of a server that has no TLS of its own.
        folder: Where the certificate is put.
    """
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    certificate = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    return Proxy(target, tls=context), certificate


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection at once, by RST where the system lets us: the other side is not to take it for a goodbye."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
