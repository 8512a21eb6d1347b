"""Values that are kept with locks, in a SQLite file."""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from celery_locks.stores.sqlite_clock import microseconds
from celery_locks.stores.sqlite_leases import SWEEP, Leases

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS celery_locks_value (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    deadline INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS celery_locks_value_deadline ON celery_locks_value (deadline);
"""
_EXPIRED = (
    "DELETE FROM celery_locks_value WHERE name IN "
    "(SELECT name FROM celery_locks_value WHERE deadline <= ? ORDER BY deadline LIMIT ?)"
)


class SQLiteValues:
    """The part of `SQLiteStore` that keeps values."""

    values = True

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        def work(db: sqlite3.Connection, leases: Leases, now: int) -> bool:
            db.execute(_EXPIRED, (now, SWEEP))
            query = "SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
            if db.execute(query, (name, token, now)).fetchone() is None:
                return False
            values = (name, text, now + microseconds(keep))
            db.execute("INSERT OR REPLACE INTO celery_locks_value VALUES (?, ?, ?)", values)
            return True

        return self._write_at(work)

    def value(self, name: str) -> str | None:
        query = "SELECT text FROM celery_locks_value WHERE name = ? AND deadline > ?"
        row = self._read_at(lambda db, leases, now: db.execute(query, (name, now)).fetchone())
        return None if row is None else str(row[0])

    def delete(self, name: str) -> bool:
        query = "DELETE FROM celery_locks_value WHERE name = ? AND deadline > ?"
        return self._write_at(lambda db, leases, now: db.execute(query, (name, now)).rowcount > 0)

    @abstractmethod
    def _read_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T: ...

    @abstractmethod
    def _write_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T: ...
