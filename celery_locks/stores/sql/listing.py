"""The list of locks, from the tables ordered by name."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from celery_locks._runtime.clock import monotonic
from celery_locks.stores.listing import (
    MOST_IN_LINE,
    MOST_LISTED,
    MOST_PASSED_OVER,
    LockInfo,
    NameRange,
    Page,
    Stats,
    Waiter,
)
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.session import Session, microseconds
from celery_locks.stores.types import TICKET

#: The most leases, and the most places in line, that a statement of `figures` counts.
MOST_COUNTED = 100_000
#: The most rows of locks that `page` reads. Most of them may be idle.
MOST_ROWS_OF_PAGE = 10_000
#: How many rows of locks `figures` reads between two looks at the time: first, and at most. They double while a part
#: takes less than a tenth of the time.
FIRST_ROWS_OF_PART, MOST_ROWS_OF_PART = 1_000, 16_000
#: The last character, and the surrogates, which no UTF-8 text contains.
_LAST, _SURROGATES = 0x10FFFF, range(0xD800, 0xE000)

# One index seek for each name, however many holders a lock has.
_NAMES = """
WITH RECURSIVE seek(name) AS (
    SELECT min(name) FROM celery_locks_{table} WHERE name >= ? AND name > ? AND name < ?
    UNION ALL
    SELECT (SELECT min(name) FROM celery_locks_{table} WHERE name > seek.name AND name < ?)
    FROM seek WHERE seek.name IS NOT NULL
)
SELECT name FROM seek WHERE name IS NOT NULL LIMIT ?
"""
# For stores in which each lock has a row that may contain its only holder.
_LOCKS = "SELECT {} FROM celery_locks_lock WHERE name >= ? AND name > ? AND name < ? ORDER BY name LIMIT {}"
_IN_RANGE = "WHERE name >= ? AND name > ? AND name < ?"
_LIVING = f"FROM celery_locks_{{}} {_IN_RANGE} AND deadline > ? LIMIT {MOST_COUNTED}"


def end_of(start: str) -> str:
    """Return the first text that sorts, as UTF-8, after all texts with a prefix."""
    rest = start.rstrip(chr(_LAST))
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)


def state(session: Session, name: str) -> LockInfo:
    """Return the state of one lock, without its line."""
    leases = Leases(session)
    query = "SELECT count(*) FROM celery_locks_waiter WHERE name = ? AND deadline > ?"
    waiting = int(session.execute(query, (name, session.now)).fetchone()[0])
    return LockInfo(name, leases.holders(name), leases.used(name), waiting)


def line(session: Session, name: str) -> tuple[Waiter, ...]:
    """Return the waiters in order; parked tasks with their names."""
    query = "SELECT token FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT ?"
    tokens = [token for (token,) in session.execute(query, (name, session.now, MOST_IN_LINE)).fetchall()]
    ids = [token.removeprefix(TICKET) for token in tokens if token.startswith(TICKET)]
    query = f"SELECT id, owner, task FROM celery_locks_ticket WHERE name = ? AND id IN ({', '.join('?' * len(ids))})"
    rows = session.execute(query, (name, *ids)).fetchall() if ids else ()
    known = {TICKET + id: Waiter(owner, task, TICKET + id) for id, owner, task in rows}
    return tuple(known.get(token) or Waiter(token=token) for token in tokens)


def page(session: Session, names: NameRange) -> Page:
    """Return a page of locks, as `Store.page` does."""
    found, last = _names(session, names)
    states: list[LockInfo] = []
    for name in found:
        if len(states) == names.count:
            return Page(tuple(states), states[-1].name)
        one = state(session, name)
        if one.holders or one.waiting:
            states.append(replace(one, holders=one.holders[:MOST_LISTED]))
    return Page(tuple(states), last)


def _names(session: Session, names: NameRange) -> tuple[list[str], str | None]:
    """Return names of locks that may be in use, and the last name that was read; ``None`` at the end."""
    # Expired rows stay in the tables for a while. The number of names that are read is bounded nonetheless.
    most, end = names.count + MOST_PASSED_OVER, end_of(names.start)
    if not session.has_locks:
        seek, tables = (names.start, names.after, end, end, most), ("holder", "waiter")
        found = {row[0] for table in tables for row in session.execute(_NAMES.format(table=table), seek)}
        first = sorted(found)[:most]
        return first, first[-1] if len(first) == most else None
    values, locks = (names.start, names.after, end), _LOCKS.format("name, crowd, deadline", MOST_ROWS_OF_PAGE)
    query = f"SELECT name FROM ({locks}) l WHERE crowd = 1 OR deadline > ? ORDER BY name LIMIT ?"
    first = [name for (name,) in session.execute(query, (*values, session.now, most))]
    if len(first) == most:
        return first, first[-1]
    looked, last = session.execute(f"SELECT count(*), max(name) FROM ({locks}) l", values).fetchone()
    return first, last if looked == MOST_ROWS_OF_PAGE else None


def figures(session: Session, start: str, near: float, seconds: float = inf) -> Stats:
    """Return the figures of all names with a prefix, as `Store.stats` does.

    Args:
        session: A session for reading.
        start: The text that all names begin with.
        near: See `Store.stats`.
        seconds: How long to count. Then the names that follow are left out.
    """
    if not session.has_locks:
        return _figures_of(session, (start, "", end_of(start)), near)
    began, size, after, parts = monotonic(), FIRST_ROWS_OF_PART, "", list[Stats]()
    while True:
        part_began = monotonic()
        names = f"SELECT count(*), max(name) FROM ({_LOCKS.format('name', size)}) l"
        looked, last = session.execute(names, (start, after, end_of(start))).fetchone()
        is_last = looked < size
        names_of_part = (start, after, end_of(start) if is_last else f"{last}\0")  # no text sorts between them
        parts.append(_figures_of(session, names_of_part, near))
        now, after = monotonic(), last
        if is_last or now >= began + seconds:
            break
        if now < part_began + seconds / 10:
            size = min(2 * size, MOST_ROWS_OF_PART)
    sums = Stats.total(parts)
    return sums if is_last else replace(sums, complete=False)


def _figures_of(session: Session, names: tuple[str, str, str], near: float) -> Stats:
    """Return the figures of a range of names: they begin at the first, are after the second, and before the third."""
    now, living = session.now, (*names, session.now)
    leases, waiters = f"SELECT name, since, deadline {_LIVING.format('holder')}", _LIVING.format("waiter")
    which: tuple[Any, ...] = living
    if session.has_locks:
        locks = f"FROM celery_locks_lock {_IN_RANGE} AND token <> '' AND deadline > ?"
        leases, which = f"({leases}) UNION ALL SELECT name, since, deadline {locks}", (*living, *living)

    # One statement, so that PostgreSQL and MySQL read the tables once.
    query = (
        f"WITH leases AS ({leases}), waiters AS (SELECT name {waiters}) SELECT (SELECT count(*) FROM leases), "
        "(SELECT count(*) FROM leases WHERE deadline < ?), (SELECT min(since) FROM leases), "
        "(SELECT name FROM leases ORDER BY since LIMIT 1), (SELECT count(*) FROM waiters), "
        "(SELECT count(*) FROM (SELECT name FROM leases UNION SELECT name FROM waiters) names)"
    )
    values = (*which, *living, now + microseconds(near))
    holders, near_expiry, since, oldest, waiting, locked = session.execute(query, values).fetchone()
    complete = max(holders, waiting) < MOST_COUNTED
    held_for = 0.0 if since is None else (now - since) / 1e6
    return Stats(int(locked), int(holders), int(near_expiry), int(waiting), oldest, held_for, complete)
