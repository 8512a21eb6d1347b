"""``sqlite:////path``: leases in a file, for any number of processes on one machine."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_locks.clock import Clock, system_clock
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.stores.base import Claim, Granted, Holder, Refused, Renewal, Store
from celery_locks.stores.sqlite_clock import FileClock
from celery_locks.stores.sqlite_file import SQLiteFile
from celery_locks.stores.sqlite_leases import SCHEMA, Leases
from celery_locks.stores.sqlite_listing import SQLiteListing
from celery_locks.stores.sqlite_tickets import SCHEMA as TICKETS
from celery_locks.stores.sqlite_tickets import SQLiteParking, tidy_up
from celery_locks.stores.sqlite_values import SCHEMA as VALUES
from celery_locks.stores.sqlite_values import SQLiteValues

T = TypeVar("T")

#: Seconds between two looks of a waiter: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.002, 0.05


class SQLiteStore(SQLiteParking, SQLiteListing, SQLiteValues, Store):
    """Leases in a file.

    Args:
        path: The file; made when it is missing. Its folder must be there, on a disk of this machine.
        timeout: Seconds to wait for a file that others are writing.
        clock: The machine's local clock; this and the next two are for tests.
        wall: The wall clock, seconds since 1970.
        boot: The id of this start of the machine.
    """

    machines = False
    waits_for = 100

    def __init__(
        self,
        path: str,
        timeout: float = 30.0,
        *,
        clock: Clock = system_clock,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self._file = SQLiteFile(path, SCHEMA + TICKETS + VALUES, timeout)
        self._clock = FileClock(clock, wall, boot)

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        return self._write(lambda leases: leases.acquire(claim, line_up))

    def leave(self, name: str, token: str) -> None:
        def work(db: sqlite3.Connection, leases: Leases, now: int) -> None:
            leases.leave(name, token)
            tidy_up(db, leases, now, name, "")  # a run that was granted meanwhile goes on

        self._write_at(work)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        def look(leases: Leases) -> list[str]:
            # However many wait for a lock, only the first in line may go.
            heads = {name: leases.head(name) for name in dict(places)}
            first = ((name, token) for name, token in places if (head := heads[name]) is None or head[0] == token)
            return [token for name, token in first if leases.may_go(name, token)]

        give_up, pause = time.monotonic() + timeout, FIRST_LOOK
        while not (tokens := self._read(look)):
            left = give_up - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(random.uniform(pause / 2, pause), left))
            pause = min(pause * 1.5, LONGEST_LOOK)
        return tokens

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        return self._write(lambda leases: [leases.renew(renewal) for renewal in renewals])

    def release(self, name: str, token: str) -> bool:
        def work(db: sqlite3.Connection, leases: Leases, now: int) -> bool:
            released = leases.release(name, token)
            tidy_up(db, leases, now, name, token)
            return released

        return self._write_at(work)

    def force_release(self, name: str) -> tuple[Holder, ...]:
        def work(db: sqlite3.Connection, leases: Leases, now: int) -> tuple[Holder, ...]:
            holders = leases.force_release(name)
            tidy_up(db, leases, now, name, "")
            return holders

        return self._write_at(work)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return self._read(lambda leases: leases.holders(name))

    def held(self, name: str) -> int:
        return self._read(lambda leases: leases.used(name))

    def ping(self) -> None:
        self._write(lambda leases: None)

    def close(self) -> None:
        self._file.close()

    def _read(self, work: Callable[[Leases], T]) -> T:
        return self._read_at(lambda db, leases, now: work(leases))

    def _write(self, work: Callable[[Leases], T]) -> T:
        return self._write_at(lambda db, leases, now: work(leases))

    def _read_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T:
        def look(db: sqlite3.Connection) -> T:
            now, last_fencing_token = self._clock.read(db, writing=False)
            return work(db, Leases(db, now, last_fencing_token), now)

        return self._file.read(look)

    def _write_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T:
        def change(db: sqlite3.Connection) -> T:
            now, last_fencing_token = self._clock.read(db, writing=True)
            leases = Leases(db, now, last_fencing_token)
            result = work(db, leases, now)
            leases.sweep()
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
