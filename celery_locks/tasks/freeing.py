"""Freeing a key by hand."""

from __future__ import annotations

from typing import Any

from celery_locks.key_text import check_key
from celery_locks.locks import Locks
from celery_locks.names import check_part
from celery_locks.stores.base import Holder
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.sending import send_on


def free(locks: Locks, app: Any, key: str, holder: Holder, part: str = "") -> bool:
    """Ends this lease of a key, and no other: not that of somebody who acquired it since it was looked at.

    Its holder learns of it at its next renewal. A parked task's ticket outlives it as it would the death of its run: a
    copy of its message that comes later is no duplicate of a task that is done.

    Args:
        locks: The locks.
        app: The app that sends on parked tasks whose turn it is then.
        key: The key.
        holder: Whose lease.
        part: Which part of the key; see `LockInfo.part`.

    Returns:
        Whether it was held until now.

    Raises:
        LockKeyError: The key is empty, or there is no such part.
        StoreUnavailable: The store can't be reached; it may have been freed all the same.
    """
    name = locks.name(check_key(key), check_part(part))
    parking = tickets_of(locks.store)
    if parking is None:
        return locks.store.release(name, holder.token)
    freed, calls = parking.died(name, holder.token)
    send_on(app, parking, calls)
    return freed


def free_one(locks: Locks, app: Any, key: str, fencing_token: int, part: str = "") -> Holder | None:
    """Like `free`, where the lease is known by its fencing token: a page may show that, and never an owner token.

    Args:
        locks: The locks.
        app: The app that sends on parked tasks whose turn it is then.
        key: The key.
        fencing_token: Which of its leases.
        part: Which part of the key; see `LockInfo.part`.

    Returns:
        Whose it was; ``None`` when it was held no more.

    Raises:
        LockKeyError: The key is empty, or there is no such part.
        StoreUnavailable: The store can't be reached; it may have been freed all the same.
    """
    name = locks.name(check_key(key), check_part(part))
    holder = next((each for each in locks.store.holders(name) if each.fencing_token == fencing_token), None)
    if holder is None:
        return None
    return holder if free(locks, app, key, holder, part) else None
