"""What interfaces show of locks: reads, figures and texts, and the release of a lease by hand.

The command line, Flower, Django's admin and the metrics use this module, and so can programs that show locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from celery_locks import owners
from celery_locks.keys.names import check_part, cursor_of, name_after
from celery_locks.keys.text import check_key
from celery_locks.lock_info import LockInfo, Page, Stats, owned_by, parts_of, with_all_holders
from celery_locks.locks import Locks
from celery_locks.stores.listing import merge_pages
from celery_locks.stores.types import Holder

__all__ = [
    "NEAR_SECONDS",
    "KeyView",
    "at_least",
    "holder_fields",
    "in_range",
    "lock_fields",
    "more_holders",
    "owner_fields",
    "read_all_holders",
    "read_key",
    "read_owned",
    "read_page",
    "read_stats",
    "release_by_fencing_token",
    "release_lease",
    "stats_fields",
    "store_fields",
    "with_prefix",
]

#: A lease is near its expiry when it has fewer seconds left.
NEAR_SECONDS = 10.0


def with_prefix(locks: Locks, prefix: str) -> Locks:
    """Return the locks of another prefix in the same store.

    Raises:
        LockConfigError: The prefix is wrong.
    """
    if prefix == locks.prefix:
        return locks
    others = Locks(locks.store, prefix=prefix)
    others._space.url, others._space.store_name = locks.url, locks.store_name
    return others


# --- Reads ---


class KeyView(NamedTuple):
    """A single key.

    Attributes:
        info: The key, or the requested part of it.
        parts: The parts that are locked apart from the key; empty where a part was requested.
    """

    info: LockInfo
    parts: list[LockInfo]


def read_key(locks: Locks, key: str, part: str = "") -> KeyView:
    """Read a key, or a part of it. This takes at most two reads of the store.

    Raises:
        LockKeyError: The key is empty, or there is no part of this name.
        StoreUnavailable: The store can't be reached.
    """
    info = locks.info(key, part)
    return KeyView(info, [] if part else parts_of(locks._space, info.key))


def read_all_holders(locks: Locks, item: LockInfo) -> LockInfo:
    """Return a key of a list with up to 100 holders. This takes one more read if the list names too few."""
    return with_all_holders(locks._space, item)


def read_owned(locks: Locks, owner: str, feature: str) -> Iterator[tuple[LockInfo, Holder]]:
    """Find the leases of an owner, and of the owners within it. This takes one read for every 1000 keys.

    Args:
        locks: The locks.
        owner: The owner's name.
        feature: The feature that needs a list of keys, for the error.

    Raises:
        LockConfigError: The store keeps no list.
        StoreUnavailable: The store can't be reached.
    """
    locks._space.require("lists", feature)
    return owned_by(locks._space, owner)


def read_page(stores: Mapping[str, Locks], prefix: str = "", after: str | None = None, count: int = 100) -> Page:
    """Read a page of the keys of several stores, in one order. This takes one read of each store; see `Locks.list`.

    If two stores hold the same key, it is on one page for both. So a page may have a few more keys than requested.

    Args:
        stores: The locks of each store of an app; at least one.
        prefix: Only keys that begin with it.
        after: Only keys after this one: `Page.next` of the previous page.
        count: The number of keys, up to 1000.
    """
    return merge_pages([locks.list(prefix, after, count) for locks in stores.values()], count)


def in_range(info: LockInfo, prefix: str, after: str | None, end: str | None) -> bool:
    """Return whether a key belongs on a page that was read with this prefix and `after`, and that ends at `end`."""
    position = _position(cursor_of(info.key, info.part))
    return (
        info.key.startswith(prefix)
        and (after is None or position > _position(after))
        and (end is None or position <= _position(end))
    )


def _position(cursor: str) -> str:
    """Return the text by which stores order keys. All keys of an app have one prefix, so any prefix will do."""
    return name_after("", cursor)


def read_stats(stores: Mapping[str, Locks], near: float = NEAR_SECONDS) -> dict[str, Stats]:
    """Read the figures of several stores. This takes one read of each store.

    Returns:
        The figures by the store's name.
    """
    return {name: locks.stats(near) for name, locks in stores.items()}


# --- Release by hand ---


def release_lease(locks: Locks, key: str, holder: Holder, part: str = "") -> bool:
    """Release one lease of a key by force, and no other: a holder that acquired the key later keeps its lease.

    The holder loses the lease with the reason ``force_released``. A parked task's ticket stays: the end of its run
    settles it. The store wakes the sweeper of a worker for the next task in line, so no app is needed here.

    Args:
        locks: The locks.
        key: The key.
        holder: The holder of the lease.
        part: The part of the key; see `LockInfo.part`.

    Returns:
        Whether the lease was held until now.

    Raises:
        LockKeyError: The key is empty, or there is no part of this name.
        StoreUnavailable: The store can't be reached. The lease may have been released all the same.
    """
    return bool(locks.store.force_release(locks._space.name(check_key(key), check_part(part)), holder.token))


def release_by_fencing_token(locks: Locks, key: str, fencing_token: int, part: str = "") -> Holder | None:
    """Release the lease that has this fencing token; see `release_lease`.

    Pages identify a lease by its fencing token, because they must never show an owner token.

    Args:
        locks: The locks.
        key: The key.
        fencing_token: The fencing token of the lease.
        part: The part of the key; see `LockInfo.part`.

    Returns:
        The holder; ``None`` if the lease had ended.

    Raises:
        LockKeyError: The key is empty, or there is no part of this name.
        StoreUnavailable: The store can't be reached. The lease may have been released all the same.
    """
    holders = locks.store.holders(locks._space.name(check_key(key), check_part(part)))
    holder = next((each for each in holders if each.fencing_token == fencing_token), None)
    return holder if holder is not None and release_lease(locks, key, holder, part) else None


# --- Texts ---


def at_least(complete: bool) -> str:
    """Return the words before a figure that may be incomplete; an empty text before a complete one."""
    return "" if complete else "at least "


def more_holders(info: LockInfo) -> str:
    """Return the number of holders after the first one, such as `` and at least 3 more``; empty if there is one."""
    if len(info.holders) < 2:
        return ""
    return f" and {at_least(info.names_all)}{len(info.holders) - 1} more"


# --- Fields, for JSON ---


def store_fields(locks: Locks) -> dict[str, Any]:
    """Return the name of the store, its address without the password, and what the names of the keys begin with."""
    return {"name": locks.store_name, "url": locks.url, "prefix": locks.prefix, "shared": locks.store.shared}


def lock_fields(info: LockInfo) -> dict[str, Any]:
    """Return a key with its figures."""
    return {
        "store": info.store,
        "key": info.key,
        "part": info.part,
        "permits": info.permits,
        "limit": info.limit,
        "waiting": info.waiting,
    }


def holder_fields(holder: Holder) -> dict[str, Any]:
    """Return a holder without its owner token, since anyone who has the token can release the lease."""
    return {
        **owner_fields(holder.owner),
        "worker": holder.worker,
        "state": holder.state,
        "permits": holder.permits,
        "fencing_token": holder.fencing_token,
    }


def stats_fields(stats: Stats) -> dict[str, Any]:
    """Return the figures over all keys of a store."""
    return {
        "locks": stats.locks,
        "holders": stats.holders,
        "near_expiry": stats.near_expiry,
        "waiting": stats.waiting,
        "oldest": stats.oldest,
        "oldest_held_for": stats.oldest_held_for,
        "complete": stats.complete,
        "oldest_part": stats.oldest_part,
    }


def owner_fields(owner: str) -> dict[str, Any]:
    """Return the fields of an owner's name: the task, its id, and its worker or queue."""
    task = owners.read(owner)
    if task is None:
        return {"owner": owner, "task": None, "task_id": None, "worker": None, "queue": None}
    return {"owner": owner, "task": task.name, "task_id": task.id, "worker": task.worker, "queue": task.queue}
