"""PostgreSQL: many leases renewed by a few statements."""

from __future__ import annotations

from collections.abc import Sequence

from celery_locks.errors import LossReason
from celery_locks.stores.base import Renewal
from celery_locks.stores.sql.database import Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.locked import ServerSession
from celery_locks.stores.sql.session import microseconds

# Rows are taken in the order of their names: two that need the same ones wait instead of colliding. Holders' rows are
# changed only by who has their lock's row.
_TAKE = "SELECT 1 FROM celery_locks_lock WHERE name = ANY(?) ORDER BY name FOR UPDATE"
_TOUCH = (
    "UPDATE celery_locks_lock SET touched = greatest(touched, CLOCK), forget_at = {forget} WHERE name = ANY(?) "
    "RETURNING name, touched"
)
_PROLONG = """
UPDATE celery_locks_holder h SET deadline = greatest(h.deadline, l.touched + w.ttl)
FROM unnest(?::text[], ?::text[], ?::bigint[]) AS w (name, token, ttl) JOIN celery_locks_lock l ON l.name = w.name
WHERE h.name = w.name AND h.token = w.token AND h.deadline > l.touched RETURNING h.name, h.token
"""
_NOTE = """
UPDATE celery_locks_lock l SET busy = greatest(busy,
  (SELECT coalesce(max(deadline), 0) FROM celery_locks_holder h WHERE h.name = l.name)) WHERE name = ANY(?)
"""


def renew(connection: Connection, renewals: Sequence[Renewal]) -> list[LossReason | None]:
    """`Store.renew` within a transaction."""
    encode = connection.dialect.encode
    names = [encode(renewal.name) for renewal in renewals]
    tokens, ttls = [encode(renewal.token) for renewal in renewals], [microseconds(renewal.ttl) for renewal in renewals]
    connection.execute(_TAKE, (names,))
    touched = dict(connection.execute(_TOUCH.format(forget=connection.dialect.forget_at), (names,)).fetchall())
    prolonged = set(connection.execute(_PROLONG, (names, tokens, ttls)).fetchall())
    connection.execute(_NOTE, (names,))

    def lost(renewal: Renewal) -> LossReason | None:
        if (renewal.name, renewal.token) in prolonged:
            return None
        session = ServerSession(connection, touched.get(renewal.name, 0))
        return Leases(session).why_lost(renewal.name, renewal.token)

    return [lost(renewal) for renewal in renewals]
