"""The tables. Moments are integer microseconds of the store's clock; a waiter's id is its place in line."""

from __future__ import annotations

from dataclasses import dataclass

#: The version of the tables; and the oldest version whose releases may use them, alongside this one. A change that
#: older releases must not meet raises both.
VERSION, OLDEST = 2, 2
#: Microseconds that an expired holder's row is kept, so that a late renewal hears why it failed.
REMEMBERED = 60_000_000


@dataclass(frozen=True)
class TableSchema:
    """A table, in words that each database has a type for.

    Attributes:
        name: Without ``celery_locks_``.
        columns: ``name kind`` of each, kinds being those of `Types`; one that ends in ``?`` may be NULL. Behind ``=``
            is the default: an empty text or 0 if there is nothing.
        key: The columns of the primary key.
        indexes: The columns of each further index.
        kept: Microseconds that a row is kept beyond its deadline.
        added: Names of columns that tables of older versions lack. They have a default: older versions write none.
        dropped: Names of columns that only tables of older versions have. What older releases do with one fails.
    """

    name: str
    columns: str
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = (("deadline",),)
    kept: int = 0
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Types:
    """What a database calls the kinds of columns.

    Attributes:
        key: Text that is compared byte by byte and can be indexed.
        text: Text of any length.
        int: 64 bits.
        inline: Whether indexes are written within the table, there being no ``CREATE INDEX IF NOT EXISTS``.
        end: What is written after a table.
    """

    key: str
    text: str
    int: str
    inline: bool = False
    end: str = ""


#: All of them have a ``deadline``, after which a row means nothing.
TABLES = (
    TableSchema(
        "holder",
        "name key, token key, owner text, permits int, most int, fencing_token int, since int, deadline int",
        ("name", "token"),
        kept=REMEMBERED,
    ),
    TableSchema(
        "waiter",
        "id int, name key, token key, permits int, most int, deadline int",
        ("name", "token"),
        (("name", "id", "deadline"), ("deadline",)),  # places are counted by the first alone
    ),
    TableSchema("taken", "name key, token key, why key, deadline int", ("name", "token")),
    TableSchema("task", "task key, name key, token key, deadline int", ("task",)),
    TableSchema("value", "name key, text text, deadline int", ("name",)),
    TableSchema(
        "ticket",
        "name key, id key, state key, number int, message text, task key, owner text, permits int, most int, "
        "until int?, calls int, token key, why key, due int?, deadline int, broker key=",
        ("name", "id"),
        (("name", "number"), ("broker", "due"), ("token",), ("task",), ("deadline",)),
        added=("broker",),
    ),
)

#: Those beside them on a server: a row for each lock, which whoever changes the lock has to itself meanwhile, and the
#: greatest fencing token of locks whose row was taken away.
#:
#: touched: the last moment at which it was changed; the lock's clock never goes back behind it.
#: watched: until when a process wants to be notified that is not in line.
#: ended: the owner token whose lease ended last: an acquire of it that arrives late is granted nothing.
#: token, owner, permits, most, since, deadline: the only holder of a lock that no one waits for, whose fencing token is
#: ``fence``. An empty token: no holder. Once its deadline has passed the lock is free, whatever the token is.
#: crowd: 1 where holders are rows of ``holder`` and others may wait; the row itself has no holder then. While it is 0,
#: no row of ``holder`` and no place in line lives.
#: forget_at: when to see whether the row is still needed.
#: ahead: by how much the store's clock is ahead of the server's, which was set back.
#: version, oldest: see `VERSION` and `OLDEST`.
SERVER_TABLES = (
    *TABLES,
    TableSchema(
        "lock",
        "name key, touched int, fence int, watched int, ended key=, forget_at int, token key=, owner text?, "
        "permits int=, most int=, since int=, deadline int=, crowd int=1",  # older releases wrote rows of holder only
        ("name",),
        (("forget_at",),),  # PostgreSQL writes a row without its indexes while no indexed column changes
        added=("ended", "token", "owner", "permits", "most", "since", "deadline", "crowd"),
        # A release that sees no holder here, and runs already, must neither acquire nor release. It may renew.
        dropped=("released",),
    ),
    TableSchema(
        "meta",
        "id int, last_fencing_token int, ahead int=, version int=, oldest int=",
        ("id",),
        (),
        added=("ahead", "version", "oldest"),
    ),
)


def table_statement(table: TableSchema, types: Types) -> str:
    """Return the statement that makes a table where it is missing."""
    parts = [_column(column, types) for column in table.columns.split(", ")]
    parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    if types.inline:
        parts += [f"INDEX {index} ({columns})" for index, columns in _indexes(table)]
    body = ",\n    ".join(parts)
    return f"CREATE TABLE IF NOT EXISTS celery_locks_{table.name} (\n    {body}\n){types.end}"


def index_statements(table: TableSchema, types: Types) -> list[str]:
    """Return the statements that make the indexes of a table where they are missing, unless its own statement does."""
    if types.inline:
        return []
    name = f"celery_locks_{table.name}"
    return [f"CREATE INDEX IF NOT EXISTS {index} ON {name} ({columns})" for index, columns in _indexes(table)]


def added_columns(table: TableSchema, types: Types) -> dict[str, list[str]]:
    """Return what an ``ALTER TABLE`` adds to a table of an older version, by the name of the column that it lacks."""
    columns = {column.split()[0]: _column(column, types) for column in table.columns.split(", ")}
    found = {name: [f"ADD COLUMN {columns[name]}"] for name in table.added}
    if types.inline:
        for index, indexed in _indexes(table):
            first = indexed.split(", ")[0]
            if first in found:
                found[first].append(f"ADD INDEX {index} ({indexed})")
    return found


def version_row() -> tuple[str, str]:
    """Return the insert of the one row of ``meta``, and what is changed where that is there."""
    columns = "(id, last_fencing_token, version, oldest)"
    changes = f"version = greatest(m.version, {VERSION}), oldest = greatest(m.oldest, {OLDEST})"
    return f"INSERT INTO celery_locks_meta AS m {columns} VALUES (1, 0, {VERSION}, {OLDEST})", changes


def _indexes(table: TableSchema) -> list[tuple[str, str]]:
    """Return the names of a table's indexes, and their columns."""
    return [(f"celery_locks_{table.name}_{'_'.join(columns)}", ", ".join(columns)) for columns in table.indexes]


def _column(column: str, types: Types) -> str:
    name, kind = column.split()
    kind, has_default, value = kind.partition("=")
    null = "" if kind.endswith("?") else " NOT NULL"
    default = f" DEFAULT {value or (0 if kind == 'int' else repr(''))}" if has_default else ""
    return f"{name} {getattr(types, kind.rstrip('?'))}{null}{default}"
