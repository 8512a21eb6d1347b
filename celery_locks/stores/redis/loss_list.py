"""The notices of lost leases in Redis: a list for each process, which reads it with a blocking command."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.loss_feed import MOST_NOTICES, LossFeed, cut
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.connections import Connections, as_text
from celery_locks.stores.redis.wire.protocol import packed


class LossList(LossFeed):
    """The list of one process, which it reads on a connection of its own.

    Args:
        connections: The connections to the server.
        key: The key of the list.
        longest: The longest that `wait` may block, in seconds.
    """

    def __init__(self, connections: Connections, key: str, longest: float) -> None:
        self._connections = connections
        self._key = key
        self._longest = longest
        self._closed = False
        #: The connection that waits for a reply now.
        self._connection: Connection | None = None

    def wait(self, timeout: float) -> Collection[str]:
        try:
            reply = self._ask("BLPOP", self._key, f"{max(timeout, 0.001):.3f}")  # 0 would block forever
            if reply is None:
                return ()
            rest = self._ask("LPOP", self._key, MOST_NOTICES)
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error
        return [as_text(reply[1]), *map(as_text, rest or ())]

    def close(self) -> None:
        self._closed = True
        connection = self._connection
        if connection is not None:
            cut(connection.fileno())

    def _ask(self, *command: Any) -> Any:
        client = self._connections.for_blocking(self._longest)  # of the current thread
        self._connection = connection = client.send([packed(command)])
        try:
            if self._closed:
                cut(connection.fileno())
            (reply,) = client.receive(connection, 1)
        finally:
            self._connection = None
        if self._closed:
            raise StoreUnavailable(f"the notices of {self._connections.name} are closed")
        if isinstance(reply, Exception):
            raise reply
        return reply
