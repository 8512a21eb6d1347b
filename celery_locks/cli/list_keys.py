"""``list`` and ``show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import click

from celery_locks import Locks
from celery_locks._durations import duration
from celery_locks._logging import one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.completion import as_typed, escaped_option, key_argument, quoted
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import (
    Seconds,
    held_by,
    in_store,
    lists_of,
    lock_as_data,
    locks_of,
    named,
    part_option,
    print_json,
    print_table,
    store_option,
    stores_of,
    table_of,
)
from celery_locks.errors import StoreUnavailable
from celery_locks.keys.names import cursor_of
from celery_locks.lock_info import MOST_ON_A_PAGE, LockInfo, Stats
from celery_locks.stores.types import Holder
from celery_locks.views import read_all_holders, read_key, read_page, read_stats

#: How many pages of the store one page of filtered locks may cost.
MOST_PAGES = 10


@dataclass(frozen=True)
class Wanted:
    """Which locks are shown.

    Attributes:
        prefix: Keys that begin so.
        task: Held by a task of this name.
        owner: Held by somebody whose name has this in it.
        longer: Held for longer than so many seconds.
        waiting: Somebody waits for it.
    """

    prefix: str = ""
    task: str | None = None
    owner: str | None = None
    longer: float | None = None
    waiting: bool = False

    @property
    def by_holder(self) -> bool:
        """Whether it matters who holds it."""
        return (self.task, self.owner, self.longer) != (None, None, None)

    @property
    def filters(self) -> bool:
        """Whether more is asked for than a prefix, which the store looks after."""
        return self.waiting or self.by_holder

    def has(self, item: LockInfo) -> bool:
        """Whether the lock is one of them."""
        if self.waiting and not item.waiting:
            return False
        return not self.by_holder or any(map(self._has_holder, item.holders))

    def _has_holder(self, holder: Holder) -> bool:
        return (
            (self.task is None or holder.task_name == self.task)
            and (self.owner is None or self.owner in holder.owner)
            and (self.longer is None or holder.held_for > self.longer)
        )


def find(
    stores: Mapping[str, Locks], wanted: Wanted, after: str | None, count: int
) -> tuple[list[LockInfo], str | None]:
    """Return some of the wanted locks, and after which key to go on, ``None`` when that is all.

    Each store is asked for a bounded number of pages: there may be fewer than ``count``, even none, and yet more. With
    several stores there may be a few more, see `read_page`.
    """
    found: list[LockInfo] = []
    size = MOST_ON_A_PAGE if wanted.filters else min(count, MOST_ON_A_PAGE)
    for _ in range(MOST_PAGES):
        page = read_page(stores, wanted.prefix, after, size)
        for item, following in zip_longest(page.items, page.items[1:]):
            if wanted.by_holder:  # a page names a few holders of each key
                item = read_all_holders(stores[item.store], item)
            if wanted.has(item):
                found.append(item)
            if len(found) >= count and (following is None or _cursor(following) != _cursor(item)):
                return found, page.next if following is None else _cursor(item)
        after = page.next
        if after is None:
            break
    return found, after


def _cursor(item: LockInfo) -> str:
    return cursor_of(item.key, item.part)


@click.command("list", short_help="The keys that are held or waited for.")
@click.option("--prefix", default="", callback=as_typed, help="Only keys that begin so.")
@click.option("--task", help="Only keys held by tasks of this name.")
@click.option("--owner", metavar="TEXT", help="Only keys held by somebody whose name has this in it, such as a worker.")
@click.option("--longer", type=Seconds(0), metavar="DURATION", help="Only keys held for longer than that.")
@click.option("--waiting", is_flag=True, help="Only keys for which somebody waits.")
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option(
    "--after", metavar="KEY", callback=as_typed, help="Go on after this key: the end of the page before says which."
)
@escaped_option
@store_option("all of them")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(
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
    stores, wanted = lists_of(ctx, store), Wanted(prefix, task, owner, longer, waiting)
    found, following = find(stores, wanted, after, count)
    if as_json:
        print_json({"locks": [lock_as_data(item) for item in found], "next": following})
        return
    if found:
        print_table(*table_of(found, stores=len(stores) > 1))
    else:
        click.echo(_nothing(stores, searched_all=following is None))
    if following is not None:
        escaped = "" if printable(following) == following else "--escaped "
        click.echo(f"There are more: {escaped}--after {quoted(printable(following))}", err=True)


def _nothing(stores: Mapping[str, Locks], searched_all: bool) -> str:
    """Return what a list without a key means."""
    if not searched_all:
        return "No key matches among those searched so far."
    stats = Stats.total(read_stats(stores).values())
    if not stats.locks:
        return "Nothing is held or waited for."
    keys = "1 key is" if stats.locks == 1 else f"{stats.locks} keys are"
    return f"No key matches; {'' if stats.complete else 'at least '}{keys} held or waited for."


@click.command("show", short_help="Who holds one key.")
@key_argument
@part_option
@store_option("the default store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show_command(ctx: click.Context, key: str, part: str, store: str | None, as_json: bool) -> None:
    """Who holds KEY, since when and until when, and how many wait for it.

    Where no store is named, it also prints in which other stores KEY is held.

    \b
    Example:
      celery -A proj locks show user:7
    """
    locks = locks_of(ctx, store)
    info, parts = read_key(locks, key, part)
    others = held_elsewhere(ctx, key, part) if store is None else []
    if as_json:
        print_json({**lock_as_data(info), "parts": [each.part for each in parts], "other_stores": others})
        return
    held = f"{info.permits} of {info.limit} permits are held" if info.holders else "held by nobody"
    click.echo(f"{named(key, part)}{in_store(locks)}: {held}, {info.waiting} waiting")
    if info.holders:
        print_table(("HELD BY", "FOR", "LEFT", "PERMITS", "FENCE"), map(_row, info.holders))
    for each in parts:
        click.echo(f"Its part {each.part} is held, too: show it by --part {each.part}")
    for other in others:
        click.echo(f"It is held in the store {printable(other)}, too: show it by --store {quoted(printable(other))}")


def held_elsewhere(ctx: click.Context, key: str, part: str) -> list[str]:
    """Return the names of the other stores in which a key is held. One that is away is reported."""
    found = []
    for name, locks in stores_of(ctx, None).items():
        if name == DEFAULT_STORE:
            continue
        try:
            if locks.info(key, part).holders:
                found.append(name)
        except StoreUnavailable as error:
            click.echo(f"The store {printable(name)} can't be asked: {one_line(str(error))}", err=True)
    return found


def _row(holder: Holder) -> tuple[str, ...]:
    times = duration(holder.held_for), duration(holder.expires_in)
    return held_by(holder), *times, str(holder.permits), str(holder.fencing_token)
