"""Explanations of database errors, each with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.dialects import postgresql

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
_UNREACHABLE = "start the server, or check host and port in the address"
_PREPARED = (
    "a pooler of transactions, such as PgBouncer, stands between, which keeps no prepared statements. "
    "Take prepare=yes out of the address, or set max_prepared_statements in PgBouncer"
)
_UPGRADE = (
    "`celery -A … locks sql --upgrade` prints the statements that bring tables of an older version up to date. "
    "Run them as the owner of the tables"
)
_OLDER = (
    f"a table was made by another version. {_UPGRADE}. If that does not help, compare its columns with what "
    "`celery -A … locks sql` prints"
)

#: What to do, by PostgreSQL's error code. `_PERMISSION` distinguishes missing rights.
POSTGRESQL: Mapping[Any, str] = {
    "25006": _READ_ONLY,
    "26000": _PREPARED,
    "28000": _PASSWORD,
    "28P01": _PASSWORD,
    "3D000": _NO_DATABASE,
    "3F000": f"the user has no schema to make the tables in: grant it USAGE on one in its search_path. {_TABLES}",
    "42703": _OLDER,
    "42P01": f"a table is missing. {_TABLES}",
    "42P05": _PREPARED,
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
    1054: _OLDER,
    1114: f"a table is full. {_DISK[:1].upper()}{_DISK[1:]}",
    1146: f"a table is missing. {_TABLES}",
    1203: _CONNECTIONS,
    1290: "the server runs with --read-only. Give the address of the primary, or set read_only off",
    1698: _PASSWORD,
    1792: "the transaction is read-only. Set transaction_read_only off for this user, or give the primary's address",
    1836: "the server is in read-only mode. Give the address of the primary, or set read_only off",
    2002: _UNREACHABLE,
    2003: _UNREACHABLE,
}
#: What to do, by a regular expression for errors without a code: those of connecting to PostgreSQL.
_TEXTS = {
    "password authentication failed": _PASSWORD,
    "no password supplied": _PASSWORD,
    "no pg_hba.conf entry": "allow this user and machine in the server's pg_hba.conf",
    'database ".*" does not exist': _NO_DATABASE,
    'role ".*" does not exist': f"make the role, or name another in the address; {_PASSWORD}",
    "too many": _CONNECTIONS,
    "remaining connection slots": _CONNECTIONS,
    "the database system is": _STARTING,
    "could not translate host name": "check the host in the address",
    "Connection refused": _UNREACHABLE,
}


def remedy_for(
    error: BaseException, code: Any, remedies: Mapping[Any, str], forbidden: bool, grant: Callable[[str], str]
) -> str:
    """Return what an error means and what to do; an empty text if the error is unknown.

    Args:
        error: The driver's error.
        code: The server's error code.
        remedies: `POSTGRESQL` or `MYSQL`.
        forbidden: Whether the code means that the user lacks a right.
        grant: Returns the statement that grants the right, from the server's message; an empty text if unknown.
    """
    text = str(error.args[-1]) if error.args else ""
    statement = grant(text) if forbidden or code is None else ""
    if forbidden or statement:
        return _right(statement)
    if "No space left on device" in text:
        return _DISK
    if code is not None:
        return remedies.get(code, "")
    return next((remedy for part, remedy in _TEXTS.items() if re.search(part, text)), "")


def _right(grant: str) -> str:
    """Return how to grant a missing right, and how another user creates the tables and functions."""
    given = f". Run this as a user that may grant it: {grant}" if grant else ""
    return (
        f"the user lacks a right{given}; where tables are missing, and this user may make none: {_TABLES}; "
        f"schema_sql(url) gives the same; {_UPGRADE}"
    )


def newer_tables(version: int) -> str:
    """Return why this release may not use the tables of a newer one, and what to do.

    Args:
        version: The version of the tables.
    """
    return f"its tables have version {version}, for newer releases than this one. Upgrade celery-locks"


# --- PostgreSQL ---

_PERMISSION = re.compile(r'permission denied for (table|function|schema|relation|sequence|database) ("[^"]+"|\S+)')
_GRANTS = {
    "table": "SELECT, INSERT, UPDATE, DELETE ON",
    "relation": "SELECT, INSERT, UPDATE, DELETE ON",  # the word for a table before PostgreSQL 11
    "function": "EXECUTE ON FUNCTION",
    # PostgreSQL skips schemas that the user may not use. So this is the schema in which the tables belong.
    "schema": "USAGE, CREATE ON SCHEMA",
    "sequence": "USAGE ON SEQUENCE",
    "database": "CONNECT ON DATABASE",
}
_identifiers = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def postgresql_grant(text: str, user: str) -> str:
    """Return the statement that grants the right missing in PostgreSQL; an empty text if the message is unknown."""
    found = _PERMISSION.search(text)
    if found is None:
        return ""
    name, who = _identifiers.quote(found[2].strip('"')), _identifiers.quote(user) if user else "USER"
    return f"GRANT {_GRANTS[found[1]]} {name} TO {who}"


# --- MySQL and MariaDB ---

_ACCOUNT = re.compile(r"('[^']*'@'[^']*')")
_COMMAND_DENIED = re.compile(r"(\w+) command denied to user .* (?:for|in) table (\S+)", re.IGNORECASE)
_ROUTINE_DENIED = re.compile(r"command denied to user .* for routine")
_CHANGES = "SELECT, INSERT, UPDATE, DELETE"


def mysql_grant(text: str, account: str, database: str) -> str:
    """Return the statement that grants the right missing in MySQL; an empty text if the message is unknown.

    Args:
        text: The server's message. It may name the machine of the user instead of the host of its account.
        account: The result of ``CURRENT_USER()``; empty if unknown.
        database: The database of the address.
    """
    found = _ACCOUNT.search(text)
    if found is None:
        return ""
    name, _, host = account.rpartition("@")
    who = f"'{name}'@'{host}'" if account else found[1]
    rights, place = _CHANGES, "*"
    if denied := _COMMAND_DENIED.search(text):
        if denied[1].upper() in _CHANGES.split(", "):
            place = _in_backticks(re.split(r"[.`']+", denied[2].strip("`'"))[-1])
        else:  # to create or change a table; a right can't be granted on a missing table
            rights = f"{denied[1].upper()}, {_CHANGES}"
    elif _ROUTINE_DENIED.search(text):
        rights = "EXECUTE"
    return f"GRANT {rights} ON {_in_backticks(database)}.{place} TO {who}"


def _in_backticks(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
