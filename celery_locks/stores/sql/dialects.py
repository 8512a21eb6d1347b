"""What PostgreSQL and MySQL say differently. Statements are written out: what locks they take matters here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from celery_locks.stores.sql import remedies, stored
from celery_locks.stores.sql.schema import (
    SERVER_TABLES,
    TableSchema,
    Types,
    added_columns,
    index_statements,
    table_statement,
)

#: The bits of a moment in microseconds that `forget_at` leaves out, some 72 minutes: it changes so seldom, and on
#: PostgreSQL a row whose indexed columns stay as they are is written without its indexes.
COARSE = 32
#: What all names of tables begin with, unless the URL says otherwise.
PREFIX = "celery_locks_"


class Dialect(ABC):
    """A database's own words.

    Args:
        prefix: What the names of its tables begin with.
    """

    #: SQLAlchemy's name of database and driver.
    driver: str
    types: Types
    #: Now in microseconds since 1970.
    clock: str
    #: Begins a transaction whose queries all see one state.
    begin_reading: Sequence[str]
    commit = "COMMIT"
    #: Around an insert that does nothing where there is such a row.
    insert_new, or_nothing = "INSERT", "ON CONFLICT DO NOTHING"
    #: Error codes: a table or function is missing; try again; this server can't write, another may; the user has no
    #: right to.
    missing: frozenset[Any]
    collisions: frozenset[Any]
    read_only: frozenset[Any]
    forbidden: frozenset[Any]
    #: Error code → what to do.
    remedies: Mapping[Any, str]

    #: Codes of missing rights whose text names no account, or a wrong one. A statement asks for the account.
    of_account: frozenset[Any] = frozenset()
    account = "SELECT CURRENT_USER()"

    @abstractmethod
    def grant(self, text: str, user: str, account: str, database: str) -> str:
        """Return the statement that gives a missing right; an empty text if it is not known.

        Args:
            text: What the server answered.
            user: Who connects; empty if the address names no one.
            account: The user's account, where the code is one `of_account`; empty if it is not known.
            database: The one of the address.
        """

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.text = lru_cache(512)(self._text)
        self.upsert = lru_cache(64)(self._upsert)

    @property
    def channel(self) -> str:
        """Where it is told who may go."""
        return self.prefix.rstrip("_")

    def loss_channel(self, process: str) -> str:
        """Return where a process is notified that leases were taken from it by force."""
        return f"{self.channel}_lost_{process}"

    def _text(self, query: str) -> str:
        """A statement in the driver's form, with the names of this store's tables."""
        return query.replace("CLOCK", self.clock).replace("?", "%s").replace(PREFIX, self.prefix)

    @cached_property
    def forget_at(self) -> str:
        """Until when a lock's row is kept at least if nothing happens: 72 minutes and up to 72 more."""
        return f"(((CLOCK >> {COARSE}) + 2) << {COARSE})"  # as the functions write it, too

    @abstractmethod
    def begin(self, timeout: float) -> Sequence[str]:
        """Begins a transaction that the server ends itself where this process can't, some ``timeout`` seconds later."""

    @abstractmethod
    def _upsert(self, table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
        """See `Session.put`."""

    @abstractmethod
    def delete_some(self, table: TableSchema, most: int) -> str:
        """Takes away rows whose time is over, but for those that somebody else has in hand."""

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """A value as the driver takes it."""

    @abstractmethod
    def decode(self, value: Any) -> Any:
        """A value as the driver gave it."""

    @abstractmethod
    def code(self, error: BaseException) -> Any:
        """The server's code of an error."""

    @abstractmethod
    def is_disconnect(self, error: BaseException, code: Any) -> bool:
        """Whether an error of the driver means that the connection is gone."""

    def schema(self) -> list[str]:
        """The statements that make tables and functions where they are missing; safe to run again."""
        tables = [statement for table in SERVER_TABLES for statement in self._table(table)]
        return [*tables, *self._functions(), *self._first_rows()]

    def make(self, run: Callable[[str], Any]) -> None:
        """Makes tables and functions within a transaction, where many may do so at once.

        Args:
            run: Runs a statement.
        """
        for statement in self.schema():
            run(statement)

    def _table(self, table: TableSchema) -> list[str]:
        made, indexes = table_statement(table, self.types), index_statements(table, self.types)
        return [self._text(made), *self._additions(table), *map(self._text, indexes)]

    def _additions(self, table: TableSchema) -> list[str]:
        """Return the statements that add columns to a table of an older version, where they are missing."""
        return [
            self._text(statement)
            for column, changes in added_columns(table, self.types).items()
            for statement in self._addition(f"{PREFIX}{table.name}", column, changes)
        ]

    @abstractmethod
    def _addition(self, table: str, column: str, changes: Sequence[str]) -> list[str]:
        """Return the statements that change a table where it lacks a column."""

    def _functions(self) -> list[str]:
        return []

    def _first_rows(self) -> list[str]:
        first = f"{self.insert_new} INTO {PREFIX}meta (id, last_fencing_token) VALUES (1, 0) {self.or_nothing}"
        return [self._text(first.rstrip())]


class PostgreSQL(Dialect):
    """By psycopg 3. Text can hold no NUL there, so it is escaped."""

    driver = "postgresql+psycopg"
    types = Types(
        key='text COLLATE "C"', text="text", int="bigint", end=" WITH (fillfactor = 50)"
    )  # rows change all the time
    clock = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    begin_reading = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    missing = frozenset({"42P01", "42883", "42703"})
    collisions = frozenset({"40001", "40P01"})
    read_only = frozenset({"25006"})
    forbidden = frozenset({"42501"})
    remedies = remedies.POSTGRESQL

    def grant(self, text: str, user: str, account: str, database: str) -> str:
        return remedies.postgresql_grant(text, user)

    def begin(self, timeout: float) -> Sequence[str]:
        limit = max(1, int(timeout * 1000))
        # One string, so one round trip; nothing of it outlives the transaction, so a pooler may stand between.
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

    def delete_some(self, table: TableSchema, most: int) -> str:
        key, name = ", ".join(table.key), f"{PREFIX}{table.name}"
        return self._text(
            f"DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM {name} WHERE deadline <= CLOCK - {table.kept} "
            f"ORDER BY deadline LIMIT {most} FOR UPDATE SKIP LOCKED)"
        )

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

    def _functions(self) -> list[str]:
        return stored.texts(self.prefix, self.clock, self.forget_at)

    def code(self, error: BaseException) -> Any:
        return getattr(error, "sqlstate", None)

    def is_disconnect(self, error: BaseException, code: Any) -> bool:
        if code is None:
            return type(error).__name__ in ("OperationalError", "InterfaceError")
        return bool(code.startswith("08") or code in ("57P01", "57P02", "57P03", "57P05", "25P03"))

    def make(self, run: Callable[[str], Any]) -> None:
        # Without it "IF NOT EXISTS" fails now and then where two do it at once.
        run(f"SELECT pg_advisory_xact_lock(hashtext('{self.prefix}'))")
        for table in SERVER_TABLES:
            # Even where nothing is missing, these statements take the table from all who write.
            if self._lacks(table, run):
                for statement in self._table(table):
                    run(statement)
        for name, statement in zip(stored.NAMES, self._functions(), strict=True):
            if run(f"SELECT to_regproc('{self._text(stored.name(name))}')").fetchone()[0] is None:
                run(statement)
        for statement in self._first_rows():
            run(statement)

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


class MySQL(Dialect):
    """MySQL and MariaDB by PyMySQL. Text is kept as bytes: their text ignores case and trailing spaces."""

    driver = "mysql+pymysql"
    types = Types(key="varbinary(512)", text="longblob", int="bigint", inline=True, end=" ENGINE=InnoDB")
    # The beginning of the statement. What is older than the lock's row is put right by that.
    clock = "timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6))"
    begin_reading = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    insert_new, or_nothing = "INSERT IGNORE", ""
    missing = frozenset({1146, 1054})
    collisions = frozenset({1020, 1213, 1060})  # the last: another process has added the same column
    read_only = frozenset({1290, 1792, 1836})
    forbidden = frozenset({1044, 1142, 1143, 1370})
    of_account = frozenset({1142, 1143, 1370})
    remedies = remedies.MYSQL

    def grant(self, text: str, user: str, account: str, database: str) -> str:
        return remedies.mysql_grant(text, account, database)

    def begin(self, timeout: float) -> Sequence[str]:
        return ("START TRANSACTION",)

    def _upsert(self, table: str, key: tuple[str, ...], columns: tuple[str, ...], keep: tuple[str, ...]) -> str:
        changed = ", ".join(f"{name} = VALUES({name})" for name in columns if name not in key + keep)
        marks = ", ".join("?" * len(columns))
        return self._text(
            f"INSERT INTO {PREFIX}{table} ({', '.join(columns)}) VALUES ({marks}) ON DUPLICATE KEY UPDATE {changed}"
        )

    def delete_some(self, table: TableSchema, most: int) -> str:
        return self._text(
            f"DELETE FROM {PREFIX}{table.name} WHERE deadline <= CLOCK - {table.kept} ORDER BY deadline LIMIT {most}"
        )

    def _addition(self, table: str, column: str, changes: Sequence[str]) -> list[str]:
        # MySQL has no "ADD COLUMN IF NOT EXISTS".
        change = f"ALTER TABLE {table} {', '.join(changes)}".replace("'", "''")
        known = (
            "SELECT 1 FROM information_schema.columns "
            f"WHERE table_schema = DATABASE() AND table_name = '{table}' AND column_name = '{column}'"
        )
        return [
            f"SET @{PREFIX}change = IF(EXISTS ({known}), 'DO 0', '{change}')",
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
