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
    from celery_locks.owners import Owner
    from celery_locks.semaphore import ReadWriteLock, Semaphore
    from celery_locks.signals import Outcome, audit
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

#: The module of each name. It is imported at the first use: code without tasks doesn't load Celery.
_MODULES = {
    "Backoff": "backoff",
    "Lease": "lease",
    "Lock": "lock",
    "Locks": "locks",
    **dict.fromkeys(
        ("Contention", "ContentionPolicy", "LockedTask", "Skipped", "current_lease", "single_instance"), "tasks"
    ),
    **dict.fromkeys(("Outcome", "audit"), "signals"),
    **dict.fromkeys(("LockInfo", "Page", "Stats"), "lock_info"),
    "LockTicket": "ticket",
    "Lockable": "lockable",
    **dict.fromkeys(("MultiLease", "MultiLock"), "multi"),
    "Owner": "owners",
    **dict.fromkeys(("ReadWriteLock", "Semaphore"), "semaphore"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"celery_locks.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
