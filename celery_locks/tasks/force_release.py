"""The release of one lease of a key by force, by an operator."""

from __future__ import annotations

from celery_locks.keys.names import check_part
from celery_locks.keys.text import check_key
from celery_locks.locks import Locks
from celery_locks.stores.types import Holder


def force_release_lease(locks: Locks, key: str, holder: Holder, part: str = "") -> bool:
    """Release the lease of this holder by force. A holder that acquired the key later keeps its lease.

    The holder loses the lease with the reason ``force_released``. The end of its run settles the ticket of a parked
    task. The store wakes the sweeper of a worker for the next task in line, so no app is needed here.

    Args:
        locks: The locks.
        key: The key.
        holder: The holder of the lease.
        part: The part of the key; see `LockInfo.part`.

    Returns:
        Whether it was held until now.

    Raises:
        LockKeyError: The key is empty, or has no part of this name.
        StoreUnavailable: The store can't be reached. The lease may have been released nevertheless.
    """
    return bool(locks.store.force_release(locks._space.name(check_key(key), check_part(part)), holder.token))


def force_release_by_fencing_token(locks: Locks, key: str, fencing_token: int, part: str = "") -> Holder | None:
    """Release the lease with this fencing token by force. A page may show fencing tokens, but no owner tokens.

    Args:
        locks: The locks.
        key: The key.
        fencing_token: The fencing token of the lease.
        part: The part of the key; see `LockInfo.part`.

    Returns:
        The holder; ``None`` if the lease had ended.

    Raises:
        LockKeyError: The key is empty, or has no part of this name.
        StoreUnavailable: The store can't be reached. The lease may have been released nevertheless.
    """
    name = locks._space.name(check_key(key), check_part(part))
    holder = next((each for each in locks.store.holders(name) if each.fencing_token == fencing_token), None)
    if holder is None:
        return None
    return holder if force_release_lease(locks, key, holder, part) else None
