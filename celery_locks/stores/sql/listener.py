"""Notices to waiters by PostgreSQL's ``NOTIFY``. One connection of a process listens for all its waiters.

Behind a transaction pooler ``LISTEN`` seems to work, and no notice ever arrives. So the listener first sends itself a
notice. As long as none arrives, waiters query the database.
"""

from __future__ import annotations

import random
import secrets
import selectors
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celery_locks import _logging
from celery_locks._runtime.clock import monotonic
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.database import Database
from celery_locks.stores.sql.subscriptions import Subscription, Subscriptions

logger = _logging.logger(__name__)

#: The kind of the notices for sweepers; see `notice`.
DUE = "due"
#: Seconds between two queries of a sweeper. A ticket that is due sooner than that causes a notice.
DUE_QUERY_SECONDS = 1.0
#: Seconds within which the first notice must arrive.
PROBE_TIMEOUT_SECONDS = 2.0
#: Seconds before the next try: after a broken connection, and if no notices arrive.
RECONNECT_SECONDS, NO_NOTICES_RETRY_SECONDS = 0.5, 60.0
#: Seconds that the connection is kept without waiters.
IDLE_LISTENER_SECONDS = 300.0


class Listener:
    """A thread that listens while others wait. Each process needs its own.

    Args:
        database: The server to listen at.
        sender: The server through which the first notice is sent.
        channel: The name of the channel.
    """

    def __init__(self, database: Database, sender: Database, channel: str) -> None:
        #: The subscriptions that notices are delivered to.
        self.subscriptions = Subscriptions()
        self._database = database
        self._sender = sender
        self._channel = channel
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._idle_since = 0.0
        self._closed = threading.Event()

    @property
    def working(self) -> bool:
        """Whether notices arrive."""
        return self.subscriptions.hearing

    @contextmanager
    def expecting(self, subscriptions: Collection[Subscription]) -> Iterator[threading.Event]:
        """Provide the event of `Subscriptions.expecting`, and listen meanwhile."""
        with self.subscriptions.expecting(subscriptions) as event:
            with self._mutex:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="celery-locks-sql-listener", daemon=True)
                    self._thread.start()
            try:
                yield event
            finally:
                self._idle_since = monotonic()

    def close(self) -> None:
        """End the thread soon. Remaining waiters query the database."""
        self._closed.set()
        self.subscriptions.set_hearing(hearing=False)

    # --- The thread ---

    def _run(self) -> None:
        while not self._over():
            pause = RECONNECT_SECONDS
            try:
                with self._connected() as connection:
                    pause = self._listen(connection)
            except StoreUnavailable as error:
                logger.warning("waiting by looking again: %s", error)
            except Exception as error:  # an error of the driver: the connection ended
                logger.warning("listening to %s ended: %s", self._database.name, type(error).__name__)
            self.subscriptions.set_hearing(hearing=False)
            self._closed.wait(random.uniform(pause / 2, pause))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        connection = self._database.connect()
        try:
            yield connection
        finally:
            with suppress(Exception):
                connection.close()

    def _listen(self, connection: Any) -> float:
        """Listen until no thread waits any more.

        Returns:
            Seconds before another try, if no notices arrive.
        """
        connection.execute(f'LISTEN "{self._channel}"')
        probe = f"probe:{secrets.token_hex(8)}"
        query = "SELECT pg_notify(?, ?)"
        self._sender.single(lambda sender: sender.execute(query, (self._channel, probe)).fetchall())
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            until = monotonic() + PROBE_TIMEOUT_SECONDS
            while not self._over():
                selector.select(1.0 if not self.working else IDLE_LISTENER_SECONDS / 10)
                if probe in self._heard(connection):
                    self.subscriptions.set_hearing(hearing=True)
                if not self.working and monotonic() > until and not self._closed.is_set():
                    logger.warning(
                        "no notices come from %s: waiting by looking again. Behind a pooler of transactions give "
                        "listen= an address past it",
                        self._database.name,
                    )
                    return NO_NOTICES_RETRY_SECONDS
        return 0.0

    def _heard(self, connection: Any) -> set[str]:
        """Wake the threads whose notices have arrived. Return the notices."""
        connection.pgconn.consume_input()
        heard = set[str]()
        while (notice := connection.pgconn.notifies()) is not None:
            heard.add(notice.extra.decode(errors="replace"))
        self.subscriptions.deliver(heard)
        return heard

    def _over(self) -> bool:
        """Return whether no thread has waited for long. The next waiter starts another thread."""
        with self._mutex:
            idle = not self.subscriptions.waiting and monotonic() > self._idle_since + IDLE_LISTENER_SECONDS
            if idle or self._closed.is_set():
                self._thread = None
                self.subscriptions.set_hearing(hearing=False)
                return True
        return False
