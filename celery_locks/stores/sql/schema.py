"""The tables. Moments are integer microseconds of the store's clock. A waiter's id is its place in line."""

from __future__ import annotations

from dataclasses import dataclass

#: The version of the tables, and the oldest version whose releases may use them. A change that excludes older releases
#: raises both.
VERSION, OLDEST = 2, 2
#: Microseconds that the row of an expired holder is kept, so that a late renewal gets the reason.
EXPIRED_KEPT_MICROSECONDS = 60_000_000


@dataclass(frozen=True)
class TableSchema:
    """A table, described independently of the database.

    Attributes:
        name: The name without ``celery_locks_``.
        columns: ``name kind`` of each column, with a kind of `Types`. One with ``?`` may be NULL. The default follows
            ``=``; without a value it is an empty text or 0.
        key: The columns of the primary key.
        indexes: The columns of each further index.
        kept: Microseconds that a row is kept after its deadline.
        added: Columns that tables of older versions lack. They have a default, since older releases don't write them.
        dropped: Columns that only tables of older versions have. Without them, requests of older releases fail.
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
    """The column types of a database.

    Attributes:
        key: Text that is compared byte by byte and can be indexed.
        text: Text of any length.
        int: An integer of 64 bits.
        inline: Whether ``CREATE TABLE`` contains the indexes, for lack of ``CREATE INDEX IF NOT EXISTS``.
        end: The end of ``CREATE TABLE``, after the columns.
    """

    key: str
    text: str
    int: str
    inline: bool = False
    end: str = ""


#: The tables of all databases. Each has a ``deadline``, after which a row has no effect.
TABLES = (
    TableSchema(
        "holder",
        "name key, token key, owner text, permits int, most int, fencing_token int, since int, deadline int",
        ("name", "token"),
        kept=EXPIRED_KEPT_MICROSECONDS,
    ),
    TableSchema(
        "waiter",
        "id int, name key, token key, permits int, most int, deadline int",
        ("name", "token"),
        (("name", "id", "deadline"), ("deadline",)),  # positions are counted in the first index alone
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

#: The tables of a server. ``lock`` has a row for each lock; each transaction that changes the lock locks that row.
#:
#: touched: the last moment at which the lock was changed. The lock's clock never goes back behind it.
#: fence: the fencing token given last.
#: watched: until when a process that does not stand in line wants to be notified.
#: ended: the owner token of the lease that ended last. If an acquire with this token arrives late, it is refused.
#: token, owner, permits, most, since, deadline: the only holder of a lock without waiters. Its fencing token is
#: ``fence``. Without a holder, the token is empty. After the deadline the lock is free, whatever the token is.
#: crowd: 0 if no row of ``holder`` or ``waiter`` is alive, so that ``lock`` contains all there is to know. 1 if the
#: holders are rows of ``holder``; then the row of ``lock`` contains none, and others may wait.
#: forget_at: when the sweeper checks whether the row is still needed.
#:
#: ``meta`` has one row.
#:
#: last_fencing_token: the greatest fencing token of the locks whose rows were deleted.
#: ahead: by how much the store's clock is ahead of the server's clock, which was set back.
#: version, oldest: see `VERSION` and `OLDEST`.
SERVER_TABLES = (
    *TABLES,
    TableSchema(
        "lock",
        "name key, touched int, fence int, watched int, ended key=, forget_at int, token key=, owner text?, "
        "permits int=, most int=, since int=, deadline int=, crowd int=1",  # older releases only wrote rows of holder
        ("name",),
        (("forget_at",),),  # PostgreSQL skips the indexes while no indexed column changes
        added=("ended", "token", "owner", "permits", "most", "since", "deadline", "crowd"),
        # Releases of version 1 don't see the holder here. Without this column they can renew, but not acquire.
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
    """Return the statement that creates a table if it is missing."""
    parts = [_column(column, types) for column in table.columns.split(", ")]
    parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    if types.inline:
        parts += [f"INDEX {index} ({columns})" for index, columns in _indexes(table)]
    body = ",\n    ".join(parts)
    return f"CREATE TABLE IF NOT EXISTS celery_locks_{table.name} (\n    {body}\n){types.end}"


def index_statements(table: TableSchema, types: Types) -> list[str]:
    """Return the statements that create the missing indexes of a table, unless ``CREATE TABLE`` contains them."""
    if types.inline:
        return []
    name = f"celery_locks_{table.name}"
    return [f"CREATE INDEX IF NOT EXISTS {index} ON {name} ({columns})" for index, columns in _indexes(table)]


def added_columns(table: TableSchema, types: Types) -> dict[str, list[str]]:
    """Return the changes of ``ALTER TABLE`` to a table of an older version, by the missing column."""
    columns = {column.split()[0]: _column(column, types) for column in table.columns.split(", ")}
    found = {name: [f"ADD COLUMN {columns[name]}"] for name in table.added}
    if types.inline:
        for index, indexed in _indexes(table):
            first = indexed.split(", ")[0]
            if first in found:
                found[first].append(f"ADD INDEX {index} ({indexed})")
    return found


def version_row() -> tuple[str, str]:
    """Return the insert of the only row of ``meta``, and the changes if it exists."""
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
    value = value or ("0" if kind == "int" else "''")
    default = f" DEFAULT {value}" if has_default else ""
    return f"{name} {getattr(types, kind.rstrip('?'))}{null}{default}"
