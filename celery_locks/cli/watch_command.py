"""``watch``: a table of the keys that refreshes itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from celery_locks import Locks, Stats, StoreUnavailable
from celery_locks._durations import duration
from celery_locks._logging import one_line
from celery_locks.cli.escapes import printable
from celery_locks.cli.list_command import LockFilter, find
from celery_locks.cli.output import COLUMNS, key_text, plain_table, rich_table, table_of
from celery_locks.cli.parameters import Seconds, escaped_option, listing_stores_of, read_escapes, store_option
from celery_locks.views import at_least, read_stats

#: Columns and rows.
Table = tuple[Any, list[Any]]


@click.command("watch", short_help="Show a live table of the keys.")
@click.option("--prefix", default="", callback=read_escapes, help="Only keys that begin with this text.")
@escaped_option
@click.option("--count", type=click.IntRange(1, 200), default=20, show_default=True, help="How many keys at most.")
@click.option(
    "--interval", type=Seconds(0.1), default=1.0, show_default=True, metavar="DURATION", help="Time between two reads."
)
@click.option("--times", type=click.IntRange(1), help="Stop after this many reads.")
@store_option("all stores")
@click.pass_context
def command(ctx: click.Context, prefix: str, count: int, interval: float, times: int | None, store: str | None) -> None:
    """Show a live table of the keys that are held or waited for, until Ctrl-C.

    In a pipe, or without rich, it prints one table after the other.

    \b
    Example:
      celery -A proj locks watch --prefix user: --interval 2
    """
    stores = listing_stores_of(ctx, store)
    is_live = sys.stdout.isatty() and rich_table(COLUMNS, []) is not None
    with suppress(KeyboardInterrupt):
        (_show_live if is_live else _print_each)(lambda: _read(stores, prefix, count), interval, times)


def _read(stores: Mapping[str, Locks], prefix: str, count: int) -> tuple[str, Table]:
    """Return the title and the table. If a store can't be reached, the title is the error."""
    try:
        stats = Stats.total(read_stats(stores).values())
        found, following = find(stores, LockFilter(prefix), None, count)
    except StoreUnavailable as error:
        return one_line(str(error)), table_of([])
    title = f"{at_least(stats.complete)}{stats.locks} keys, {stats.holders} leases, {stats.waiting} waiting"
    if stats.oldest is not None:
        title += f"; longest {key_text(stats.oldest, stats.oldest_part)}, {duration(stats.oldest_held_for)}"
    if prefix and not found and following is None:
        title += f"; none begins with {printable(prefix)}"
    return title + ("; there are more" if following is not None else ""), table_of(found, stores=len(stores) > 1)


def _show_live(read: Callable[[], tuple[str, Table]], interval: float, times: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:

        def show(title: str, table: Table) -> None:
            live.update(Group(Text(f"{time.strftime('%X')}  {title}"), rich_table(*table) or ""), refresh=True)

        _repeat(lambda: show(*read()), interval, times)


def _print_each(read: Callable[[], tuple[str, Table]], interval: float, times: int | None) -> None:
    def show(title: str, table: Table) -> None:
        click.echo(f"{time.strftime('%X')}  {title}")
        click.echo(plain_table(*table) + "\n")

    _repeat(lambda: show(*read()), interval, times)


def _repeat(action: Callable[[], None], interval: float, times: int | None) -> None:
    action()
    done = 1
    while times is None or done < times:
        time.sleep(interval)
        action()
        done += 1
