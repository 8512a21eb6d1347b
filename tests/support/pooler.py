"""A pooler of transactions before PostgreSQL, as PgBouncer is one: each transaction runs on another session."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

import psycopg

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
#: What a client wants to know of a session before it begins.
_PARAMETERS = (
    "server_version",
    "client_encoding",
    "standard_conforming_strings",
    "integer_datetimes",
    "DateStyle",
    "TimeZone",
)


class Pooler:
    """Takes any password, and lets nobody keep a session for longer than a transaction.

    What a session leaves behind in PostgreSQL stays there for whoever gets it next: settings, prepared statements,
    ``LISTEN``. Notices reach nobody.

    Args:
        url: The server's.
        sessions: How many it has, to be given out in turn.
    """

    def __init__(self, url: str, sessions: int = 3) -> None:
        self._url = url
        self._sessions: queue.Queue[_Session] = queue.Queue()
        for _ in range(sessions):
            self._sessions.put(_Session(url))
        self._door = socket.create_server(("127.0.0.1", 0))
        self._clients: set[socket.socket] = set()
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._welcome, name="pooler", daemon=True).start()

    def __enter__(self) -> Pooler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        while not self._sessions.empty():
            self._sessions.get().close()

    def _welcome(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.add(client)
                threading.Thread(target=self._serve, args=(client,), name="pooler-client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            if self._begin(client):
                while self._transaction(client):
                    pass
        self._clients.discard(client)

    def _begin(self, client: socket.socket) -> bool:
        """Lets a client in."""
        while True:
            length, code = struct.unpack("!II", _exactly(client, 8))
            _exactly(client, length - 8)
            if code == _CANCEL:
                return False
            if code not in (_SSL, _GSS):
                break
            client.sendall(b"N")
        session = self._sessions.get()
        parameters = [_message(b"S", f"{name}\0{session.parameter(name)}\0".encode()) for name in _PARAMETERS]
        self._sessions.put(session)
        allowed, key, ready = _message(b"R", b"\0\0\0\0"), _message(b"K", bytes(8)), _message(b"Z", b"I")
        client.sendall(b"".join([allowed, *parameters, key, ready]))
        return True

    def _transaction(self, client: socket.socket) -> bool:
        """Carries what a client says and hears in one transaction. Returns whether there may be another."""
        kind, said = _read(client)
        if kind == b"X":
            return False
        session = self._sessions.get()
        try:
            while True:
                session.socket.sendall(said)
                if kind in (b"Q", b"S") and self._answer(session, client) == b"I":
                    break
                kind, said = _read(client)
        except BaseException:  # the client is gone in the middle of it
            session.close()
            session = _Session(self._url)
            raise
        finally:
            self._sessions.put(session)
        return True

    def _answer(self, session: _Session, client: socket.socket) -> bytes:
        """Carries an answer to its end. Returns in what state the session is then."""
        while True:
            kind, said = _read(session.socket)
            if kind != b"A":
                client.sendall(said)
            if kind == b"Z":
                return said[-1:]


class _Session:
    """A session of the server, that its driver has logged in and leaves alone from then on."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, sslmode="disable", gssencmode="disable", autocommit=True)
        self.socket = socket.socket(fileno=os.dup(self._connection.fileno()))
        self.socket.setblocking(True)

    def parameter(self, name: str) -> str:
        value = self._connection.info.parameter_status(name)
        assert value is not None, name
        return value

    def close(self) -> None:
        self.socket.close()
        self._connection.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _read(connection: socket.socket) -> tuple[bytes, bytes]:
    """One message: its kind, and the whole of it."""
    head = _exactly(connection, 5)
    return head[:1], head + _exactly(connection, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := connection.recv(count - len(data))):
            raise EOFError
        data += more
    return data
