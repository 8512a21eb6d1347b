"""Renewal of many leases in a few statements, for MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from celery_locks.errors import LossReason
from celery_locks.stores.sql.clock import moment_of
from celery_locks.stores.sql.dialects import Connection, rows_of
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.locked_session import ServerSession
from celery_locks.stores.sql.session import forget_at, microseconds
from celery_locks.stores.types import Renewal


def renew_many(connection: Connection, renewals: Sequence[Renewal]) -> list[LossReason | Literal["blocked"] | None]:
    """Renew leases within a transaction, except those whose lock's row another transaction has locked.

    Returns:
        For each lease, in order: the result of `Store.renew`, or ``"blocked"``.
    """
    names = sorted({renewal.name for renewal in renewals})
    query = (
        f"SELECT name, touched FROM celery_locks_lock WHERE name IN ({marks(names)}) "
        "ORDER BY name FOR UPDATE SKIP LOCKED"
    )
    touched = dict(connection.execute(query, names).fetchall())
    clock = connection.execute("SELECT CLOCK").fetchone()[0]  # read after the rows are locked
    moment = moment_of(max(touched.values(), default=0), clock)
    renewed = _renew(connection, [each for each in renewals if each.name in touched], moment)
    left = [name for name in names if name not in touched]
    query = f"SELECT name FROM celery_locks_lock WHERE name IN ({marks(left)})"
    blocked = {name for (name,) in connection.execute(query, left)} if left else set()

    def answer(renewal: Renewal) -> LossReason | Literal["blocked"] | None:
        if renewal.name in blocked:
            return "blocked"
        if (renewal.name, renewal.token) in renewed:
            return None
        now = max(moment, touched.get(renewal.name, 0))
        return Leases(ServerSession(connection, now)).why_lost(renewal.name, renewal.token)

    return [answer(renewal) for renewal in renewals]


def _renew(connection: Connection, renewals: Sequence[Renewal], moment: int) -> set[tuple[str, str]]:
    """Renew leases whose rows this transaction has locked. Return the names and tokens of the renewed ones."""
    if not renewals:
        return set()
    names = sorted({renewal.name for renewal in renewals})
    until = forget_at(moment + max(microseconds(renewal.ttl) for renewal in renewals))
    locks = rows_of("celery_locks_lock", ("name",), len(names))
    changes = "t.touched = greatest(t.touched, ?), t.forget_at = greatest(t.forget_at, ?)"
    connection.execute(f"UPDATE {locks} SET {changes}", (*names, moment, until))
    rows = " UNION ALL ".join(["SELECT ? AS name, ? AS token, ? AS ttl", *["SELECT ?, ?, ?"] * (len(renewals) - 1)])
    values = [value for each in renewals for value in (each.name, each.token, microseconds(each.ttl))]
    # With the joins in this order, each lease is found by a primary key, however many holders a lock has.
    locks = f"({rows}) w STRAIGHT_JOIN celery_locks_lock l FORCE INDEX (PRIMARY) ON l.name = w.name"
    same = "h.name = w.name AND h.token = w.token"
    renewed = set[tuple[str, str]]()
    for leases in (locks, f"{locks} STRAIGHT_JOIN celery_locks_holder h FORCE INDEX (PRIMARY) ON {same}"):
        one = "h" if leases != locks else "l"
        living = f"{one}.token = w.token AND {one}.deadline > l.touched"
        change = f"UPDATE {leases} SET {one}.deadline = greatest({one}.deadline, l.touched + w.ttl) WHERE {living}"
        if connection.execute(change, values).rowcount:
            done = connection.execute(f"SELECT w.name, w.token FROM {leases} WHERE {living}", values)
            renewed.update(done.fetchall())
        if len(renewed) == len(renewals):
            break
    return renewed


def marks(values: Sequence[object]) -> str:
    """Return a question mark for each value."""
    return ", ".join("?" * len(values))
