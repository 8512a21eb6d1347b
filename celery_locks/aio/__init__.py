"""Locks for asyncio, with the same methods as `celery_locks.Locks`, awaited.

Locks for asyncio and for threads exclude each other: a coroutine and a task never hold the same key of the same prefix
at the same time.
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
