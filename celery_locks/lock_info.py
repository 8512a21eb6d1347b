"""Reads of a store: pages of keys, a single key, and figures over all keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from celery_locks._space import Space
from celery_locks.errors import LockConfigError
from celery_locks.keys.names import name_after
from celery_locks.keys.text import check_key
from celery_locks.owners import belongs_to
from celery_locks.stores.listing import LockInfo, NameRange, Page, Stats
from celery_locks.stores.types import Holder

__all__ = ["LockInfo", "Page", "Stats"]

#: The most keys of one page.
MOST_ON_A_PAGE = 1_000


def page_of(space: Space, prefix: str, after: str | None, count: int) -> Page:
    """Return a page of keys; see `Locks.list`."""
    for text in filter(None, (prefix, after)):
        check_key(text)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_ON_A_PAGE:
        raise LockConfigError(f"count must be a whole number from 1 to {MOST_ON_A_PAGE}, not {count!r}")
    # The full name of a key ends with a brace. A prefix of keys has none.
    start = space.name(prefix).removesuffix("}") if prefix else f"{space.prefix}:{{"
    page = space.store.page(NameRange(space.prefix, start, name_after(space.prefix, after) if after else "", count))
    # The brace that ends a full name may match a brace at the end of the prefix.
    items = (replace(item, store=space.store_name) for item in page.items if item.key.startswith(prefix))
    return Page(tuple(items), page.last)


def parts_of(space: Space, key: str) -> list[LockInfo]:
    """Return the parts of a key that are held separately; none if the store keeps no list."""
    if not space.store.lists:
        return []
    page = space.store.page(NameRange(space.prefix, f"{space.name(key)}:", "", MOST_ON_A_PAGE))
    return [replace(item, store=space.store_name) for item in page.items if item.key == key]


def with_all_holders(space: Space, item: LockInfo) -> LockInfo:
    """Return a lock of a list with up to 100 holders, where the list names too few."""
    return item if item.names_all else info_of(space, item.name)


def owned_by(space: Space, owner: str) -> Iterator[tuple[LockInfo, Holder]]:
    """Yield the leases of an owner, and of all owners within it."""
    page: Page | None = None
    while page is None or page.next is not None:
        page = page_of(space, "", None if page is None else page.next, MOST_ON_A_PAGE)
        for item in page.items:
            whole = with_all_holders(space, item)
            yield from ((whole, holder) for holder in whole.holders if belongs_to(holder.owner, owner))


def info_of(space: Space, name: str) -> LockInfo:
    """Return what the store knows of a lock, by its full name."""
    return replace(space.store.info(name), store=space.store_name)
