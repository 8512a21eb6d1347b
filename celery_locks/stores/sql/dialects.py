"""The SQL of PostgreSQL and of MySQL. Statements are written by hand, because the row locks that they take matter."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Any

from celery_locks.stores.sql import function_texts, remedies
from celery_locks.stores.sql.schema import (
    SERVER_TABLES,
    TableSchema,
    Types,
    added_columns,
    index_statements,
    table_statement,
    version_row,
)

#: Seconds after which MySQL ends an idle session, also one whose client stopped within a transaction.
MYSQL_IDLE_SECONDS = 60
#: A session of PostgreSQL prepares a statement that it has run this often.
PREPARE_AFTER = 2
#: The prefix of all tables, if the URL gives no other.
PREFIX = "celery_locks_"


class Answer:
    """The rows of a statement."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self._decode = dialect.decode

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    @property
    def last_id(self) -> int:
        """The value that the statement passed to MySQL's ``LAST_INSERT_ID``."""
        return int(self._cursor.lastrowid)

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return None if row is None else tuple(map(self._decode, row))

    def fetchall(self) -> list[Any]:
        return [tuple(map(self._decode, row)) for row in self._cursor.fetchall()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class Connection:
    """A connection in use by one call.

    Attributes:
        info: Facts about its session, kept as long as the session lasts.
        timeout: Seconds that the call may take.
        repeated: Whether an earlier try may have been carried out, and only its reply was lost.
    """

    def __init__(self, dbapi: Any, dialect: Dialect, info: dict[str, Any], timeout: float, repeated: bool) -> None:
        self.dbapi = dbapi
        self.dialect = dialect
        self.info = info
        self.timeout = timeout
        self.repeated = repeated

    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        """Run a statement written as for `Session.execute`."""
        return self.run(self.dialect.text(query), values)

    def run(self, statement: str, values: Sequence[Any] = ()) -> Answer:
        """Run a statement in the driver's form."""
        cursor = self.dbapi.cursor()
        if values:
            cursor.execute(statement, tuple(map(self.dialect.encode, values)))
        else:
            cursor.execute(statement)
        return Answer(cursor, self.dialect)


class Dialect(ABC):
    """The SQL of one kind of database.

    Args:
        prefix: The prefix of the tables' names.
    """

    #: SQLAlchemy's name of database and driver.
    driver: str
    types: Types
    #: SQL expressions: the server's time and the time of the store's clock, in microseconds since 1970.
    server_time: str
    clock: str
    #: Statements that begin a transaction whose queries all see one state.
    begin_reading: Sequence[str]
    commit = "COMMIT"
    #: Statements that wait for all transactions that change locks, and keep new ones out until this one ends.
    lock_all: Sequence[str]
    #: Whether a statement that waited for `lock_all` still uses the store's clock as it was before.
    waits_through_lock_all = False
    #: Error codes: a table or function is missing; transactions collided; the server is read-only; the user lacks a
    #: right; the disk is full.
    missing: frozenset[Any]
    collisions: frozenset[Any]
    read_only: frozenset[Any]
    forbidden: frozenset[Any]
    full: frozenset[Any]
    #: Error codes: the session lacks a prepared statement, or already has one of that name.
    unprepared: frozenset[Any] = frozenset()
    #: What to do, by error code.
    remedies: Mapping[Any, str]

    #: Codes of missing rights whose message names no account or a wrong one, and the query for the account.
    of_account: frozenset[Any] = frozenset()
    account = "SELECT CURRENT_USER()"

    @abstractmethod
    def grant(self, text: str, user: str, account: str, database: str) -> str:
        """Return the statement that grants a missing right; an empty text if the right is unknown.

        Args:
            text: The server's message.
            user: The user of the address; empty if it names none.
            account: The user's account, for codes in `of_account`; empty if unknown.
            database: The database of the address.
        """

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.text = lru_cache(512)(self._text)
        self.upsert = lru_cache(64)(self._upsert)

    @property
    def channel(self) -> str:
        """Return the channel on which waiters are notified of their turn."""
        return self.prefix.rstrip("_")

    def loss_channel(self, process: str) -> str:
        """Return the channel on which a process is notified that its leases were taken by force."""
        return f"{self.channel}_lost_{process}"

    def _text(self, query: str) -> str:
        """Return a statement in the driver's form, with this store's table names."""
        return query.replace("CLOCK", self.clock).replace("?", "%s").replace(PREFIX, self.prefix)

    def prepare(self, connection: Connection, timeout: float) -> None:
        """Set up a new connection.

        Args:
            connection: The connection.
            timeout: The longest that a transaction may take, in seconds.
        """

    def isolates(self, connection: Connection) -> bool:
        """Return whether single statements run at READ COMMITTED, without a transaction that sets it."""
        return True

    @abstractmethod
    def begin(self, timeout: float) -> Sequence[str]:
        """Return the statements that begin a transaction. The server ends it after some ``timeout`` seconds."""

    @abstractmethod
    def _upsert(self, table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
        """Return the statement of `Session.put`."""

    @abstractmethod
    def delete_some(self, connection: Connection, table: TableSchema, until: int, most: int) -> int:
        """Delete expired rows that no other transaction has locked. Return how many."""

    @abstractmethod
    def delete_locks(self, connection: Connection, names: Sequence[str]) -> None:
        """Delete the rows of locks, which this transaction has locked."""

    @abstractmethod
    def keep_locks(self, connection: Connection, names: Sequence[str], forget_at: int) -> None:
        """Keep the rows of locks, which this transaction has locked, until ``forget_at`` at least."""

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """Return a value as the driver takes it."""

    @abstractmethod
    def decode(self, value: Any) -> Any:
        """Return a value that the driver returned, decoded."""

    @abstractmethod
    def code(self, error: BaseException) -> Any:
        """Return the server's code of an error."""

    @abstractmethod
    def is_disconnect(self, error: BaseException, code: Any) -> bool:
        """Return whether an error of the driver means that the connection is gone."""

    def schema(self) -> list[str]:
        """Return the statements that create missing tables and functions; safe to run again."""
        tables = [statement for table in SERVER_TABLES for statement in self._table(table)]
        return [*tables, *self._functions(), self._version_row()]

    def upgrade(self) -> list[str]:
        """Return the statements that bring the tables of an older version up to date; safe to run again."""
        changes = [statement for table in SERVER_TABLES for statement in self._additions(table)]
        return [*changes, *self._functions(), self._version_row()]

    def make(self, run: Callable[[str], Any]) -> None:
        """Create tables and functions within a transaction, which several processes may do at the same time.

        Args:
            run: Runs a statement.
        """
        for statement in self.schema():
            run(statement)

    def _table(self, table: TableSchema) -> list[str]:
        made, indexes = table_statement(table, self.types), index_statements(table, self.types)
        return [self._text(made), *self._additions(table), *map(self._text, indexes)]

    def _additions(self, table: TableSchema) -> list[str]:
        """Return the statements that add missing columns to a table of an older version, and drop unused ones."""
        name, added = f"{PREFIX}{table.name}", added_columns(table, self.types)
        changes = [self._addition(name, column, changes) for column, changes in added.items()]
        changes += [self._removal(name, column) for column in table.dropped]
        return [self._text(statement) for statements in changes for statement in statements]

    @abstractmethod
    def _addition(self, table: str, column: str, changes: Sequence[str]) -> list[str]:
        """Return the statements that change a table if it lacks a column."""

    @abstractmethod
    def _removal(self, table: str, column: str) -> list[str]:
        """Return the statements that drop a column if the table has it."""

    def _functions(self) -> list[str]:
        return []

    @abstractmethod
    def _version_row(self) -> str:
        """Return the statement that inserts the only row of ``meta``, or raises its version."""


class PostgreSQL(Dialect):
    """PostgreSQL through psycopg 3. Its text can't contain NUL, so NUL is escaped."""

    driver = "postgresql+psycopg"
    types = Types(key='text COLLATE "C"', text="text", int="bigint", end=" WITH (fillfactor = 50)")  # rows change often
    server_time, clock = function_texts.SERVER_TIME, function_texts.CLOCK
    begin_reading = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    # The weakest mode that conflicts with locking a row. While it waits, all others wait behind it.
    lock_all = ("SET LOCAL lock_timeout = 1000; LOCK TABLE celery_locks_lock IN EXCLUSIVE MODE",)
    missing = frozenset({"42P01", "42883", "42703"})
    collisions = frozenset({"40001", "40P01"})
    read_only = frozenset({"25006"})
    forbidden = frozenset({"42501"})
    full = frozenset({"53100"})
    unprepared = frozenset({"26000", "42P05"})
    remedies = remedies.POSTGRESQL

    def grant(self, text: str, user: str, account: str, database: str) -> str:
        return remedies.postgresql_grant(text, user)

    def prepare(self, connection: Connection, timeout: float) -> None:
        # Behind a pooler, the next transaction of this session is another client's. So nothing is set for the session.
        setting = connection.run("SELECT current_setting('default_transaction_isolation')").fetchone()[0]
        connection.info["isolates"] = setting == "read committed"
        # psycopg numbers the statements of each connection from 0. Behind a pooler of transactions, the statement of
        # that name may be another client's. Random numbers make that an error, which is noticed.
        statements: Any = getattr(connection.dbapi, "_prepared", None)
        if isinstance(getattr(statements, "_prepared_idx", None), int):
            statements._prepared_idx = secrets.randbits(60)
        else:  # an unknown release of psycopg
            connection.dbapi.prepare_threshold = None

    def isolates(self, connection: Connection) -> bool:
        return bool(connection.info["isolates"])

    def begin(self, timeout: float) -> Sequence[str]:
        limit = max(1, int(timeout * 1000))
        # One string is one round trip. No setting outlives the transaction, so a pooler does no harm.
        return (
            (
                "BEGIN ISOLATION LEVEL READ COMMITTED; "
                f"SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {2 * limit}"
            ),
        )

    def _upsert(self, table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key + keep)
        marks = ", ".join("?" * len(columns))
        return self._text(
            f"INSERT INTO {PREFIX}{table} ({', '.join(columns)}) VALUES ({marks}) "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
        )

    def delete_some(self, connection: Connection, table: TableSchema, until: int, most: int) -> int:
        key, name = ", ".join(table.key), f"{PREFIX}{table.name}"
        query = (
            f"DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {name} WHERE deadline <= ? "
            "ORDER BY deadline LIMIT ? FOR UPDATE SKIP LOCKED)"
        )
        return int(connection.execute(query, (until, most)).rowcount)

    def delete_locks(self, connection: Connection, names: Sequence[str]) -> None:
        connection.execute(f"DELETE FROM {PREFIX}lock WHERE name = ANY (?)", (list(map(self.encode, names)),))

    def keep_locks(self, connection: Connection, names: Sequence[str], forget_at: int) -> None:
        query = f"UPDATE {PREFIX}lock SET forget_at = ? WHERE name = ANY (?)"
        connection.execute(query, (forget_at, list(map(self.encode, names))))

    def encode(self, value: Any) -> Any:
        if isinstance(value, str) and ("\0" in value or "\1" in value):
            return value.replace("\1", "\1" + "1").replace("\0", "\1" + "0")
        return value

    def decode(self, value: Any) -> Any:
        if isinstance(value, str) and "\1" in value:
            return value.replace("\1" + "0", "\0").replace("\1" + "1", "\1")
        return value

    def _addition(self, table: str, column: str, changes: Sequence[str]) -> list[str]:
        changes = [change.replace("ADD COLUMN", "ADD COLUMN IF NOT EXISTS") for change in changes]
        return [f"ALTER TABLE {table} {', '.join(changes)}"]

    def _removal(self, table: str, column: str) -> list[str]:
        return [f"ALTER TABLE {table} DROP COLUMN IF EXISTS {column}"]

    def _functions(self) -> list[str]:
        return function_texts.texts(self.prefix)

    def _version_row(self) -> str:
        insert, changes = version_row()
        return self._text(f"{insert} ON CONFLICT (id) DO UPDATE SET {changes}")

    def code(self, error: BaseException) -> Any:
        return getattr(error, "sqlstate", None)

    def is_disconnect(self, error: BaseException, code: Any) -> bool:
        if code is None:
            return type(error).__name__ in ("OperationalError", "InterfaceError")
        return bool(code.startswith("08") or code in ("57P01", "57P02", "57P03", "57P05", "25P03"))

    def make(self, run: Callable[[str], Any]) -> None:
        # Without this lock, "IF NOT EXISTS" sometimes fails when two processes run it at the same time.
        run(f"SELECT pg_advisory_xact_lock(hashtext('{self.prefix}'))")
        for table in SERVER_TABLES:
            # These statements lock the whole table, even if nothing is missing.
            if self._lacks(table, run):
                for statement in self._table(table):
                    run(statement)
        for name, statement in zip(function_texts.NAMES, self._functions(), strict=True):
            if run(f"SELECT to_regproc('{self._text(function_texts.function_name(name))}')").fetchone()[0] is None:
                run(statement)
        run(self._version_row())

    def _lacks(self, table: TableSchema, run: Callable[[str], Any]) -> bool:
        """Return whether a table is missing, or one of the columns that an older version of it lacks."""
        name = f"{self.prefix}{table.name}"
        columns = ", ".join(f"'{column}'" for column in table.added) or "NULL"
        query = (
            f"SELECT to_regclass('{name}'), (SELECT count(*) FROM pg_attribute "
            f"WHERE attrelid = to_regclass('{name}') AND attname IN ({columns}) AND NOT attisdropped)"
        )
        there, known = run(query).fetchone()
        return there is None or known < len(table.added)


def rows_of(table: str, key: Sequence[str], count: int) -> str:
    """Return a MySQL join with some rows of a table ``t``, with question marks for their keys.

    It finds each row by its key. With ``IN`` MariaDB reads all of a small table and waits for locked rows.
    """
    first, rest = ", ".join(f"? AS {column}" for column in key), ", ".join("?" * len(key))
    keys = " UNION ALL ".join([f"SELECT {first}", *[f"SELECT {rest}"] * (count - 1)])
    same = " AND ".join(f"t.{column} = w.{column}" for column in key)
    return f"({keys}) w STRAIGHT_JOIN {table} t FORCE INDEX (PRIMARY) ON {same}"


class MySQL(Dialect):
    """MySQL and MariaDB through PyMySQL. Text is stored as bytes, since comparisons of text ignore case."""

    driver = "mysql+pymysql"
    types = Types(key="varbinary(512)", text="longblob", int="bigint", inline=True, end=" ENGINE=InnoDB")
    # The time at which the statement began. So the clock is read by a statement that begins with the row locked.
    server_time = "timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6))"
    clock = f"({server_time} + (SELECT coalesce(max(ahead), 0) FROM {PREFIX}meta))"
    begin_reading = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    # The first keeps new rows out: each transaction that inserts one shares the row of `meta`.
    lock_all = (
        "SELECT id FROM celery_locks_meta FOR UPDATE",
        "SELECT count(*) FROM celery_locks_lock FORCE INDEX (PRIMARY) FOR UPDATE",
    )
    waits_through_lock_all = True
    missing = frozenset({1146, 1054})
    #: The last two: another process has added or dropped the same column.
    collisions = frozenset({1020, 1213, 1060, 1091})
    read_only = frozenset({1290, 1792, 1836})
    forbidden = frozenset({1044, 1142, 1143, 1370})
    full = frozenset({1021, 1114})
    of_account = frozenset({1142, 1143, 1370})
    remedies = remedies.MYSQL

    def grant(self, text: str, user: str, account: str, database: str) -> str:
        return remedies.mysql_grant(text, account, database)

    def prepare(self, connection: Connection, timeout: float) -> None:
        settings = [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES'",  # a truncated name would merge two locks
            f"SET SESSION wait_timeout = {MYSQL_IDLE_SECONDS}",
            f"SET SESSION innodb_lock_wait_timeout = {max(1, int(timeout * function_texts.PATIENCE))}",
        ]
        if "MariaDB" in connection.dbapi.get_server_info():
            settings.append(f"SET SESSION idle_transaction_timeout = {ceil(2 * timeout)}")
        for setting in settings:
            connection.run(setting)

    def begin(self, timeout: float) -> Sequence[str]:
        return ("START TRANSACTION",)

    def _version_row(self) -> str:
        insert, changes = version_row()
        return self._text(f"{insert} ON DUPLICATE KEY UPDATE {changes}".replace(" AS m", "").replace("m.", ""))

    def _upsert(self, table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
        changed = ", ".join(f"{name} = VALUES({name})" for name in columns if name not in key + keep)
        marks = ", ".join("?" * len(columns))
        return self._text(
            f"INSERT INTO {PREFIX}{table} ({', '.join(columns)}) VALUES ({marks}) ON DUPLICATE KEY UPDATE {changed}"
        )

    def delete_some(self, connection: Connection, table: TableSchema, until: int, most: int) -> int:
        key, name = ", ".join(table.key), f"{PREFIX}{table.name}"
        query = f"SELECT {key} FROM {name} WHERE deadline <= ? ORDER BY deadline LIMIT ? FOR UPDATE SKIP LOCKED"
        rows = connection.execute(query, (until, most)).fetchall()
        if rows:
            which = rows_of(name, table.key, len(rows))
            connection.execute(f"DELETE t FROM {which}", [value for row in rows for value in row])
        return len(rows)

    def delete_locks(self, connection: Connection, names: Sequence[str]) -> None:
        which = rows_of(f"{PREFIX}lock", ("name",), len(names))
        connection.execute(f"DELETE t FROM {which}", names)

    def keep_locks(self, connection: Connection, names: Sequence[str], forget_at: int) -> None:
        which = rows_of(f"{PREFIX}lock", ("name",), len(names))
        connection.execute(f"UPDATE {which} SET t.forget_at = ?", (*names, forget_at))

    def _addition(self, table: str, column: str, changes: Sequence[str]) -> list[str]:
        return self._change(f"ALTER TABLE {table} {', '.join(changes)}", table, column, has_column=False)

    def _removal(self, table: str, column: str) -> list[str]:
        return self._change(f"ALTER TABLE {table} DROP COLUMN {column}", table, column, has_column=True)

    def _change(self, change: str, table: str, column: str, *, has_column: bool) -> list[str]:
        """Return statements that run a change if a table has, or lacks, a column. MySQL has no ``IF EXISTS``."""
        quoted = change.replace("'", "''")
        known = (
            "SELECT 1 FROM information_schema.columns "
            f"WHERE table_schema = DATABASE() AND table_name = '{table}' AND column_name = '{column}'"
        )
        return [
            f"SET @{PREFIX}change = IF(EXISTS ({known}) = {int(has_column)}, '{quoted}', 'DO 0')",
            f"PREPARE {PREFIX}change FROM @{PREFIX}change",
            f"EXECUTE {PREFIX}change",
            f"DEALLOCATE PREPARE {PREFIX}change",
        ]

    def encode(self, value: Any) -> Any:
        return value.encode() if isinstance(value, str) else value

    def decode(self, value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    def code(self, error: BaseException) -> Any:
        return error.args[0] if error.args else None

    def is_disconnect(self, error: BaseException, code: Any) -> bool:
        return code in (0, 1053, 1927, 2006, 2013, 2055, 4031)
