"""Output of the commands: JSON, tables (coloured by rich on a terminal, otherwise plain text), and texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from celery_locks import LockInfo, Locks
from celery_locks._durations import duration
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.escapes import printable
from celery_locks.stores.types import Holder
from celery_locks.views import holder_fields, lock_fields, more_holders

Row = Sequence[str]
#: How many holders a sentence names.
MOST_NAMED = 10
#: The columns of the tables of locks.
COLUMNS: Row = ("KEY", "HELD BY", "FOR", "LEFT", "PERMITS", "WAITING", "FENCE")


# --- Texts ---


def key_text(key: str, part: str) -> str:
    """Return a key with its part, for a sentence."""
    return printable(key) + (f" (part {printable(part)})" if part else "")


def in_store(locks: Locks) -> str:
    """Return the store of locks for the end of a sentence; an empty text for the default store."""
    return "" if locks.store_name == DEFAULT_STORE else f" in the store {printable(locks.store_name)}"


def holder_text(holder: Holder) -> str:
    """Return the owner of a lease, and whether it is a dispatched task that has not started."""
    return printable(holder.owner) + (", not started" if holder.state == "dispatched" else "")


def holders_text(holders: Sequence[Holder], names_all: bool = True) -> str:
    """Return the holders of a key and for how long they have held it, for a sentence.

    Args:
        holders: The holders.
        names_all: Whether these are all holders of the key.
    """
    names = [f"{holder_text(holder)} (for {duration(holder.held_for)})" for holder in holders[:MOST_NAMED]]
    more = f" and {len(holders) - MOST_NAMED} more" if len(holders) > MOST_NAMED else ""
    return ", ".join(names) + more + ("" if names_all else ", and others")


# --- JSON ---


def lock_as_data(item: LockInfo) -> dict[str, Any]:
    """Return a lock for JSON."""
    return {
        **lock_fields(item),
        "holders": [
            {
                **holder_fields(holder),
                "held_for": round(holder.held_for, 3),
                "expires_in": round(holder.expires_in, 3),
            }
            for holder in item.holders
        ],
    }


def print_json(data: Any) -> None:
    """Print data as one JSON document, in which characters that control a terminal are escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


# --- Tables ---


def table_of(items: Sequence[LockInfo], stores: bool = False) -> tuple[Row, list[Row]]:
    """Return columns and rows of a table of locks. It has a column of parts only if a part of a key is held.

    Args:
        items: The locks.
        stores: Whether it has a column of stores.
    """
    columns, rows = COLUMNS, [_row(item) for item in items]
    if any(item.part for item in items):
        columns = (columns[0], "PART", *columns[1:])
        rows = [(row[0], printable(item.part) or "-", *row[1:]) for item, row in zip(items, rows, strict=True)]
    if stores:
        columns = ("STORE", *columns)
        rows = [(printable(item.store), *row) for item, row in zip(items, rows, strict=True)]
    return columns, rows


def _row(item: LockInfo) -> Row:
    permits, waiting = f"{item.permits}/{item.limit}", str(item.waiting)
    if not item.holders:
        return printable(item.key), "-", "-", "-", permits, waiting, "-"
    first = item.holders[0]
    times = duration(first.held_for), duration(first.expires_in)
    held_by = holder_text(first) + more_holders(item)
    return printable(item.key), held_by, *times, permits, waiting, str(first.fencing_token)


def print_table(columns: Row, rows: Iterable[Row]) -> None:
    """Print a table. In a pipe it is plain text, and no cell is cut."""
    rows = list(rows)
    table = rich_table(columns, rows) if sys.stdout.isatty() else None
    if table is None:
        click.echo(plain_table(columns, rows))
        return
    from rich.console import Console

    Console().print(table)


def plain_table(columns: Row, rows: Iterable[Row]) -> str:
    """Return a table as lines of text, with two spaces between its columns."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def rich_table(columns: Row, rows: Iterable[Row]) -> Any | None:
    """Return a table of rich; ``None`` if rich is not installed."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: a key may contain brackets
    return table
