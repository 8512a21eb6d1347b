"""Releasing one lease of a key by force, by hand."""

from __future__ import annotations

from celery_locks.keys.names import check_part
from celery_locks.keys.text import check_key
from celery_locks.locks import Locks
from celery_locks.stores.types import Holder


def free(locks: Locks, key: str, holder: Holder, part: str = "") -> bool:
    """Release this lease of a key by force, and no other: not that of a holder that acquired the key later.

    The holder loses it with the reason ``force_released``. A parked task's ticket stays as it is: the end of its run
    settles it. The store wakes the sweeper of a worker for the next task in line, so no app is needed here.

    Args:
        locks: The locks.
        key: The key.
        holder: The holder of the lease.
        part: Which part of the key; see `LockInfo.part`.

    Returns:
        Whether it was held until now.

    Raises:
        LockKeyError: The key is empty, or there is no such part.
        StoreUnavailable: The store can't be reached; it may have been released all the same.
    """
    return bool(locks.store.force_release(locks._space.name(check_key(key), check_part(part)), holder.token))


def free_one(locks: Locks, key: str, fencing_token: int, part: str = "") -> Holder | None:
    """Like `free`, where the lease is known by its fencing token: a page may show that, and never an owner token.

    Args:
        locks: The locks.
        key: The key.
        fencing_token: Which of its leases.
        part: Which part of the key; see `LockInfo.part`.

    Returns:
        The holder; ``None`` when the lease had ended.

    Raises:
        LockKeyError: The key is empty, or there is no such part.
        StoreUnavailable: The store can't be reached; it may have been released all the same.
    """
    name = locks._space.name(check_key(key), check_part(part))
    holder = next((each for each in locks.store.holders(name) if each.fencing_token == fencing_token), None)
    if holder is None:
        return None
    return holder if free(locks, key, holder, part) else None
