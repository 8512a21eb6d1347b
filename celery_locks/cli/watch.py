"""``watch``: a table that renews itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from celery_locks import Locks
from celery_locks._durations import duration
from celery_locks._logging import one_line
from celery_locks.cli.completion import as_typed, escaped_option
from celery_locks.cli.escapes import printable
from celery_locks.cli.list_keys import Wanted, find
from celery_locks.cli.output import COLUMNS, Seconds, lists_of, named, plain_table, rich_table, store_option, table_of
from celery_locks.errors import StoreUnavailable
from celery_locks.lock_info import Stats
from celery_locks.views import read_stats

#: Columns and rows.
Table = tuple[Any, list[Any]]


@click.command("watch", short_help="A live table of what is held.")
@click.option("--prefix", default="", callback=as_typed, help="Only keys that begin so.")
@escaped_option
@click.option("--count", type=click.IntRange(1, 200), default=20, show_default=True, help="How many keys at most.")
@click.option("--interval", type=Seconds(0.1), default=1.0, show_default=True, metavar="DURATION", help="How often.")
@click.option("--times", type=click.IntRange(1), help="Stop after so many looks.")
@store_option("all of them")
@click.pass_context
def watch_command(
    ctx: click.Context, prefix: str, count: int, interval: float, times: int | None, store: str | None
) -> None:
    """A live table of what is held, until Ctrl-C. In a pipe, or without rich, one table after the other.

    \b
    Example:
      celery -A proj locks watch --prefix user: --interval 2
    """
    stores = lists_of(ctx, store)

    def look() -> tuple[str, Table]:
        return _look(stores, prefix, count)

    live = sys.stdout.isatty() and rich_table(COLUMNS, []) is not None
    with suppress(KeyboardInterrupt):  # the way to end it
        (_live if live else _one_after_the_other)(look, interval, times)


def _look(stores: Mapping[str, Locks], prefix: str, count: int) -> tuple[str, Table]:
    """The title and the rows; where the store is away, the title says so."""
    try:
        stats = Stats.total(read_stats(stores).values())
        found, following = find(stores, Wanted(prefix), None, count)
    except StoreUnavailable as error:
        return one_line(str(error)), table_of([])
    least = "" if stats.complete else "at least "
    title = f"{least}{stats.locks} keys, {stats.holders} leases, {stats.waiting} waiting"
    if stats.oldest is not None:
        title += f"; longest {named(stats.oldest, stats.oldest_part)}, {duration(stats.oldest_held_for)}"
    if prefix and not found and following is None:
        title += f"; none begins with {printable(prefix)}"
    return title + ("; there are more" if following is not None else ""), table_of(found, stores=len(stores) > 1)


def _live(look: Callable[[], tuple[str, Table]], interval: float, times: int | None) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:

        def show(title: str, table: Table) -> None:
            live.update(Group(Text(f"{time.strftime('%X')}  {title}"), rich_table(*table) or ""), refresh=True)

        _repeat(lambda: show(*look()), interval, times)


def _one_after_the_other(look: Callable[[], tuple[str, Table]], interval: float, times: int | None) -> None:
    def show(title: str, table: Table) -> None:
        click.echo(f"{time.strftime('%X')}  {title}")
        click.echo(plain_table(*table) + "\n")

    _repeat(lambda: show(*look()), interval, times)


def _repeat(action: Callable[[], None], interval: float, times: int | None) -> None:
    action()
    done = 1
    while times is None or done < times:
        time.sleep(interval)
        action()
        done += 1
