"""The holders of keys, read with the public API of locks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from celery_locks import Locks, StoreUnavailable


@dataclass(frozen=True)
class Holding:
    """A key and its holder.

    Attributes:
        task: The holder's task, without its module.
        worker: The holder's worker.
        held_for: Seconds since the lease was acquired.
        left: Seconds until the lease ends, if it is not renewed.
    """

    key: str
    task: str
    worker: str
    fencing_token: int
    held_for: float
    left: float


def look(locks: Locks, keys: Iterable[str]) -> list[Holding]:
    """Return the leases that are held now; none if the store does not answer."""
    found = []
    try:
        for key in keys:
            for holder in locks.lock(key).holders():
                task, worker = _task_and_worker(holder.owner)
                found.append(
                    Holding(key, task, worker, holder.fencing_token, holder.held_for, max(0.0, holder.expires_in))
                )
    except StoreUnavailable:
        return []
    return found


def _task_and_worker(owner: str) -> tuple[str, str]:
    """Return task and worker of a holder's name such as ``shop.tasks.sync[its id] on worker1@host``."""
    task, _, rest = owner.partition("[")
    return task.rpartition(".")[2], rest.partition("] on ")[2].partition("@")[0]
