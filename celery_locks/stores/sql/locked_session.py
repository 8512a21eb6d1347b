"""Transactions with exclusive access to one lock, by locking its row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from celery_locks._runtime.tokens import process_of
from celery_locks.stores.sql import stored_functions
from celery_locks.stores.sql.clock import moment_of
from celery_locks.stores.sql.dialects import Connection, Dialect, MySQL
from celery_locks.stores.sql.listener import DUE, DUE_QUERY_SECONDS
from celery_locks.stores.sql.session import Answer, Session, forget_at
from celery_locks.stores.sql.subscriptions import notice

# The row's clock never goes back, even if the server's clock does. The clock is read in a later statement, so that no
# transaction acts on a reading from before it waited for the row.
_OPEN_MYSQL = "SELECT 1 FROM celery_locks_lock WHERE name = ? FOR UPDATE"
# `raise_clock` can't lock a row that does not exist yet. So the new row's transaction shares the row of `meta`.
_INSERT_MYSQL = (
    "INSERT INTO celery_locks_lock (name, touched, fence, watched, forget_at, crowd) "
    "SELECT ?, 0, last_fencing_token, 0, 0, 0 FROM "
    "(SELECT coalesce(max(last_fencing_token), 0) AS last_fencing_token FROM celery_locks_meta LOCK IN SHARE MODE) m "
    "ON DUPLICATE KEY UPDATE touched = celery_locks_lock.touched"
)
_OPENED = "SELECT touched, CLOCK, token, fence, ended, forget_at FROM celery_locks_lock WHERE name = ?"
# All steps but a plain acquire and its release expect holders in their table: see functions/move_holder.sql.
_SPILL_MYSQL = (
    "REPLACE INTO celery_locks_holder (name, token, owner, permits, most, fencing_token, since, deadline) "
    "SELECT name, token, owner, permits, most, fence, since, deadline FROM celery_locks_lock WHERE name = ?"
)
_LEASES = (
    "(SELECT owner, fencing_token, permits, since, deadline, token, most FROM celery_locks_holder WHERE name = ? "
    "UNION ALL SELECT owner, fence, permits, since, deadline, token, most FROM celery_locks_lock "
    "WHERE name = ? AND token <> '') leases WHERE 1 = 1"
)


class ServerSession(Session):
    """A session for reading.

    Args:
        connection: The connection of its transaction.
        now: The lock's moment.
    """

    has_locks = True

    def __init__(self, connection: Connection, now: int) -> None:
        self._connection = connection
        self.now = now
        self.repeated = connection.repeated

    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        return self._connection.execute(query, values)

    def put(self, table: str, key: Sequence[str], row: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
        statement = self._connection.dialect.upsert(table, tuple(key), tuple(row), tuple(keep))
        self._connection.run(statement, tuple(row.values()))

    def leases_of(self, name: str) -> tuple[str, tuple[Any, ...]]:
        return _LEASES, (name, name)

    def next_fencing_token(self) -> int:
        raise AssertionError("a session for reading gives no fencing token")


class LockedSession(ServerSession, ABC):
    """A transaction that has locked the row of a lock, and has moved its holder to the table of holders."""

    leases_of = Session.leases_of

    def __init__(self, connection: Connection, name: str) -> None:
        now, self.fence, self.released, self._forget_at = self._open(connection, name)
        super().__init__(connection, now)
        self.name = name

    def next_fencing_token(self) -> int:
        self.fence = max(self.fence + 1, self.now)
        return int(self.fence)

    def need_until(self, moment: int) -> None:
        self._forget_at = max(self._forget_at, forget_at(moment))

    @abstractmethod
    def _open(self, connection: Connection, name: str) -> tuple[int, int, str, int]:
        """Lock the row. Return its moment, last fencing token, the token whose lease ended last, and ``forget_at``."""

    @abstractmethod
    def finish(self) -> None:
        """Write the changes to the lock's row."""


class PostgreSQLLock(LockedSession):
    """A locked session in PostgreSQL. It notifies sweepers of tickets that are due before their next look."""

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name)
        self._notices = set[str]()

    def note_due(self, broker: str, moment: int) -> None:
        if moment < self.after(DUE_QUERY_SECONDS):
            self._notices.add(notice(DUE, self._connection.dialect.encode(broker)))

    def _open(self, connection: Connection, name: str) -> tuple[int, int, str, int]:
        return stored_functions.open_lock(connection, name)

    def notify_lost(self, tokens: Sequence[str]) -> None:
        dialect = self._connection.dialect
        lost = [(process, token) for token in tokens if (process := process_of(token)) is not None]
        if lost:  # anyone may read the notice, but the lease of this token has ended
            channels = [dialect.loss_channel(process) for process, _ in lost]
            query = "SELECT pg_notify(n.channel, n.token) FROM unnest(?::text[], ?::text[]) AS n (channel, token)"
            self.execute(query, (channels, [token for _, token in lost]))

    def finish(self) -> None:
        """Write the row, and notify waiters and sweepers."""
        row = (self.now, self.fence, self.released, self._forget_at)
        stored_functions.finish(self._connection, self.name, row, self._notices)


class MySQLLock(LockedSession):
    """A locked session in MySQL or MariaDB."""

    def _open(self, connection: Connection, name: str) -> tuple[int, int, str, int]:
        if connection.execute(_OPEN_MYSQL, (name,)).fetchone() is None:
            connection.execute(_INSERT_MYSQL, (name,))
        touched, clock, token, *row = connection.execute(_OPENED, (name,)).fetchone()
        if token:
            connection.execute(_SPILL_MYSQL, (name,))
        return moment_of(touched, clock), *row

    def finish(self) -> None:
        query = (
            "UPDATE celery_locks_lock SET touched = ?, fence = ?, ended = ?, forget_at = ?, token = '', deadline = 0, "
            "crowd = EXISTS (SELECT 1 FROM celery_locks_holder h WHERE h.name = ? AND h.deadline > ?) "
            "OR EXISTS (SELECT 1 FROM celery_locks_waiter w WHERE w.name = ? AND w.deadline > ?) WHERE name = ?"
        )
        self.need_until(self.now)
        row = (self.now, self.fence, self.released, self._forget_at)
        self.execute(query, (*row, self.name, self.now, self.name, self.now, self.name))


def lock_of(dialect: Dialect) -> type[LockedSession]:
    """Return the class of locked sessions for a dialect."""
    return MySQLLock if isinstance(dialect, MySQL) else PostgreSQLLock


def read_session(connection: Connection, name: str) -> ServerSession:
    """Return a session for queries about a lock; about all locks if the name is empty."""
    query = "SELECT greatest(coalesce(max(touched), 0), CLOCK) FROM celery_locks_lock WHERE name = ?"
    return ServerSession(connection, int(connection.execute(query, (name,)).fetchone()[0]))
