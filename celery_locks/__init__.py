"""Distributed leases for Celery tasks, keyed by their arguments."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_locks.errors import (
    LockConfigError,
    LockContended,
    LockError,
    LockKeyError,
    LockLost,
    LockNotOwned,
    LockQueueFull,
    LockTimeout,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from celery_locks.backoff import Backoff
    from celery_locks.lease import Lease
    from celery_locks.lock import Lock
    from celery_locks.lock_info import LockInfo, Page, Stats
    from celery_locks.lockable import Lockable
    from celery_locks.locks import Locks
    from celery_locks.multi import MultiLease, MultiLock
    from celery_locks.outcomes import Outcome, audit
    from celery_locks.owners import Owner
    from celery_locks.read_write import ReadWriteLock
    from celery_locks.semaphore import Semaphore
    from celery_locks.tasks import (
        Contention,
        ContentionPolicy,
        LockedTask,
        Skipped,
        current_lease,
        single_instance,
    )
    from celery_locks.ticket import LockTicket

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "Contention",
    "ContentionPolicy",
    "Lease",
    "Lock",
    "LockConfigError",
    "LockContended",
    "LockError",
    "LockInfo",
    "LockKeyError",
    "LockLost",
    "LockNotOwned",
    "LockQueueFull",
    "LockTicket",
    "LockTimeout",
    "Lockable",
    "LockedTask",
    "Locks",
    "MultiLease",
    "MultiLock",
    "Outcome",
    "Owner",
    "Page",
    "ReadWriteLock",
    "Semaphore",
    "Skipped",
    "Stats",
    "StoreUnavailable",
    "audit",
    "current_lease",
    "single_instance",
]

#: Imported when asked for, so that code without tasks doesn't load Celery, nor a plain lock what it doesn't use.
_LATER = {
    "Backoff": "backoff",
    "Lease": "lease",
    "Lock": "lock",
    "Locks": "locks",
    "Semaphore": "semaphore",
    **dict.fromkeys(
        ("Contention", "ContentionPolicy", "LockedTask", "Skipped", "current_lease", "single_instance"), "tasks"
    ),
    **dict.fromkeys(("Outcome", "audit"), "outcomes"),
    **dict.fromkeys(("LockInfo", "Page", "Stats"), "lock_info"),
    "LockTicket": "ticket",
    "Lockable": "lockable",
    **dict.fromkeys(("MultiLease", "MultiLock"), "multi"),
    "Owner": "owners",
    "ReadWriteLock": "read_write",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"celery_locks.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
