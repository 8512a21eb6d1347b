"""PostgreSQL: what is done most often is a function in the database: one round trip, one transaction, planned once.

Each begins by waiting for the lock's row, and what it looks at afterwards is no older than that. Its name has the hash
of all their texts, so it never changes under processes that call it: two releases of this package can share a database.
What sessions keep of it are plans, in the server, so a pooler of transactions may stand between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Value
from celery_locks.stores.sql.clock import SET_BACK_CODE
from celery_locks.stores.sql.session import COARSE_BITS, MOST_BEFORE, SET_BACK, microseconds

if TYPE_CHECKING:
    from celery_locks.stores.sql.database import Connection

#: The functions, in an order in which they can be made.
NAMES = ("now", "open", "spill", "tell", "parks", "acquire", "release", "leave", "finish", "renew")
#: The part of a call's time that it may wait for another transaction: the server gives up before the client does.
PATIENCE = 0.75
#: The server's time, and the store's moment, in microseconds since 1970.
SERVER_TIME = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
CLOCK = f"({SERVER_TIME} + (SELECT coalesce(max(ahead), 0) FROM celery_locks_meta))"


def acquire(connection: Connection, claim: Claim, line_up: float | None) -> Granted | Refused:
    """`Store.acquire` of a claim that adopts nothing, replaces nobody, and is no task's."""
    place = None if line_up is None else microseconds(line_up)
    whose = (claim.name, claim.token, claim.owner)
    asked = (microseconds(claim.ttl), claim.limit, claim.permits, place, claim.max_waiters)
    values = (*whose, *asked, *_told(connection), connection.repeated)
    rows = connection.execute(_call("acquire", 11), values).fetchall()
    granted, moment, again_at, position, full, *_ = rows[0]
    if granted is not None:
        return Granted(granted)
    holders = tuple(_holder(moment, *row[5:]) for row in rows if row[5] is not None)
    return Refused(holders, (again_at - moment) / 1e6, position, full=full)


def release(connection: Connection, name: str, token: str, value: Value | None) -> bool | None:
    """`Store.release`; ``None`` where tickets have to be settled, and nothing was done."""
    kept = (None, None) if value is None else (value.text, microseconds(value.keep))
    values = (name, token, *_told(connection), *kept)
    released: bool | None = connection.execute(_call("release", 6), values).fetchone()[0]
    if released is False and connection.repeated:  # it can't know whether the first request released the lease …
        return connection.execute(_LOST, (name, token) * 3).fetchone() is None  # … unless the reason is known
    return released


#: 1 where a lock has a holder in the table of holders, or someone in line, at a moment; otherwise 0.
_CROWDED = (
    r"(EXISTS (SELECT FROM celery_locks_holder h WHERE h.name = \1 AND h.deadline > \2) "
    r"OR EXISTS (SELECT FROM celery_locks_waiter w WHERE w.name = \1 AND w.deadline > \2))::int"
)
#: Whether a lease that is not held was taken by force, or has expired.
_LOST = (
    "SELECT 1 FROM celery_locks_taken WHERE name = ? AND token = ? "
    "UNION ALL SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ? "
    "UNION ALL SELECT 1 FROM celery_locks_lock WHERE name = ? AND token = ?"
)


def leave(connection: Connection, name: str, token: str) -> bool:
    """`Store.leave`; ``False`` where tickets are in line, and nothing was done."""
    values = (name, token, *_told(connection))
    return bool(connection.execute(_call("leave", 4), values).fetchone()[0])


def open_lock(connection: Connection, lock: str) -> tuple[int, int, str, int]:
    """Have a lock to this transaction alone. Returns its moment, last fencing token, whose lease ended last, and when
    its row is forgotten."""
    query = f"SELECT touched, fence, ended, forget_at FROM {name('spill')}({name('open')}(?, ?))"
    return connection.execute(query, (lock, _patience(connection))).fetchone()  # type: ignore[no-any-return]


def finish(connection: Connection, name: str, row: tuple[int, int, str, int], notices: Collection[str]) -> None:
    """End a transaction that had a lock to itself: write the lock's row, and notify the first in line and sweepers."""
    connection.execute(_call("finish", 7), (name, *row, connection.dialect.channel, list(notices)))


def renew(
    connection: Connection, renewals: Sequence[Renewal], patience: float
) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Renew leases.

    Args:
        connection: Where.
        renewals: Of which leases.
        patience: Seconds to wait for other transactions; 0 to leave alone those locks whose row one has.

    Returns:
        The names and tokens of those that were renewed, and of those that were left alone.
    """
    encode = connection.dialect.encode
    names, tokens = [encode(each.name) for each in renewals], [encode(each.token) for each in renewals]
    ttls, wait = [microseconds(each.ttl) for each in renewals], int(patience * 1000)
    rows = connection.execute(_call("renew", 4), (names, tokens, ttls, wait)).fetchall()
    renewed = {(name, token) for name, token, done in rows if done}
    return renewed, {(name, token) for name, token, _ in rows} - renewed


def texts(prefix: str) -> list[str]:
    """Return the statements that make the functions.

    Args:
        prefix: What the names of tables and functions begin with.
    """
    known = re.compile(rf"celery_locks_({'|'.join(NAMES)})\(")
    named = (known.sub(lambda found: f"{name(found[1])}(", text) for text in _texts())
    return [text.replace("celery_locks_", prefix) for text in named]


def name(function: str) -> str:
    """Return a function's name, with the prefix that all have at first.

    It names everything that the functions contain: two releases whose functions differ may share a database.
    """
    return f"celery_locks_{function}_{_version()}"


@cache
def _texts() -> tuple[str, ...]:
    """Return the texts, with all constants in them."""
    folder = files(__package__) / "functions"
    return tuple(_filled((folder / f"{each}.sql").read_text(encoding="utf-8")) for each in NAMES)


def _filled(text: str) -> str:
    text = re.sub(r"CROWDED\((\S+), (\S+)\)", _CROWDED, text)
    text = re.sub(r"FORGET\(([^()]+)\)", lambda found: f"((({found[1]} >> {COARSE_BITS}) + 2) << {COARSE_BITS})", text)
    constants = {
        "CLOCK": CLOCK,
        "SET_CODE": SET_BACK_CODE,
        "SET_BACK": str(SET_BACK),
        "MOST_HOLDERS": str(MOST_HOLDERS),
        "MOST_BEFORE": str(MOST_BEFORE),
    }
    for constant, value in constants.items():
        text = text.replace(constant, value)
    # Whoever cuts a migration where a line ends with a semicolon gets each function whole.
    return text.replace(";\n", "; \n").strip()


@cache
def _version() -> str:
    return hashlib.sha256("".join(_texts()).encode()).hexdigest()[:8]


@cache
def _call(function: str, values: int) -> str:
    return f"SELECT * FROM {name(function)}({', '.join('?' * values)})"


def _patience(connection: Connection) -> int:
    """Return the milliseconds for which to wait for other transactions."""
    return max(1, int(connection.timeout * PATIENCE * 1000))


def _told(connection: Connection) -> tuple[int, str]:
    """What functions get that may wait for others, and notify others."""
    return _patience(connection), connection.dialect.channel


def _holder(
    now: int, owner: str, fencing_token: int, permits: int, since: int, deadline: int, token: str, limit: int
) -> Holder:
    return Holder(owner, fencing_token, permits, (now - since) / 1e6, (deadline - now) / 1e6, token, limit)
