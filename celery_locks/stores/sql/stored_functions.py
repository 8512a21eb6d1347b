"""Calls of the functions in PostgreSQL. Each common step is a function: one round trip, one transaction, planned once.

A function first waits for the lock's row, and everything that it reads afterwards is at least as new. Its name ends
with a hash of all functions, so it never changes while processes call it, and two releases may share a database. The
server's sessions keep the plans, so they also help behind a transaction pooler.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.function_texts import PATIENCE, call, function_name
from celery_locks.stores.sql.session import microseconds
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal, Value


def acquire(connection: Connection, claim: Claim, line_up: float | None) -> Granted | Refused:
    """Acquire a claim that neither adopts nor replaces a lease and belongs to no task."""
    place = None if line_up is None else microseconds(line_up)
    whose = (claim.name, claim.token, claim.owner)
    asked = (microseconds(claim.ttl), claim.limit, claim.permits, place, claim.max_waiters)
    values = (*whose, *asked, *_patience_and_channel(connection), connection.repeated)
    rows = connection.execute(call("acquire", 11), values).fetchall()
    granted, moment, again_at, position, full, *_ = rows[0]
    if granted is not None:
        return Granted(granted)
    holders = tuple(_holder(moment, *row[5:]) for row in rows if row[5] is not None)
    return Refused(holders, (again_at - moment) / 1e6, position, full=full)


def release(connection: Connection, name: str, token: str, value: Value | None) -> bool | None:
    """Release a lease. Return ``None`` if tickets must be settled; then nothing was done."""
    kept = (None, None) if value is None else (value.text, microseconds(value.keep))
    values = (name, token, *_patience_and_channel(connection), *kept)
    released: bool | None = connection.execute(call("release", 6), values).fetchone()[0]
    if released is False and connection.repeated:  # it can't know whether the first request released the lease
        return connection.execute(_LOST, (name, token) * 3).fetchone() is None  # unless a reason is on record
    return released


#: Returns a row if a lease that is not held was taken by force or has expired.
_LOST = (
    "SELECT 1 FROM celery_locks_taken WHERE name = ? AND token = ? "
    "UNION ALL SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ? "
    "UNION ALL SELECT 1 FROM celery_locks_lock WHERE name = ? AND token = ?"
)


def leave(connection: Connection, name: str, token: str) -> bool:
    """Leave the line. Return ``False`` if tickets stand in line; then nothing was done."""
    values = (name, token, *_patience_and_channel(connection))
    return bool(connection.execute(call("leave", 4), values).fetchone()[0])


def open_lock(connection: Connection, lock: str) -> tuple[int, int, str, int]:
    """Lock the row of a lock, and move its holder to the table of holders.

    Returns:
        Its moment, its last fencing token, the token whose lease ended last, and ``forget_at``.
    """
    query = (
        f"SELECT touched, fence, ended, forget_at FROM {function_name('move_holder')}({function_name('open')}(?, ?))"
    )
    return connection.execute(query, (lock, _patience(connection))).fetchone()  # type: ignore[no-any-return]


def finish(connection: Connection, name: str, row: tuple[int, int, str, int], notices: Collection[str]) -> None:
    """End a transaction that has locked a lock: write its row, and notify the first in line and sweepers."""
    connection.execute(call("finish", 7), (name, *row, connection.dialect.channel, list(notices)))


def renew(
    connection: Connection, renewals: Sequence[Renewal], patience: float
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Renew leases.

    Args:
        connection: The connection.
        renewals: The leases.
        patience: Seconds to wait for other transactions; 0 to skip locks whose row another transaction has locked.

    Returns:
        The names and tokens of the renewed leases, and of the skipped ones.
    """
    encode = connection.dialect.encode
    names, tokens = [encode(each.name) for each in renewals], [encode(each.token) for each in renewals]
    ttls, wait = [microseconds(each.ttl) for each in renewals], int(patience * 1000)
    rows = connection.execute(call("renew", 4), (names, tokens, ttls, wait)).fetchall()
    renewed = {(name, token) for name, token, done in rows if done}
    return renewed, {(name, token) for name, token, _ in rows} - renewed


def _patience(connection: Connection) -> int:
    """Return the milliseconds for which to wait for other transactions."""
    return max(1, int(connection.timeout * PATIENCE * 1000))


def _patience_and_channel(connection: Connection) -> tuple[int, str]:
    """Return the arguments of functions that wait for other transactions and notify others."""
    return _patience(connection), connection.dialect.channel


def _holder(
    now: int, owner: str, fencing_token: int, permits: int, since: int, deadline: int, token: str, limit: int
) -> Holder:
    return Holder(owner, fencing_token, permits, (now - since) / 1e6, (deadline - now) / 1e6, token, limit)
