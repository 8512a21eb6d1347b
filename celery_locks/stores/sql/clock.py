"""The store's clock. It goes on if the server's clock is set back."""

from __future__ import annotations

from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sql.session import SET_BACK


class ClockSetBack(Exception):
    """A lock was changed at a moment that the store's clock has not reached yet: the server's clock was set back."""


def moment_of(seen: int, clock: int) -> int:
    """Return the present moment of a lock.

    Args:
        seen: The moment at which the lock was changed last.
        clock: The time of the store's clock.

    Raises:
        ClockSetBack: The clock is behind ``seen`` by more than `SET_BACK`.
    """
    if seen > clock + SET_BACK:
        raise ClockSetBack
    return max(seen, clock)


def raise_clock(connection: Connection) -> None:
    """Put the store's clock forward to the last moment at which a lock was changed, within a transaction of its own.

    Leases acquired since the server's clock was set back would end too early. So their deadlines move along, and so do
    the moments at which they began. The deadlines of locks that were last changed before stay: leases that have expired
    by then remain expired.
    """
    if _behind(connection)[1] <= SET_BACK:  # another process has raised it already
        return
    for statement in connection.dialect.lock_all:  # no other transaction continues with the old clock
        connection.execute(statement)
    clock, by = _behind(connection)
    if by <= SET_BACK:
        return
    seen, latest = clock + by, clock + SET_BACK  # a lock changed before `latest` is used with the clock as it is
    connection.execute("UPDATE celery_locks_meta SET ahead = ahead + ?", (by,))
    for table in TABLES:
        name, columns = f"celery_locks_{table.name}", [column.split()[0] for column in table.columns.split(", ")]
        moved = ", ".join(
            f"{column} = {column} + ?" for column in ("since", "until", "due", "deadline") if column in columns
        )
        connection.execute(
            f"UPDATE {name} SET {moved} WHERE deadline > ? AND EXISTS (SELECT 1 FROM celery_locks_lock l "
            f"WHERE l.name = {name}.name AND l.touched <= ? AND l.touched < {name}.deadline)",
            (*[by] * moved.count("?"), clock, latest),
        )
    moved = "CASE WHEN touched <= ? AND deadline > greatest(touched, ?) THEN ? ELSE 0 END"
    rows, others = "touched < ?", tuple[int, ...]()
    if not connection.dialect.waits_through_lock_all:
        rows, others = f"{rows} AND (deadline > ? OR watched > ?)", (clock, clock)
    connection.execute(
        f"UPDATE celery_locks_lock SET since = since + {moved}, deadline = deadline + {moved}, "
        f"watched = watched + CASE WHEN watched > ? THEN ? ELSE 0 END, touched = ? WHERE {rows}",
        (latest, clock, by, latest, clock, by, clock, by, seen, seen, *others),
    )


def _behind(connection: Connection) -> tuple[int, int]:
    """Return the time of the store's clock, and how far it is behind the last change of a lock."""
    query = "SELECT CLOCK, coalesce(max(touched), 0) FROM celery_locks_lock"
    clock, seen = connection.execute(query).fetchone()
    return clock, seen - clock
