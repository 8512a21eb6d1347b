"""Distributed leases for Celery tasks, keyed by their arguments."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery_locks.backoff import Backoff
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
from celery_locks.lease import Lease
from celery_locks.lock import Lock
from celery_locks.locks import Locks
from celery_locks.semaphore import Semaphore

if TYPE_CHECKING:
    from celery_locks.tasks import (
        Contention,
        ContentionPolicy,
        LockedTask,
        Skipped,
        current_lease,
        single_instance,
    )

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
    "LockKeyError",
    "LockLost",
    "LockNotOwned",
    "LockQueueFull",
    "LockTimeout",
    "LockedTask",
    "Locks",
    "Semaphore",
    "Skipped",
    "StoreUnavailable",
    "current_lease",
    "single_instance",
]

_OF_TASKS = {"Contention", "ContentionPolicy", "LockedTask", "Skipped", "current_lease", "single_instance"}


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that code without tasks doesn't load Celery.
    if name not in _OF_TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("celery_locks.tasks"), name)
    globals()[name] = value
    return value
