"""What the interfaces show of locks, whatever they show it with: the command line, Flower, Django's admin, programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from celery_locks import owners
from celery_locks.lock_info import LockInfo, Page, Stats, owned_by, parts_of, with_all_holders
from celery_locks.locks import Locks
from celery_locks.stores.listing import merge_pages
from celery_locks.stores.types import Holder

#: How soon a lease is about to end, in seconds.
NEAR_SECONDS = 10.0


# --- Reads ---


class KeyView(NamedTuple):
    """A key by itself.

    Attributes:
        info: The key, or the part of it that was asked for.
        parts: The parts that are held apart from the key; none where a part was asked for.
    """

    info: LockInfo
    parts: list[LockInfo]


def read_key(locks: Locks, key: str, part: str = "") -> KeyView:
    """Read a key, or a part of it: two reads at most.

    Raises:
        LockKeyError: It is empty, or there is no such part.
        StoreUnavailable: The store can't be reached.
    """
    info = locks.info(key, part)
    return KeyView(info, [] if part else parts_of(locks._space, info.key))


def read_all_holders(locks: Locks, item: LockInfo) -> LockInfo:
    """Return a key of a list with up to 100 holders: one more read, where the list names too few."""
    return with_all_holders(locks._space, item)


def read_owned(locks: Locks, owner: str, feature: str) -> Iterator[tuple[LockInfo, Holder]]:
    """Find what an owner holds, and those within it: a read of every 1000 keys.

    Args:
        locks: The locks.
        owner: The owner's name.
        feature: What needs it, for the error.

    Raises:
        LockConfigError: The store keeps no list.
        StoreUnavailable: The store can't be reached.
    """
    locks._space.require("lists", feature)
    return owned_by(locks._space, owner)


def read_page(stores: Mapping[str, Locks], prefix: str = "", after: str | None = None, count: int = 100) -> Page:
    """Read a page of the keys of several stores, in one order: one read of each store; see `Locks.list`.

    A key of one name in two stores is on one page in both, so a page may have a few more keys than asked for.

    Args:
        stores: The locks of each store of an app; at least one.
        prefix: Only keys that begin so.
        after: Only keys after this one: `Page.next` of the page before.
        count: How many, up to 1000.
    """
    return merge_pages([locks.list(prefix, after, count) for locks in stores.values()], count)


def read_stats(stores: Mapping[str, Locks], near: float = NEAR_SECONDS) -> dict[str, Stats]:
    """Read the figures of several stores: one read of each.

    Returns:
        The figures by the store's name.
    """
    return {name: locks.stats(near) for name, locks in stores.items()}


# --- Fields, for JSON ---


def store_fields(locks: Locks) -> dict[str, Any]:
    """Return where locks are: the name of the store, and its address without the password."""
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
    """Return who holds a lease. Never its token: with it anyone could release the lease."""
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
    """Return what an owner's name states: the task, its id, and the worker or queue where it is."""
    task = owners.read(owner)
    if task is None:
        return {"owner": owner, "task": None, "task_id": None, "worker": None, "queue": None}
    return {"owner": owner, "task": task.name, "task_id": task.id, "worker": task.worker, "queue": task.queue}
