"""The notices of a Redis or Valkey server: a list for each process, which it reads by blocking."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.loss_feed import MOST_NOTICES, LossFeed, cut
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.connections import Connections, as_text
from celery_locks.stores.redis.wire.protocol import packed


class LossList(LossFeed):
    """The list of one process, read on a connection of its own.

    Args:
        connections: To the server.
        key: The list.
        longest: The longest that `wait` is to block, in seconds.
    """

    def __init__(self, connections: Connections, key: str, longest: float) -> None:
        self._connections = connections
        self._key = key
        self._longest = longest
        self._closed = False
        #: The one that waits for an answer now.
        self._connection: Connection | None = None

    def wait(self, timeout: float) -> Collection[str]:
        try:
            answer = self._ask("BLPOP", self._key, f"{max(timeout, 0.001):.3f}")  # 0 would block for ever
            if answer is None:
                return ()
            rest = self._ask("LPOP", self._key, MOST_NOTICES)
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error
        return [as_text(answer[1]), *map(as_text, rest or ())]

    def close(self) -> None:
        self._closed = True
        connection = self._connection
        if connection is not None:
            cut(connection.fileno())

    def _ask(self, *command: Any) -> Any:
        client = self._connections.for_blocking(self._longest)  # of the thread that waits
        self._connection = connection = client.send([packed(command)])
        try:
            if self._closed:
                cut(connection.fileno())
            (answer,) = client.receive(connection, 1)
        finally:
            self._connection = None
        if self._closed:
            raise StoreUnavailable(f"the notices of {self._connections.name} are closed")
        if isinstance(answer, Exception):
            raise answer
        return answer
