"""Locks for asyncio: what `celery_locks.Locks` offers, awaited.

Both faces of a store exclude each other: a coroutine and a task that lock the same key of the same prefix are never in
at once.
"""

from __future__ import annotations

from celery_locks.aio.lease import AsyncLease, AsyncMultiLease
from celery_locks.aio.lock import AsyncLock, AsyncLockTicket
from celery_locks.aio.locks import AsyncLockable, AsyncLocks, AsyncReadWriteLock
from celery_locks.aio.multi import AsyncMultiLock
from celery_locks.aio.semaphore import AsyncSemaphore

__all__ = [
    "AsyncLease",
    "AsyncLock",
    "AsyncLockTicket",
    "AsyncLockable",
    "AsyncLocks",
    "AsyncMultiLease",
    "AsyncMultiLock",
    "AsyncReadWriteLock",
    "AsyncSemaphore",
]
