"""Reads of a store: pages of keys, a single key, and figures over all keys."""

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
        part: Empty for the key itself. A part is locked separately: ``"call"`` is held from the call until the run
            starts (``until_and_while_executing``), ``"run:…"`` by a run, against a second copy of its message
            (``until_executing``, ``until_expired``).
        holders: The holders, earliest acquisition first. At most 20 are named on a page, 100 by `Locks.info`.
        permits: How many permits are held, by all holders.
        limit: The limit of the newest holder. Each acquisition has its own limit.
        waiting: How many stand in line: waiters and parked tasks.
        line: The first 100 in line, in order. Only `Locks.info` names them.
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
    """A page of the keys that are held or waited for, in order.

    Attributes:
        items: The keys. A page may have fewer keys than requested, even none, and not be the last.
        next: The value of ``after`` for the next page: the last key of this page, with its part. ``None`` on the last
            page.
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
        oldest: The key that is held for longest without a break, ``None`` if no key is held.
        oldest_held_for: For how many seconds that key is held.
        complete: Whether all keys were counted. If not, the store stopped counting, and there are more.
        oldest_part: The part of the oldest key that is held; see `LockInfo.part`.
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
    """Return a page of keys; see `Locks.list`."""
    for text in filter(None, (prefix, after)):
        check_key(text)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ON_A_PAGE:
        raise LockConfigError(f"count must be a whole number from 1 to {MOST_ON_A_PAGE}, not {count!r}")
    # The full name of a key ends with a brace. A prefix of keys has none.
    start = space.name(prefix).removesuffix("}") if prefix else f"{space.prefix}:{{"
    states, last = space.store.page(Names(space.prefix, start, name_after(space.prefix, after) if after else "", count))
    items = (info_of(space, state) for state in states)
    # The brace that ends a full name may match a brace at the end of the prefix.
    return Page(
        tuple(item for item in items if item.key.startswith(prefix)),
        None if last is None else cursor_of(*key_and_part(space.prefix, last)),
    )


def parts_of(space: Space, key: str) -> list[LockInfo]:
    """Return the parts of a key that are held separately; none if the store keeps no list."""
    if not space.store.lists:
        return []
    states, _ = space.store.page(Names(space.prefix, f"{space.name(key)}:", "", MOST_ON_A_PAGE))
    return [item for state in states if (item := info_of(space, state)).key == key]


def with_all_holders(space: Space, item: LockInfo) -> LockInfo:
    """Return a lock of a page with up to 100 holders: read again if the page does not name all."""
    return item if item.names_all else info_of(space, space.store.info(space.name(item.key, item.part)))


def owned_by(space: Space, owner: str) -> Iterator[tuple[LockInfo, Holder]]:
    """Yield the leases of an owner, and of all owners within it."""
    page: Page | None = None
    while page is None or page.next is not None:
        page = page_of(space, "", None if page is None else page.next, MOST_ON_A_PAGE)
        for item in page.items:
            whole = with_all_holders(space, item)
            yield from ((whole, holder) for holder in whole.holders if belongs_to(holder.owner, owner))


def info_of(space: Space, state: State) -> LockInfo:
    """Return the state of a lock in a store, by its key."""
    limit = state.holders[-1].limit if state.holders else 1
    key, part = key_and_part(space.prefix, state.name)
    return LockInfo(key, state.holders, state.permits, limit, state.waiting, state.line, part, space.store_name)


def stats_of(space: Space, near: float) -> Stats:
    """Return the figures over all keys; see `Locks.stats`."""
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
