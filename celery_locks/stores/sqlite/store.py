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

from celery_locks._addresses import mask
from celery_locks._runtime.clock import Clock, system_clock, wall_time
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.stores.parking import Dispatch, RunEndName
from celery_locks.stores.sql.base import TableStore, check_numbers
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.schema import TABLES, TableSchema, Types, added_columns, index_statements, table_statement
from celery_locks.stores.sql.session import Answer, Session, microseconds
from celery_locks.stores.sqlite import clock
from celery_locks.stores.sqlite.clock import AS_SET, FileClock
from celery_locks.stores.sqlite.file import SQLiteFile
from celery_locks.stores.sqlite.location import MOVE_REMEDY, place_checks
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value

T = TypeVar("T")

#: Seconds between two queries of a waiter: the first pause, and the longest.
FIRST_QUERY_PAUSE_SECONDS, LONGEST_QUERY_PAUSE_SECONDS = 0.002, 0.05
#: Seconds between two queries for due tickets: the first pause, the longest, and the shortest before a known moment.
FIRST_DUE_PAUSE_SECONDS, LONGEST_DUE_PAUSE_SECONDS, SHORTEST_DUE_PAUSE_SECONDS = 0.02, 0.25, 0.001
#: One write in `WRITES_PER_SWEEP` deletes up to `MOST_ROWS_SWEPT` expired rows of one table, of each table in turn.
WRITES_PER_SWEEP, MOST_ROWS_SWEPT = 32, 400

TYPES = Types(key="TEXT", text="TEXT", int="INTEGER", end=" WITHOUT ROWID")


def make_tables(db: sqlite3.Connection) -> None:
    """Create missing tables, and add missing columns to tables of older versions."""
    for statement in clock.SCHEMA:
        db.execute(statement)
    for table in TABLES:
        db.execute(table_statement(table, TYPES))
        known = {row[1] for row in db.execute(f"PRAGMA table_info(celery_locks_{table.name})")}
        for column, changes in added_columns(table, TYPES).items():
            for change in changes if column not in known else ():
                db.execute(f"ALTER TABLE celery_locks_{table.name} {change}")
        for statement in index_statements(table, TYPES):
            db.execute(statement)
    db.execute(clock.TRIGGER)


# A free lock is acquired, and released, by one statement. It changes nothing if there are waiters or tickets. The clock
# is read before the statement. If the statement is delayed, the lease is shorter, and its fencing token is still the
# greatest. A release that began before the deadline counts as one in time.
_ACQUIRE = """
INSERT INTO celery_locks_holder (name, token, owner, permits, most, fencing_token, since, deadline)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7 FROM celery_locks_clock
WHERE last_fencing_token < ?6 AND boot = ?8 AND ahead = ?9
  AND NOT EXISTS (SELECT 1 FROM celery_locks_holder WHERE name = ?1)
  AND NOT EXISTS (SELECT 1 FROM celery_locks_waiter WHERE name = ?1)
"""
_RELEASE = f"""
DELETE FROM celery_locks_holder WHERE name = ?1 AND token = ?2 AND deadline > ?3 AND {AS_SET}
  AND NOT EXISTS (SELECT 1 FROM celery_locks_waiter WHERE name = ?1)
  AND NOT EXISTS (SELECT 1 FROM celery_locks_ticket WHERE token = ?2 AND state = 'running' AND name = ?1)
"""


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
        f"(SELECT {key} FROM {name} WHERE deadline <= ? - {table.kept} ORDER BY deadline LIMIT {MOST_ROWS_SWEPT})"
    )


#: Statements that delete a few expired rows, one for each table.
_SWEEPS = [_sweep(table) for table in TABLES]


class SQLiteStore(TableStore):
    """Leases in a file.

    Args:
        path: The file, created if it is missing. Its folder must exist, on a disk of this machine.
        timeout: Seconds to wait while other processes write.
        clock: The machine's local clock. This and the next two are for tests.
        wall: The clock of seconds since 1970.
        boot: The id of this boot of the machine.
    """

    machines = False

    def __init__(
        self,
        path: str,
        timeout: float = 30.0,
        *,
        clock: Clock = system_clock,
        wall: Callable[[], float] = wall_time,
        boot: str | None = None,
    ) -> None:
        self._file = SQLiteFile(path, make_tables, timeout)
        self._clock = FileClock(clock, wall, boot)
        # The start is random, since a process may write only once or twice.
        self._sweeps = islice(cycle(_SWEEPS), random.randrange(len(_SWEEPS)), None)
        self._writes = islice(cycle(range(WRITES_PER_SWEEP)), random.randrange(WRITES_PER_SWEEP), None)

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        check_numbers(claim)
        plain = claim.permits <= claim.limit and not (claim.adopts or claim.replaces or claim.task_id)
        token = self._in_one_statement(lambda db: self._acquire_free(db, claim)) if plain else None
        return super().acquire(claim, line_up) if token is None else Granted(token)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        if value is None and self._in_one_statement(lambda db: self._release_alone(db, name, token)):
            return True
        return super().release(name, token, value)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        if value is None and self._in_one_statement(lambda db: self._release_alone(db, name, token)):
            return True, ()
        return super().end_run(name, token, end, broker=broker, value=value)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        give_up, pause = system_clock.now() + timeout, FIRST_QUERY_PAUSE_SECONDS
        while not (tokens := self._turns_of(places)):
            left = give_up - system_clock.now()
            if left <= 0:
                break
            time.sleep(min(random.uniform(pause / 2, pause), left))
            pause = min(pause * 1.5, LONGEST_QUERY_PAUSE_SECONDS)
        return tokens

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        return self._write("", lambda session: [Leases(session).renew(renewal) for renewal in renewals])

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        give_up, pause = system_clock.now() + timeout, FIRST_DUE_PAUSE_SECONDS
        while (due_in := self._due_in(prefix, broker)) > 0:
            left = give_up - system_clock.now()
            if left <= 0:
                return
            time.sleep(min(pause, left, max(due_in, SHORTEST_DUE_PAUSE_SECONDS)))
            pause = min(pause * 1.5, LONGEST_DUE_PAUSE_SECONDS)

    def about(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def ping(self) -> None:
        self._write("", lambda session: None)

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        """Return the checks of the file's location and journal mode."""
        mode = self._file.run(lambda db: db.execute("PRAGMA journal_mode").fetchone()[0])
        path, journal = self._file.path, ""
        if mode != "wal":
            journal = f"{path} has the journal mode {mode}, so readers wait for writers: {MOVE_REMEDY}"
        return {**place_checks(path), "journal": journal}

    def close(self) -> None:
        self._file.close()

    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        return self._file.read(lambda db: work(SQLiteSession(db, self._clock, writing=False)))

    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        def change(db: sqlite3.Connection) -> T:
            session = SQLiteSession(db, self._clock, writing=True)
            result = work(session)
            if next(self._writes) == 0:
                db.execute(next(self._sweeps), (session.now,))
            return result

        return self._file.write(change)

    def _in_one_statement(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a single statement; ``None`` if it is this write's turn to sweep."""
        return self._file.run(work) if next(self._writes) else None

    def _acquire_free(self, db: sqlite3.Connection, claim: Claim) -> int | None:
        """Acquire a free lock. Return the fencing token, or ``None``."""
        setting = self._clock.setting
        now = self._clock.now(setting)
        asked = (claim.name, claim.token, claim.owner, claim.permits, claim.limit)
        rows = db.execute(_ACQUIRE, (*asked, now, now + microseconds(claim.ttl), *setting)).rowcount
        return now if rows else None

    def _release_alone(self, db: sqlite3.Connection, name: str, token: str) -> bool:
        """Release a lease without waiters that belongs to no parked task. Return whether it did."""
        setting = self._clock.setting
        return db.execute(_RELEASE, (name, token, self._clock.now(setting), *setting)).rowcount > 0


def open_sqlite(url: str) -> SQLiteStore:
    """Return the store of ``sqlite:////absolute/path`` or ``sqlite:///relative/path``, with ``?timeout=`` in seconds.

    Raises:
        LockConfigError: The URL names no file, or has an unknown option.
    """
    parts, shown = urlsplit(url), mask(url)
    path = unquote(parts.path[1:])
    if parts.netloc or not path:
        raise LockConfigError(f"{shown} names no file: write sqlite:////absolute/path or sqlite:///relative/path")
    if path == ":memory:":
        raise LockConfigError(f"{shown} would be empty for every process: memory:// keeps leases within one process")
    if parts.fragment or "\0" in path:
        raise LockConfigError(f"{shown} has a # or NUL in its path; write %23 for #, a NUL can't be in a file's name")
    return SQLiteStore(path, _timeout(shown, parts.query))


def _timeout(shown: str, query: str) -> float:
    options = dict(parse_qsl(query, keep_blank_values=True))
    timeout = options.pop("timeout", "30")
    if options:
        names = (mask(f"?{name}")[1:] for name in options)  # one with an encoded = has a value in it
        raise LockConfigError(f"{shown} has options that this store doesn't know: {', '.join(names)}; it has timeout")
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise LockConfigError(f"{shown} has timeout={timeout}; write a number of seconds, like timeout=30")
    return seconds
