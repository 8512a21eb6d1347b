"""Waking waiters by PostgreSQL's ``NOTIFY``: one connection of a process listens for all that wait in it.

Whether notices come is tried before anybody relies on it: behind a transaction pooler ``LISTEN`` seems to work, and
nothing ever comes. As long as it doesn't work, waiters look for themselves.
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

#: The notice for the sweepers of a broker, and the kind of it: see `notice`.
DUE = "due"
#: Seconds between two looks of a sweeper. What is due sooner than that is notified.
DUE_LOOK = 1.0
#: Seconds within which the first notice must have come.
PROBED = 2.0
#: Seconds before it is tried again: after a broken connection, and where notices don't come.
BROKEN, DEAF = 0.5, 60.0
#: Seconds that the connection is kept when nobody waits.
IDLE = 300.0


class Listener:
    """A thread that listens while anybody waits. Each process needs its own.

    Args:
        database: Where to listen.
        sender: Where notices are sent: the first one, which must arrive, comes from there.
        channel: PostgreSQL's.
    """

    def __init__(self, database: Database, sender: Database, channel: str) -> None:
        #: Who is told.
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
        """Whether notices come."""
        return self.subscriptions.hearing

    @contextmanager
    def expecting(self, subscriptions: Collection[Subscription]) -> Iterator[threading.Event]:
        """See `Subscriptions.expecting`; meanwhile somebody listens."""
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
        """Ends the thread soon. Who still waits looks for itself."""
        self._closed.set()
        self.subscriptions.doubt(hearing=False)

    # --- The thread ---

    def _run(self) -> None:
        while not self._over():
            pause = BROKEN
            try:
                with self._connected() as connection:
                    pause = self._listen(connection)
            except StoreUnavailable as error:
                logger.warning("waiting by looking again: %s", error)
            except Exception as error:  # the driver's; the connection ended
                logger.warning("listening to %s ended: %s", self._database.name, type(error).__name__)
            self.subscriptions.doubt(hearing=False)
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
        """Listens until it is no longer needed.

        Returns:
            Seconds before another try, where notices don't come.
        """
        connection.execute(f'LISTEN "{self._channel}"')
        probe = f"probe:{secrets.token_hex(8)}"
        query = "SELECT pg_notify(?, ?)"
        self._sender.single(lambda sender: sender.execute(query, (self._channel, probe)).fetchall())
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            until = monotonic() + PROBED
            while not self._over():
                selector.select(1.0 if not self.working else IDLE / 10)
                if probe in self._heard(connection):
                    self.subscriptions.doubt(hearing=True)
                if not self.working and monotonic() > until and not self._closed.is_set():
                    logger.warning(
                        "no notices come from %s: waiting by looking again. Behind a pooler of transactions give "
                        "listen= an address past it",
                        self._database.name,
                    )
                    return DEAF
        return 0.0

    def _heard(self, connection: Any) -> set[str]:
        """Wakes those for whom notices have come."""
        connection.pgconn.consume_input()
        heard = set[str]()
        while (told := connection.pgconn.notifies()) is not None:
            heard.add(told.extra.decode(errors="replace"))
        self.subscriptions.tell(heard)
        return heard

    def _over(self) -> bool:
        """Whether nobody has waited for long. Then the next one who waits starts another thread."""
        with self._mutex:
            idle = not self.subscriptions.waiting and monotonic() > self._idle_since + IDLE
            if idle or self._closed.is_set():
                self._thread = None
                self.subscriptions.doubt(hearing=False)
                return True
        return False
