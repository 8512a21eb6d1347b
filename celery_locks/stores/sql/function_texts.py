"""The texts and names of the functions in a PostgreSQL database."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from celery_locks.stores.sql.session import COARSE_BITS, MOST_BEFORE, SET_BACK, SET_BACK_CODE
from celery_locks.stores.types import MOST_HOLDERS

#: The functions, in an order in which they can be created.
NAMES = ("now", "open", "move_holder", "notify_next", "has_tickets", "acquire", "release", "leave", "finish", "renew")
#: The share of its timeout that a call may wait for another transaction. So the server gives up before the client.
PATIENCE = 0.75
#: The server's time and the time of the store's clock, in microseconds since 1970.
SERVER_TIME = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
CLOCK = f"({SERVER_TIME} + (SELECT coalesce(max(ahead), 0) FROM celery_locks_meta))"

#: 1 if a lock has a row in the table of holders or of waiters that is alive at a moment, otherwise 0.
_CROWDED = (
    r"(EXISTS (SELECT FROM celery_locks_holder h WHERE h.name = \1 AND h.deadline > \2) "
    r"OR EXISTS (SELECT FROM celery_locks_waiter w WHERE w.name = \1 AND w.deadline > \2))::int"
)
#: Whether a request has waited for longer than its patience, given in milliseconds.
_TOO_LATE = r"clock_timestamp() > statement_timestamp() + \1 * interval '1 millisecond'"


def texts(prefix: str) -> list[str]:
    """Return the statements that create the functions.

    Args:
        prefix: The prefix of all tables and functions.
    """
    known = re.compile(rf"celery_locks_({'|'.join(NAMES)})\(")
    named = (known.sub(lambda found: f"{function_name(found[1])}(", text) for text in _texts())
    return [text.replace("celery_locks_", prefix) for text in named]


def function_name(function: str) -> str:
    """Return a function's name, with the default prefix.

    The name ends with a hash of all functions, so two releases whose functions differ may share a database.
    """
    return f"celery_locks_{function}_{_version()}"


@cache
def _texts() -> tuple[str, ...]:
    """Return the texts with all constants filled in."""
    folder = files(__package__) / "functions"
    return tuple(_filled((folder / f"{each}.sql").read_text(encoding="utf-8")) for each in NAMES)


def _filled(text: str) -> str:
    text = re.sub(r"CROWDED\((\S+), (\S+)\)", _CROWDED, text)
    text = re.sub(r"TOO_LATE\((\S+)\)", _TOO_LATE, text)
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
    # Migrations are cut at lines that end with a semicolon. This keeps each function in one piece.
    return text.replace(";\n", "; \n").strip()


@cache
def _version() -> str:
    return hashlib.sha256("".join(_texts()).encode()).hexdigest()[:8]


@cache
def call(function: str, values: int) -> str:
    """Return the statement that calls a function with a number of values."""
    return f"SELECT * FROM {function_name(function)}({', '.join('?' * values)})"
