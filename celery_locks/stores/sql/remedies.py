"""What an error of a database means for locks, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TABLES = "`celery -A … locks sql` prints the statements that make tables and functions. Run them as a user that may"
_READ_ONLY = (
    "the database is read-only, as a standby is. Give the address of the primary; or set "
    "default_transaction_read_only off, if that is on for this user or database"
)
_DISK = "the database's disk is full. Free space there"
_CONNECTIONS = "the server has no connection left. Raise max_connections there, or close connections"
_PASSWORD = "check user and password in the address; special characters are percent-encoded there"
_NO_DATABASE = "make the database, or name another in the address"
_STARTING = "the server starts or stops. Wait until it serves"

#: PostgreSQL's code → what to do. Missing rights are told apart by `_PERMISSION`.
POSTGRESQL: Mapping[Any, str] = {
    "25006": _READ_ONLY,
    "28000": _PASSWORD,
    "28P01": _PASSWORD,
    "3D000": _NO_DATABASE,
    "3F000": f"the user has no schema to make the tables in. {_TABLES}",
    "42P01": f"a table is missing. {_TABLES}",
    "42883": f"a function is missing. {_TABLES}",
    "53100": _DISK,
    "53200": "the server's memory is full. Give it more",
    "53300": _CONNECTIONS,
    "57P03": _STARTING,
}
#: The same for MySQL and MariaDB.
MYSQL: Mapping[Any, str] = {
    1021: _DISK,
    1040: _CONNECTIONS,
    1045: _PASSWORD,
    1049: _NO_DATABASE,
    1053: _STARTING,
    1114: f"a table is full. {_DISK[:1].upper()}{_DISK[1:]}",
    1146: f"a table is missing. {_TABLES}",
    1203: _CONNECTIONS,
    1290: "the server runs with --read-only. Give the address of the primary, or set read_only off",
    1698: _PASSWORD,
    1792: "the transaction is read-only. Set transaction_read_only off for this user, or give the primary's address",
    1836: "the server is in read-only mode. Give the address of the primary, or set read_only off",
}
#: What a driver states without a code, when it can't connect → what to do.
_TEXTS = {
    "password authentication failed": _PASSWORD,
    "no password supplied": _PASSWORD,
    "no pg_hba.conf entry": "allow this user and machine in the server's pg_hba.conf",
    "does not exist": f"make the role or the database, or name another in the address; {_PASSWORD}",
    "too many": _CONNECTIONS,
    "remaining connection slots": _CONNECTIONS,
    "the database system is": _STARTING,
    "could not translate host name": "check the host in the address",
    "Connection refused": "start the server, or check host and port in the address",
    "Can't connect": "start the server, or check host and port in the address",
    "No space left on device": _DISK,
}
_PERMISSION = re.compile(r"permission denied for (table|function|schema|relation|sequence|database) (\S+)")
_COMMAND_DENIED = re.compile(r"(\w+) command denied to user (\S+) for table (\S+)")
_GRANTS = {
    "table": "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}",
    "function": "GRANT EXECUTE ON FUNCTION {} TO {}",
    "schema": "GRANT USAGE ON SCHEMA {} TO {}",
    "database": "GRANT CONNECT ON DATABASE {} TO {}",
}


def remedy_for(error: BaseException, code: Any, remedies: Mapping[Any, str], forbidden: bool, user: str) -> str:
    """Return what an error means and what to do; an empty text where nothing is known.

    Args:
        error: Of the driver.
        code: The server's code of it.
        remedies: `POSTGRESQL` or `MYSQL`.
        forbidden: Whether the code means that the user lacks a right.
        user: Who connects.
    """
    text = str(error)
    if forbidden:
        return _permission(text, user)
    if code in remedies:
        return remedies[code]
    return next((remedy for part, remedy in _TEXTS.items() if part in text), "")


def _permission(text: str, user: str) -> str:
    """Return the grant that is missing, and how tables and functions come about where the user may make none."""
    grant = _GRANTS["table"].format("each table of locks", user)
    if found := _PERMISSION.search(text):
        kind = "table" if found[1] in ("relation", "sequence") else found[1]
        grant = _GRANTS[kind].format(found[2], user)
    elif denied := _COMMAND_DENIED.search(text):
        grant = _GRANTS["table"].format(denied[3], user)
    return (
        f"the user lacks a right: {grant}. Where tables are missing, and this user may make none: {_TABLES}; "
        "schema_sql(url) gives the same"
    )
