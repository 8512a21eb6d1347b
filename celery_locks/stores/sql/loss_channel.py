"""PostgreSQL's notices that leases were taken by force. Each process listens on a channel and connection of its own.

Waiters use another connection, since this one belongs to a real thread, also in a process of greenlets.
"""

from __future__ import annotations

import selectors
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.loss_feed import LossFeed, cut
from celery_locks.stores.sql.database import Database


class LossChannel(LossFeed):
    """The loss feed of one process.

    Args:
        database: The server to listen at.
        channel: The name of the channel.
    """

    def __init__(self, database: Database, channel: str) -> None:
        self._database = database
        self._channel = channel
        self._closed = False
        self._connection: Any = None

    def wait(self, timeout: float) -> Collection[str] | None:
        try:
            if self._connection is None:
                self._connection = self._database.connect()
                self._connection.execute(f'LISTEN "{self._channel}"')
                return None
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection.fileno(), selectors.EVENT_READ)
                if not self._closed and not selector.select(timeout):
                    return ()
            return self._notices()
        except StoreUnavailable:
            self._disconnect()
            raise
        except Exception as error:  # the driver's
            self._disconnect()
            name, kind = self._database.name, type(error).__name__
            raise StoreUnavailable(f"the notices of the lock store {name} ended: {kind}") from error
        except BaseException:
            self._disconnect()
            raise

    def close(self) -> None:
        self._closed = True
        with suppress(Exception):  # the connection is closed, or was never opened
            cut(self._connection.fileno())

    def _notices(self) -> set[str]:
        if self._closed:
            self._disconnect()
            return set()
        connection, tokens = self._connection, set[str]()
        connection.pgconn.consume_input()
        while (notice := connection.pgconn.notifies()) is not None:
            tokens.add(notice.extra.decode(errors="replace"))
        return tokens

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        with suppress(Exception):
            if connection is not None:
                connection.close()
