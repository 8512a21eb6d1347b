"""``list``: the keys that are held or waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import click

from celery_locks import LockInfo, Locks, Stats
from celery_locks.cli.completion import quoted
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import lock_as_data, print_json, print_table, table_of
from celery_locks.cli.parameters import Seconds, escaped_option, listing_stores_of, read_escapes, store_option
from celery_locks.keys.names import cursor_of
from celery_locks.lock_info import MOST_ON_A_PAGE
from celery_locks.stores.types import Holder
from celery_locks.views import at_least, read_all_holders, read_page, read_stats

#: How many pages of the store are read, at most, for one page of filtered locks.
MOST_PAGES = 10


@dataclass(frozen=True)
class LockFilter:
    """A choice of locks.

    Attributes:
        prefix: The key begins with this text.
        task: A holder is a task of this name.
        owner: A holder's name contains this text.
        longer: A holder has held the key for more seconds than this.
        waiting: Whether the key must have waiters.
    """

    prefix: str = ""
    task: str | None = None
    owner: str | None = None
    longer: float | None = None
    waiting: bool = False

    @property
    def has_holder_filters(self) -> bool:
        """Whether the choice depends on the holders."""
        return (self.task, self.owner, self.longer) != (None, None, None)

    @property
    def has_filters(self) -> bool:
        """Whether the choice depends on more than the prefix. The store itself selects by the prefix."""
        return self.waiting or self.has_holder_filters

    def includes(self, item: LockInfo) -> bool:
        """Return whether the lock is chosen."""
        if self.waiting and not item.waiting:
            return False
        return not self.has_holder_filters or any(map(self._includes_holder, item.holders))

    def _includes_holder(self, holder: Holder) -> bool:
        return (
            (self.task is None or holder.task_name == self.task)
            and (self.owner is None or self.owner in holder.owner)
            and (self.longer is None or holder.held_for > self.longer)
        )


def find(
    stores: Mapping[str, Locks], chosen: LockFilter, after: str | None, count: int
) -> tuple[list[LockInfo], str | None]:
    """Return some of the chosen locks, and the cursor of the next page; ``None`` after the last page.

    Each store is asked for a bounded number of pages. So a page may have fewer locks than ``count``, or none, and
    still not be the last. With several stores a page may have a few more locks; see `read_page`.
    """
    found: list[LockInfo] = []
    size = MOST_ON_A_PAGE if chosen.has_filters else min(count, MOST_ON_A_PAGE)
    for _ in range(MOST_PAGES):
        page = read_page(stores, chosen.prefix, after, size)
        for item, following in zip_longest(page.items, page.items[1:]):
            if chosen.has_holder_filters:  # a page names only a few holders of each key
                item = read_all_holders(stores[item.store], item)
            if chosen.includes(item):
                found.append(item)
            if len(found) >= count and (following is None or _cursor(following) != _cursor(item)):
                return found, page.next if following is None else _cursor(item)
        after = page.next
        if after is None:
            break
    return found, after


def _cursor(item: LockInfo) -> str:
    return cursor_of(item.key, item.part)


@click.command("list", short_help="List the keys that are held or waited for.")
@click.option("--prefix", default="", callback=read_escapes, help="Only keys that begin with this text.")
@click.option("--task", help="Only keys held by tasks of this name.")
@click.option(
    "--owner", metavar="TEXT", help="Only keys whose holder has this text in its name, such as the name of a worker."
)
@click.option("--longer", type=Seconds(0), metavar="DURATION", help="Only keys that are held for longer than this.")
@click.option("--waiting", is_flag=True, help="Only keys that have waiters.")
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="How many keys at most.")
@click.option(
    "--after", metavar="KEY", callback=read_escapes, help="Start after this key, which the previous page names."
)
@escaped_option
@store_option("all stores")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    store: str | None,
    prefix: str,
    task: str | None,
    owner: str | None,
    longer: float | None,
    waiting: bool,
    count: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List the keys that are held or waited for.

    \b
    Examples:
      celery -A proj locks list --prefix user: --waiting
      celery -A proj locks list --task shop.sync --longer 600 --json
    """
    stores, chosen = listing_stores_of(ctx, store), LockFilter(prefix, task, owner, longer, waiting)
    found, following = find(stores, chosen, after, count)
    if as_json:
        print_json({"locks": [lock_as_data(item) for item in found], "next": following})
        return
    if found:
        print_table(*table_of(found, stores=len(stores) > 1))
    else:
        click.echo(_why_empty(stores, searched_all=following is None))
    if following is not None:
        escaped = "" if printable(following) == following else "--escaped "
        click.echo(f"There are more: {escaped}--after {quoted(printable(following))}", err=True)


def _why_empty(stores: Mapping[str, Locks], searched_all: bool) -> str:
    if not searched_all:
        return "No key matches among those searched so far."
    stats = Stats.total(read_stats(stores).values())
    if not stats.locks:
        return "Nothing is held or waited for."
    keys = "1 key is" if stats.locks == 1 else f"{stats.locks} keys are"
    return f"No key matches; {at_least(stats.complete)}{keys} held or waited for."
