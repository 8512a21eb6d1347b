"""What is held, in a SQLite file: its tables are the list, ordered by name."""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from celery_locks.stores.listing import MOST_IN_LINE, MOST_LISTED, MOST_PASSED_OVER, Figures, Names, State, Waiter
from celery_locks.stores.parking import TICKET
from celery_locks.stores.sqlite_clock import microseconds
from celery_locks.stores.sqlite_leases import Leases

T = TypeVar("T")

#: How many leases, and how many places in line, `SQLiteStore.stats` counts at most.
MOST_COUNTED = 100_000
#: Greater than what a name goes on with: this is no character.
_END = chr(0x10FFFF)

# One seek a name, also where a lock has many holders.
_NAMES = """
WITH RECURSIVE seek(name) AS (
    SELECT min(name) FROM celery_locks_{table} WHERE name >= :start AND name > :after AND name < :end
    UNION ALL
    SELECT (SELECT min(name) FROM celery_locks_{table} WHERE name > seek.name AND name < :end)
    FROM seek WHERE seek.name IS NOT NULL
)
SELECT name FROM seek WHERE name IS NOT NULL LIMIT :most
"""


class SQLiteListing:
    """The part of `SQLiteStore` that tells what is held."""

    lists = True

    def info(self, name: str) -> State:
        return self._read_at(lambda db, leases, now: replace(_state(db, leases, now, name), line=_line(db, now, name)))

    def page(self, names: Names) -> tuple[tuple[State, ...], str | None]:
        return self._read_at(lambda db, leases, now: _page(db, leases, now, names))

    def stats(self, prefix: str, near: float) -> Figures:
        return self._read_at(lambda db, leases, now: _figures(db, now, f"{prefix}:{{", microseconds(near)))

    @abstractmethod
    def _read_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T: ...


def _state(db: sqlite3.Connection, leases: Leases, now: int, name: str) -> State:
    query = "SELECT count(*) FROM celery_locks_waiter WHERE name = ? AND deadline > ?"
    return State(name, leases.holders(name), leases.used(name), db.execute(query, (name, now)).fetchone()[0])


def _line(db: sqlite3.Connection, now: int, name: str) -> tuple[Waiter, ...]:
    query = "SELECT token FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT ?"
    tokens = [token for (token,) in db.execute(query, (name, now, MOST_IN_LINE))]
    ids = [token.removeprefix(TICKET) for token in tokens if token.startswith(TICKET)]
    query = f"SELECT id, owner, task FROM celery_locks_ticket WHERE name = ? AND id IN ({', '.join('?' * len(ids))})"
    known = {TICKET + id: Waiter(owner, task) for id, owner, task in db.execute(query, (name, *ids))} if ids else {}
    return tuple(known.get(token, Waiter()) for token in tokens)


def _page(db: sqlite3.Connection, leases: Leases, now: int, names: Names) -> tuple[tuple[State, ...], str | None]:
    # What has expired stays for a while in the tables: so many names are looked at, and no more.
    most = names.count + MOST_PASSED_OVER
    values = {"start": names.start, "after": names.after, "end": names.start + _END, "most": most}
    found = {row[0] for table in ("holder", "waiter") for row in db.execute(_NAMES.format(table=table), values)}
    first = sorted(found)[:most]
    states: list[State] = []
    for name in first:
        if len(states) == names.count:
            return tuple(states), states[-1].name
        state = _state(db, leases, now, name)
        if state.holders or state.waiting:
            states.append(replace(state, holders=state.holders[:MOST_LISTED]))
    return tuple(states), first[-1] if len(first) == most else None


def _figures(db: sqlite3.Connection, now: int, start: str, near: int) -> Figures:
    values = {"now": now, "start": start, "end": start + _END, "near": now + near, "most": MOST_COUNTED}
    living = "FROM celery_locks_{} WHERE name >= :start AND name < :end AND deadline > :now LIMIT :most"
    holders, near_expiry, since = db.execute(
        f"SELECT count(*), coalesce(sum(deadline < :near), 0), min(since) FROM (SELECT * {living.format('holder')})",
        values,
    ).fetchone()
    waiting = db.execute(f"SELECT count(*) FROM (SELECT 1 {living.format('waiter')})", values).fetchone()[0]
    locks = db.execute(
        f"SELECT count(*) FROM (SELECT * FROM (SELECT name {living.format('holder')}) "
        f"UNION SELECT * FROM (SELECT name {living.format('waiter')}))",
        values,
    ).fetchone()[0]
    oldest = None
    if since is not None:
        query = f"SELECT name FROM (SELECT name, since {living.format('holder')}) WHERE since = :since LIMIT 1"
        oldest = db.execute(query, {**values, "since": since}).fetchone()[0]
    complete = max(holders, waiting) < MOST_COUNTED
    return Figures(
        locks, holders, near_expiry, waiting, oldest, 0.0 if since is None else (now - since) / 1e6, complete
    )
