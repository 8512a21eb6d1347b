"""The sweeper of expired rows: each process deletes a few at a time, after its own requests."""

from __future__ import annotations

import random

from celery_locks import _logging
from celery_locks._runtime.clock import monotonic
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.database import Database
from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.renewal import marks
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sql.session import forget_at

logger = _logging.logger(__name__)

#: Seconds between two sweeps of a process, and after a sweep that left some rows.
SWEEP_SECONDS, NEXT_SWEEP_SECONDS = 10.0, 0.1
#: The most rows of a table that one sweep deletes or checks.
MOST_ROWS_SWEPT = 500
#: Seconds that a sweep may take. The user's request waits for it.
SWEEP_TIMEOUT_SECONDS = 1.0
#: A row of one of these tables keeps the row of its lock.
NEEDED_FOR = ("holder", "waiter", "taken", "ticket")


class Sweeper:
    """The sweeper of one store in this process.

    Args:
        database: The store's server.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = monotonic() + random.uniform(0, SWEEP_SECONDS)

    def sweep_if_due(self) -> None:
        """Sweep if it is time to."""
        if monotonic() < self._next:
            return
        # The process's other threads don't sweep until then. Should two begin in the same moment, that does no harm. An
        # exception may interrupt this thread anywhere, so no mutex is held.
        self._next = monotonic() + SWEEP_SECONDS
        try:
            if self.sweep():
                self._next = monotonic() + NEXT_SWEEP_SECONDS
        except StoreUnavailable as error:
            logger.debug("sweeping failed: %s", error)

    def sweep(self) -> bool:
        """Delete a few expired rows of each table, except rows that another transaction has locked.

        Returns:
            Whether more rows may be left.

        Raises:
            StoreUnavailable: The store did not answer in time. All transactions share `SWEEP_TIMEOUT_SECONDS`.
        """
        give_up = monotonic() + min(SWEEP_TIMEOUT_SECONDS, self._database.timeout)
        now = self._database.single(lambda db: int(db.execute("SELECT CLOCK").fetchone()[0]), _left(give_up))
        most = self._database.transaction(lambda db: self._expired(db, now), _left(give_up))
        return max(most, self._locks(now, give_up)) >= MOST_ROWS_SWEPT

    def _expired(self, connection: Connection, now: int) -> int:
        return max(
            connection.dialect.delete_some(connection, table, now - table.kept, MOST_ROWS_SWEPT) for table in TABLES
        )

    def _locks(self, now: int, give_up: float) -> int:
        """Delete the rows of idle locks. Check the others again later."""
        due = self._database.single(lambda db: self._due(db, now), _left(give_up))
        if due:
            # Two transactions: the greatest fencing token is committed before the first row is deleted.
            self._database.single(lambda db: self._note_fence(db, due), _left(give_up))
            self._database.transaction(lambda db: self._forget(db, due, now), _left(give_up))
        return len(due)

    def _due(self, connection: Connection, now: int) -> list[str]:
        query = f"SELECT name FROM celery_locks_lock WHERE forget_at <= ? ORDER BY forget_at LIMIT {MOST_ROWS_SWEPT}"
        return [name for (name,) in connection.execute(query, (now,))]

    def _note_fence(self, connection: Connection, names: list[str]) -> None:
        query = (
            "UPDATE celery_locks_meta SET last_fencing_token = greatest(last_fencing_token, "
            f"(SELECT coalesce(max(fence), 0) FROM celery_locks_lock WHERE name IN ({marks(names)})))"
        )
        connection.execute(query, names)

    def _forget(self, connection: Connection, names: list[str], now: int) -> None:
        """Delete rows that are still due. A change to a lock would have moved its `forget_at`."""
        query = (
            f"SELECT name FROM celery_locks_lock WHERE name IN ({marks(names)}) AND forget_at <= ? "
            "AND fence <= (SELECT last_fencing_token FROM celery_locks_meta) ORDER BY name FOR UPDATE SKIP LOCKED"
        )
        mine = [name for (name,) in connection.execute(query, (*names, now))]
        if not mine:
            return
        known = " OR ".join(
            f"EXISTS (SELECT 1 FROM celery_locks_{table} t WHERE t.name = l.name)" for table in NEEDED_FOR
        )
        query = f"SELECT name FROM celery_locks_lock l WHERE name IN ({marks(mine)}) AND (deadline > ? OR {known})"
        needed = [name for (name,) in connection.execute(query, (*mine, now))]
        idle = sorted(set(mine) - set(needed))
        if needed:
            connection.dialect.keep_locks(connection, needed, forget_at(now))
        if idle:
            connection.dialect.delete_locks(connection, idle)


def _left(give_up: float) -> float:
    """Return the seconds that are left for a sweep.

    Raises:
        StoreUnavailable: None are left.
    """
    left = give_up - monotonic()
    if left <= 0:
        raise StoreUnavailable(f"a sweep took longer than {SWEEP_TIMEOUT_SECONDS:g} s")
    return left
