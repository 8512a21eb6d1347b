"""``sqlite:////path``: leases in a file, for any number of processes on one machine."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from itertools import cycle, islice
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_locks.clock import Clock, system_clock
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.stores import sqlite_clock
from celery_locks.stores.base import Renewal
from celery_locks.stores.sql.base import TableStore
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.schema import TABLES, TableSchema, Types, statements
from celery_locks.stores.sql.session import Answer, Session
from celery_locks.stores.sqlite_clock import FileClock
from celery_locks.stores.sqlite_file import SQLiteFile

T = TypeVar("T")

#: Seconds between two looks of a waiter: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.002, 0.05
#: Seconds between two looks for something due: the first, and the longest.
FIRST_DUE_LOOK, LONGEST_DUE_LOOK = 0.02, 0.25
#: How many expired rows of one table a write takes away: of each in turn.
SWEEP = 20

TYPES = Types(key="TEXT", text="TEXT", int="INTEGER", end=" WITHOUT ROWID")
SCHEMA = [*sqlite_clock.SCHEMA, *statements(TABLES, TYPES)]


class SQLiteSession(Session):
    """A transaction on the file."""

    def __init__(self, db: sqlite3.Connection, clock: FileClock, writing: bool) -> None:
        self._db = db
        self.now, self._last_fencing_token = clock.read(db, writing)

    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        return self._db.execute(query, values)

    def put(self, table: str, key: Sequence[str], row: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
        self._db.execute(_upsert(table, tuple(key), tuple(row), tuple(keep)), tuple(row.values()))

    def next_fencing_token(self) -> int:
        self._last_fencing_token = FileClock.next_fencing_token(self._db, self.now, self._last_fencing_token)
        return self._last_fencing_token


@cache
def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key + keep)
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO celery_locks_{table} ({', '.join(columns)}) VALUES ({marks}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )


def _sweep(table: TableSchema) -> str:
    key, name = ", ".join(table.key), f"celery_locks_{table.name}"
    return (
        f"DELETE FROM {name} WHERE ({key}) IN "
        f"(SELECT {key} FROM {name} WHERE deadline <= ? - {table.kept} ORDER BY deadline LIMIT {SWEEP})"
    )


#: Takes away a few rows of a table whose time is over.
_SWEEPS = [_sweep(table) for table in TABLES]


class SQLiteStore(TableStore):
    """Leases in a file.

    Args:
        path: The file; made when it is missing. Its folder must be there, on a disk of this machine.
        timeout: Seconds to wait for a file that others are writing.
        clock: The machine's local clock; this and the next two are for tests.
        wall: The wall clock, seconds since 1970.
        boot: The id of this start of the machine.
    """

    machines = False

    def __init__(
        self,
        path: str,
        timeout: float = 30.0,
        *,
        clock: Clock = system_clock,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._file = SQLiteFile(path, SCHEMA, timeout)
        self._clock = FileClock(clock, wall, boot)
        # Not always from the first one on: a process may write but once or twice.
        self._sweeps = islice(cycle(_SWEEPS), random.randrange(len(_SWEEPS)), None)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        give_up, pause = time.monotonic() + timeout, FIRST_LOOK
        while not (tokens := self._turns_of(places)):
            left = give_up - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(random.uniform(pause / 2, pause), left))
            pause = min(pause * 1.5, LONGEST_LOOK)
        return tokens

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        return self._write("", lambda session: [Leases(session).renew(renewal) for renewal in renewals])

    def await_due(self, prefix: str, timeout: float) -> None:
        give_up, pause = time.monotonic() + timeout, FIRST_DUE_LOOK
        while not self._look(prefix, 1):
            left = give_up - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_DUE_LOOK)

    def about(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def ping(self) -> None:
        self._write("", lambda session: None)

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        return self._file.read(lambda db: work(SQLiteSession(db, self._clock, writing=False)))

    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        def change(db: sqlite3.Connection) -> T:
            session = SQLiteSession(db, self._clock, writing=True)
            result = work(session)
            db.execute(next(self._sweeps), (session.now,))
            return result

        return self._file.write(change)


def open_sqlite(url: str) -> SQLiteStore:
    """The store of ``sqlite:////absolute/path`` or ``sqlite:///relative/path``, with ``?timeout=`` in seconds.

    Raises:
        LockConfigError: The URL names no file, or has an option that is not known.
    """
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.netloc or not path:
        raise LockConfigError(f"{url} names no file: write sqlite:////absolute/path or sqlite:///relative/path")
    if path == ":memory:":
        raise LockConfigError(f"{url} would be empty for every process: memory:// keeps leases within one process")
    if parts.fragment or "\0" in path:
        raise LockConfigError(f"{url} has a # or NUL in its path; write %23 for #, a NUL can't be in a file's name")
    return SQLiteStore(path, _timeout(url, parts.query))


def _timeout(url: str, query: str) -> float:
    options = dict(parse_qsl(query, keep_blank_values=True))
    timeout = options.pop("timeout", "30")
    if options:
        raise LockConfigError(f"{url} has options that this store doesn't know: {', '.join(options)}; it has timeout")
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise LockConfigError(f"{url} has timeout={timeout}; write a number of seconds, like timeout=30")
    return seconds
