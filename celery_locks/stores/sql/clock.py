"""The store's clock, which goes on where the server's clock was set back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sql.session import SET_BACK

if TYPE_CHECKING:
    from celery_locks.stores.sql.database import Connection

#: PostgreSQL's code of the error by which a function of ours reports it.
SET_BACK_CODE = "LK001"


class ClockSetBack(Exception):
    """A lock was changed at a moment that the store's clock has not reached yet: the server's clock was set back."""


def moment_of(seen: int, clock: int) -> int:
    """Return the moment of a lock.

    Args:
        seen: The one at which it was changed last.
        clock: What the store's clock shows.

    Raises:
        ClockSetBack: The clock is behind that by more than readings of one clock can be.
    """
    if seen > clock + SET_BACK:
        raise ClockSetBack
    return max(seen, clock)


def raise_clock(connection: Connection) -> None:
    """Put the store's clock forward to the last moment at which a lock was changed, within a transaction of its own.

    Leases acquired since the server's clock was set back would end too early by that. So what ends later moves along,
    but for locks that were changed by the clock before: what has expired by that one stays so.
    """
    connection.execute(
        connection.dialect.lock_all
    )  # no one else has a moment by the clock as it was, and goes on later
    query = "SELECT CLOCK, coalesce(max(touched), 0) FROM celery_locks_lock"
    clock, seen = connection.execute(query).fetchone()
    by = seen - clock
    if by <= SET_BACK:  # another process was first
        return
    connection.execute("UPDATE celery_locks_meta SET ahead = ahead + ?", (by,))
    for table in TABLES:
        columns = [column.split()[0] for column in table.columns.split(", ")]
        moved = ", ".join(f"{name} = {name} + ?" for name in ("until", "due", "deadline") if name in columns)
        connection.execute(
            f"UPDATE celery_locks_{table.name} SET {moved} WHERE deadline > ? "
            "AND name IN (SELECT name FROM celery_locks_lock WHERE touched <= ?)",
            (*[by] * moved.count("?"), clock, clock),
        )
    connection.execute(
        "UPDATE celery_locks_lock SET deadline = deadline + CASE WHEN touched <= ? AND deadline > ? THEN ? ELSE 0 END, "
        "watched = watched + CASE WHEN watched > ? THEN ? ELSE 0 END, touched = ? WHERE touched < ?",
        (clock, clock, by, clock, by, seen, seen),
    )
