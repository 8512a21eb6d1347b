"""What is held: pages of it, one key of it, and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from celery_locks._space import Space
from celery_locks._validation import DEFAULT_STORE
from celery_locks.errors import LockConfigError
from celery_locks.keys.names import cursor_of, key_and_part, name_after
from celery_locks.keys.text import check_key
from celery_locks.owners import belongs_to
from celery_locks.stores.listing import Names, State, Waiter
from celery_locks.stores.types import Holder

#: The most keys of one page.
MOST_ON_A_PAGE = 1_000


@dataclass(frozen=True)
class LockInfo:
    """A key that is held or waited for.

    Attributes:
        key: What is locked.
        part: Empty for the key itself. A part is locked apart from it: ``"call"`` is held from the call until the run
            starts (``until_and_while_executing``), ``"run:…"`` by a run, against a second copy of its message
            (``until_executing``, ``until_expired``).
        holders: Who holds it, earliest acquisition first. At most 20 are named on a page, 100 by `Locks.info`.
        permits: How many permits are held, by all holders.
        limit: How many there were for the holder who came last; each acquisition brings its own limit.
        waiting: How many stand in line: waiters and parked tasks.
        line: Who stands in line, in order: at most 100, named by `Locks.info` alone.
        store: The name of the store among those of an app.
    """

    key: str
    holders: tuple[Holder, ...]
    permits: int
    limit: int
    waiting: int
    line: tuple[Waiter, ...] = ()
    part: str = ""
    store: str = DEFAULT_STORE

    @property
    def names_all(self) -> bool:
        """Whether all holders are named."""
        return sum(holder.permits for holder in self.holders) >= self.permits


@dataclass(frozen=True)
class Page:
    """Some of the keys that are held, in order.

    Attributes:
        items: The keys. There may be fewer than asked for, even none, and yet more to come.
        next: What to give as ``after`` for the next page, ``None`` when this is the last. It is the last key of this
            page, with its part.
    """

    items: tuple[LockInfo, ...]
    next: str | None


@dataclass(frozen=True)
class Stats:
    """Figures over all keys.

    Attributes:
        locks: Keys that are held or waited for.
        holders: Leases: a semaphore may have several.
        near_expiry: Leases whose deadline is near and that were not renewed yet.
        waiting: How many stand in line, for all keys together.
        oldest: The key that is held for longest without a break, ``None`` when none is held.
        oldest_held_for: For how many seconds.
        complete: Whether that is all. Else the store stopped counting, and there are more.
        oldest_part: Which part of that key is held; see `LockInfo.part`.
    """

    locks: int
    holders: int
    near_expiry: int
    waiting: int
    oldest: str | None
    oldest_held_for: float
    complete: bool
    oldest_part: str = ""


def page_of(space: Space, prefix: str, after: str | None, count: int) -> Page:
    """See `Locks.list`."""
    for text in filter(None, (prefix, after)):
        check_key(text)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ON_A_PAGE:
        raise LockConfigError(f"count must be a whole number from 1 to {MOST_ON_A_PAGE}, not {count!r}")
    # The name of a key ends with a brace; that of what keys begin with does not.
    start = space.name(prefix).removesuffix("}") if prefix else f"{space.prefix}:{{"
    states, last = space.store.page(Names(space.prefix, start, name_after(space.prefix, after) if after else "", count))
    items = (info_of(space, state) for state in states)
    # The brace that ends a name may look like the last one of what was asked for.
    return Page(
        tuple(item for item in items if item.key.startswith(prefix)),
        None if last is None else cursor_of(*key_and_part(space.prefix, last)),
    )


def parts_of(space: Space, key: str) -> list[LockInfo]:
    """Return the parts of a key that are held apart from it; none where the store keeps no list."""
    if not space.store.lists:
        return []
    states, _ = space.store.page(Names(space.prefix, f"{space.name(key)}:", "", MOST_ON_A_PAGE))
    return [item for state in states if (item := info_of(space, state)).key == key]


def with_all_holders(space: Space, item: LockInfo) -> LockInfo:
    """Return a lock of a list with up to 100 holders, where the list names too few."""
    return item if item.names_all else info_of(space, space.store.info(space.name(item.key, item.part)))


def owned_by(space: Space, owner: str) -> Iterator[tuple[LockInfo, Holder]]:
    """Find what an owner holds, and those within it."""
    page: Page | None = None
    while page is None or page.next is not None:
        page = page_of(space, "", None if page is None else page.next, MOST_ON_A_PAGE)
        for item in page.items:
            whole = with_all_holders(space, item)
            yield from ((whole, holder) for holder in whole.holders if belongs_to(holder.owner, owner))


def info_of(space: Space, state: State) -> LockInfo:
    """What a store tells of a lock, by its key."""
    limit = state.holders[-1].limit if state.holders else 1
    key, part = key_and_part(space.prefix, state.name)
    return LockInfo(key, state.holders, state.permits, limit, state.waiting, state.line, part, space.store_name)


def stats_of(space: Space, near: float) -> Stats:
    """See `Locks.stats`."""
    figures = space.store.stats(space.prefix, near)
    oldest, part = (None, "") if figures.oldest is None else key_and_part(space.prefix, figures.oldest)
    return Stats(
        figures.locks,
        figures.holders,
        figures.near_expiry,
        figures.waiting,
        oldest,
        figures.oldest_held_for,
        figures.complete,
        part,
    )
