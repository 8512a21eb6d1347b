"""The store's clock, which goes on where the server's clock was set back."""

from __future__ import annotations

from celery_locks.stores.sql.executing import Executing
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sql.session import SET_BACK

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


def raise_clock(connection: Executing) -> None:
    """Put the store's clock forward to the last moment at which a lock was changed, within a transaction of its own.

    Leases acquired since the server's clock was set back would end too early by that. So what ends later moves along,
    but for locks that were changed by the clock before: what has expired by that one stays so.
    """
    if _behind(connection)[1] <= SET_BACK:  # another process was first
        return
    connection.execute(connection.dialect.lock_all)  # no one else goes on by the clock as it was
    clock, by = _behind(connection)
    if by <= SET_BACK:
        return
    seen, latest = clock + by, clock + SET_BACK  # a lock changed before `latest` is used by the clock as it is
    connection.execute("UPDATE celery_locks_meta SET ahead = ahead + ?", (by,))
    for table in TABLES:
        name, columns = f"celery_locks_{table.name}", [column.split()[0] for column in table.columns.split(", ")]
        moved = ", ".join(f"{column} = {column} + ?" for column in ("until", "due", "deadline") if column in columns)
        connection.execute(
            f"UPDATE {name} SET {moved} WHERE deadline > ? AND EXISTS (SELECT 1 FROM celery_locks_lock l "
            f"WHERE l.name = {name}.name AND l.touched <= ? AND l.touched < {name}.deadline)",
            (*[by] * moved.count("?"), clock, latest),
        )
    rows, others = "touched < ?", tuple[int, ...]()
    if not connection.dialect.waits_through_lock_all:
        rows, others = f"{rows} AND (deadline > ? OR watched > ?)", (clock, clock)
    connection.execute(
        "UPDATE celery_locks_lock SET deadline = deadline + CASE WHEN touched <= ? AND deadline > greatest(touched, ?) "
        "THEN ? ELSE 0 END, watched = watched + CASE WHEN watched > ? THEN ? ELSE 0 END, touched = ? "
        f"WHERE {rows}",
        (latest, clock, by, clock, by, seen, seen, *others),
    )


def _behind(connection: Executing) -> tuple[int, int]:
    """Return what the store's clock shows, and by how much it is behind the last moment at which a lock was changed."""
    query = "SELECT CLOCK, coalesce(max(touched), 0) FROM celery_locks_lock"
    clock, seen = connection.execute(query).fetchone()
    return clock, seen - clock
