"""Taking away rows whose time is over, a few at a time, by whoever is there."""

from __future__ import annotations

import os
import random
import threading
import time

from celery_locks import log
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.database import Connection, Database
from celery_locks.stores.sql.schema import TABLES

logger = log.logger(__name__)

#: Seconds between two sweeps of a process, and after one that left something.
EVERY, SOON = 10.0, 0.1
#: How many rows of a table one sweep takes away at most.
MOST = 500
#: Seconds that a statement of it may take: somebody waits for its end.
TIMEOUT = 1.0


class Sweeper:
    """Sweeps every now and then.

    Args:
        database: The store's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = time.monotonic() + random.uniform(0, EVERY)
        self._alone = os.getpid(), threading.Lock()

    def now_and_then(self) -> None:
        """Sweeps if it is time to, and nobody else of this process does."""
        if time.monotonic() < self._next:
            return
        if self._alone[0] != os.getpid():  # a fork may have doubled it while it was taken
            self._alone = os.getpid(), threading.Lock()
        mutex = self._alone[1]
        if not mutex.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + EVERY
            if self.sweep():
                self._next = time.monotonic() + SOON
        except StoreUnavailable as error:
            logger.debug("sweeping failed: %s", error)
        finally:
            mutex.release()

    def sweep(self) -> bool:
        """Takes away a few rows of each table.

        Returns:
            Whether there are more.
        """
        dialect = self._database.dialect
        most = 0
        for table in TABLES:
            statement = dialect.delete_some(table, MOST)
            most = max(most, self._database.single(lambda db, s=statement: db.run(s).rowcount, TIMEOUT))  # type: ignore[misc]
        return max(most, self._locks()) >= MOST

    def _locks(self) -> int:
        """Takes away the rows of locks that nothing was heard of for long, and nothing is known of."""
        names = self._database.single(self._idle, TIMEOUT)
        if names:
            # Two steps: the greatest token is noted for all to see before the first row goes.
            self._database.single(lambda db: self._note_fence(db, names), TIMEOUT)
            self._database.single(lambda db: self._forget(db, names), TIMEOUT)
        return len(names)

    def _idle(self, connection: Connection) -> list[str]:
        unknown = " AND NOT EXISTS ".join(
            f"(SELECT 1 FROM celery_locks_{name} t WHERE t.name = l.name)"
            for name in ("holder", "waiter", "taken", "ticket")
        )
        query = f"SELECT name FROM celery_locks_lock l WHERE forget_at <= CLOCK AND NOT EXISTS {unknown} LIMIT {MOST}"
        return [name for (name,) in connection.execute(query)]

    def _note_fence(self, connection: Connection, names: list[str]) -> None:
        query = (
            "UPDATE celery_locks_meta SET last_fencing_token = greatest(last_fencing_token, "
            f"(SELECT coalesce(max(fence), 0) FROM celery_locks_lock WHERE name IN ({_marks(names)})))"
        )
        connection.execute(query, names)

    def _forget(self, connection: Connection, names: list[str]) -> None:
        """Whoever does anything to a lock moves `forget_at` of its row first: what is still due is still idle."""
        query = (
            f"DELETE FROM celery_locks_lock WHERE name IN ({_marks(names)}) AND forget_at <= CLOCK "
            "AND fence <= (SELECT last_fencing_token FROM celery_locks_meta)"
        )
        connection.execute(query, names)


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))
