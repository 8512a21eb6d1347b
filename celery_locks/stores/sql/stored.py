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

from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal
from celery_locks.stores.sql.session import microseconds

if TYPE_CHECKING:
    from celery_locks.stores.sql.database import Connection

#: The functions, in an order in which they can be made.
NAMES = ("open", "tell", "parks", "acquire", "release", "leave", "finish", "renew")
#: The part of a call's time that it may wait for another transaction: the server gives up before the client does.
PATIENCE = 0.75


def acquire(connection: Connection, claim: Claim, line_up: float | None, timeout: float) -> Granted | Refused:
    """`Store.acquire` of a claim that adopts nothing, replaces nobody, and is no task's."""
    place = None if line_up is None else microseconds(line_up)
    whose = (claim.name, claim.token, claim.owner)
    asked = (microseconds(claim.ttl), claim.limit, claim.permits, place)
    rows = connection.execute(_call("acquire", 9), (*whose, *asked, *_told(connection, timeout))).fetchall()
    granted, moment, again_at, position, *_ = rows[0]
    if granted is not None:
        return Granted(granted)
    holders = tuple(_holder(moment, *row[4:]) for row in rows if row[4] is not None)
    return Refused(holders, (again_at - moment) / 1e6, position)


def release(connection: Connection, name: str, token: str, call: str, timeout: float) -> bool | None:
    """`Store.release`; ``None`` where tickets have to do with it, and nothing was done.

    Args:
        connection: Where.
        name: The lock.
        token: The owner token.
        call: What this release is called, however often it is tried.
        timeout: Seconds that it may take.
    """
    values = (name, token, call, *_told(connection, timeout))
    released: bool | None = connection.execute(_call("release", 5), values).fetchone()[0]
    return released


def leave(connection: Connection, name: str, token: str, timeout: float) -> bool:
    """`Store.leave`; ``False`` where tickets are in line, and nothing was done."""
    values = (name, token, *_told(connection, timeout))
    return bool(connection.execute(_call("leave", 4), values).fetchone()[0])


def finish(connection: Connection, name: str, fence: int, released: str, notices: Collection[str]) -> None:
    """End a transaction that had a lock to itself: write the lock's row, and notify the first in line and sweepers."""
    connection.execute(_call("finish", 5), (name, fence, released, connection.dialect.channel, list(notices)))


def renew(connection: Connection, renewals: Sequence[Renewal], timeout: float) -> set[tuple[str, str]]:
    """Prolongs leases. Returns the names and tokens of those that were."""
    encode = connection.dialect.encode
    names, tokens = [encode(each.name) for each in renewals], [encode(each.token) for each in renewals]
    ttls = [microseconds(each.ttl) for each in renewals]
    return set(connection.execute(_call("renew", 4), (names, tokens, ttls, _patience(timeout))).fetchall())


def texts(prefix: str, clock: str, forget_at: str) -> list[str]:
    """The statements that make the functions.

    Args:
        prefix: What the names of tables and functions begin with.
        clock: Now in microseconds.
        forget_at: See `Dialect.forget_at`.
    """

    def fill(text: str) -> str:
        text = re.sub(r"FORGET\(([^()]+)\)", lambda found: forget_at.replace("CLOCK", found[1]), text)
        text = text.replace("CLOCK", clock).replace("MOST_HOLDERS", str(MOST_HOLDERS))
        # Whoever cuts a migration where a line ends with a semicolon gets each function whole.
        return text.replace("celery_locks_", prefix).replace(";\n", "; \n").strip()

    return [fill(text) for text in _named()]


def name(function: str) -> str:
    """A function's name, with the prefix that all have at first."""
    return f"celery_locks_{function}_{_version()}"


@cache
def _texts() -> tuple[str, ...]:
    folder = files(__package__) / "functions"
    return tuple((folder / f"{each}.sql").read_text(encoding="utf-8") for each in NAMES)


@cache
def _version() -> str:
    return hashlib.sha256("".join(_texts()).encode()).hexdigest()[:8]


def _named() -> list[str]:
    """The texts, each function by its name with the version."""
    known = re.compile(rf"celery_locks_({'|'.join(NAMES)})\(")
    return [known.sub(lambda found: f"{name(found[1])}(", text) for text in _texts()]


@cache
def _call(function: str, values: int) -> str:
    return f"SELECT * FROM {name(function)}({', '.join('?' * values)})"


def _patience(timeout: float) -> int:
    """Milliseconds."""
    return max(1, int(timeout * PATIENCE * 1000))


def _told(connection: Connection, timeout: float) -> tuple[int, str]:
    """What functions are told that may wait for others, and wake others."""
    return _patience(timeout), connection.dialect.channel


def _holder(
    now: int, owner: str, fencing_token: int, permits: int, since: int, deadline: int, token: str, limit: int
) -> Holder:
    return Holder(owner, fencing_token, permits, (now - since) / 1e6, (deadline - now) / 1e6, token, limit)
