"""What commands print: tables, in colours where rich and a terminal are there, and else in plain text; JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import click

from celery_locks import Locks
from celery_locks._durations import duration, seconds_of
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.completion import complete_store
from celery_locks.cli.escapes import printable
from celery_locks.errors import LockConfigError
from celery_locks.lock_info import LockInfo
from celery_locks.locks import store_names
from celery_locks.stores.types import Holder
from celery_locks.views import holder_fields, lock_fields

F = TypeVar("F", bound=Callable[..., Any])
Row = Sequence[str]
#: Of the tables of locks.
COLUMNS: Row = ("KEY", "HELD BY", "FOR", "LEFT", "PERMITS", "WAITING", "FENCE")


def locks_of(ctx: click.Context, store: str | None = None) -> Locks:
    """Return the locks of the app of ``celery -A`` in one store, by default in the default store.

    Raises:
        LockConfigError: The settings name no such store.
    """
    return Locks.from_app(ctx.obj.app, store or DEFAULT_STORE)


def stores_of(ctx: click.Context, store: str | None) -> dict[str, Locks]:
    """Return the locks of the app in one store, or in each of its stores, by the store's name.

    Raises:
        LockConfigError: The settings name no such store.
    """
    names = store_names(ctx.obj.app.conf) if store is None else (store,)
    return {name: locks_of(ctx, name) for name in names}


def lists_of(ctx: click.Context, store: str | None) -> dict[str, Locks]:
    """Return those of `stores_of` that keep a list, and report the others.

    Raises:
        LockConfigError: The settings name no such store.
    """
    stores = stores_of(ctx, store)
    lists = {name: locks for name, locks in stores.items() if locks.store.lists}
    if not lists:
        return stores  # which a command refuses
    for name in stores.keys() - lists.keys():
        click.echo(f"The store {name} is left out: it keeps no list.", err=True)
    return lists


def store_option(default: str) -> Callable[[F], F]:
    """Add the option ``--store``.

    Args:
        default: Which stores the command uses without it, for the help.
    """
    text = f"The name of a store in the setting locks_stores; by default {default}."
    return click.option("--store", metavar="NAME", shell_complete=complete_store, help=text)


def in_store(locks: Locks) -> str:
    """Return the store of locks for the end of a sentence; nothing for the default one."""
    return "" if locks.store_name == DEFAULT_STORE else f" in the store {printable(locks.store_name)}"


class Seconds(click.FloatRange):
    """A duration, from a shortest one on: a number of seconds, or a text such as ``5m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds.

        Raises:
            click.BadParameter: It is no duration, or too short.
        """
        try:
            seconds = float(value)
        except ValueError:  # a text with units
            seconds = math.nan
            with suppress(LockConfigError):
                seconds = seconds_of(self.name, value)
        if not math.isfinite(seconds):
            self.fail(
                f"{value} is not a duration: give a number of seconds, or a text such as 30s, 5m or 1h30m", param, ctx
            )
        return float(super().convert(seconds, param, ctx))


#: For commands on one key.
part_option = click.option("--part", default="", help="A part of the key, as `list` shows it, such as call.")


def table_of(items: Sequence[LockInfo], stores: bool = False) -> tuple[Row, list[Row]]:
    """Return columns and rows of a table of locks. It has a column of parts only where one is held.

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
    least = "" if item.names_all else "at least "
    more = f" and {least}{len(item.holders) - 1} more" if len(item.holders) > 1 else ""
    times = duration(first.held_for), duration(first.expires_in)
    return printable(item.key), held_by(first) + more, *times, permits, waiting, str(first.fencing_token)


def named(key: str, part: str) -> str:
    """Return a key with its part, for a sentence."""
    return printable(key) + (f" (part {printable(part)})" if part else "")


def held_by(holder: Holder) -> str:
    """Return who holds a lease, and that a dispatched task has not started."""
    return printable(holder.owner) + (", not started" if holder.state == "dispatched" else "")


def lock_as_data(item: LockInfo) -> dict[str, Any]:
    """Return a lock for JSON."""
    return {**lock_fields(item), "holders": [holder_as_data(holder) for holder in item.holders]}


def holder_as_data(holder: Holder) -> dict[str, Any]:
    """Return a holder for JSON."""
    return {
        **holder_fields(holder),
        "held_for": round(holder.held_for, 3),
        "expires_in": round(holder.expires_in, 3),
    }


def print_json(data: Any) -> None:
    """Prints data as one JSON document, without what a terminal takes for commands."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(columns: Row, rows: Iterable[Row]) -> None:
    """Prints a table. Where nobody looks at it, in a pipe, it is plain text that is never cut."""
    made = rich_table(columns, rows := list(rows)) if sys.stdout.isatty() else None
    if made is None:
        click.echo(plain_table(columns, rows))
        return
    from rich.console import Console

    Console().print(made)


def plain_table(columns: Row, rows: Iterable[Row]) -> str:
    """A table as lines of text, its columns two blanks apart."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def rich_table(columns: Row, rows: Iterable[Row]) -> Any | None:
    """A table of rich's, ``None`` where rich is not installed."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: a key may have brackets
    return table
