"""Who holds what, asked through the public API of locks as any program could."""

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
        held_for: Seconds since the lease was had.
        left: Seconds until the lease ends, if it is not renewed.
    """

    key: str
    task: str
    worker: str
    fencing_token: int
    held_for: float
    left: float


def look(locks: Locks, keys: Iterable[str]) -> list[Holding]:
    """The keys that are held now; none when the store does not answer."""
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
    """Of a holder's name, as tasks give it: ``shop.tasks.sync[its id] on worker1@host``."""
    task, _, rest = owner.partition("[")
    return task.rpartition(".")[2], rest.partition("] on ")[2].partition("@")[0]
