"""Waits that would be deadlocks: for a key that the current run, or a ``with`` block of this thread, holds itself.

A lock checks this only after the store has refused it, so a free key costs nothing.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from hashlib import blake2b
from types import TracebackType
from typing import Protocol

from celery_locks import owners
from celery_locks._validation import Terms
from celery_locks.errors import LockError
from celery_locks.renewal import keeper
from celery_locks.renewal.watched_lease import WatchedLease
from celery_locks.stores.base import Store
from celery_locks.stores.types import MOST_HOLDERS, Refused

#: An owner token has 32 hexadecimal digits. A token of the body of a run has 16 more: the mark of the run.
_TOKEN_LENGTH, _MARK_BYTES = 32, 8


class RefusedLock(Protocol):
    """A lock that was refused. The lock itself is built on this module."""

    key: str
    _name: str
    _store: Store
    _terms: Terms


class RunScope:
    """The body of a run, as a context manager: locks that it acquires know which lease the run holds.

    So do locks in threads, asyncio tasks and greenlets with a copy of the context, until the lease ends.

    Args:
        lease: The lease of the run.
    """

    __slots__ = ("_outer", "lease")

    def __init__(self, lease: WatchedLease) -> None:
        self.lease = lease
        self._outer: RunScope | None = None

    def __enter__(self) -> RunScope:
        self._outer = current_scope()
        _scope.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _scope.set(self._outer)

    @property
    def is_held(self) -> bool:
        """Whether the run still holds its lease, by the local clock."""
        return self.lease._is_held_at(self.lease._clock.now())

    @property
    def outer(self) -> RunScope | None:
        """The run whose body this run is nested in, such as that of an eager task; ``None`` for none."""
        return _innermost_held(self._outer)

    @property
    def owner(self) -> str:
        """The owner's name of the locks that the body acquires."""
        return owners.in_body(self.lease.owner)


_scope: ContextVar[RunScope | None] = ContextVar("celery_locks_run_scope", default=None)


def current_scope() -> RunScope | None:
    """Return the innermost run whose body this code is in, ``None`` outside runs."""
    scope = _scope.get()
    return None if scope is None else _innermost_held(scope)


def _innermost_held(scope: RunScope | None) -> RunScope | None:
    # A signal may have interrupted the end of a scope. The lease of its run has ended all the same.
    while scope is not None and not scope.is_held:
        scope = scope._outer
    return scope


def block_here() -> tuple[int, object]:
    """Return the owner of a block that begins here: the thread or greenlet, and its current asyncio task, if any."""
    asyncio = sys.modules.get("asyncio")
    running = asyncio is not None and asyncio._get_running_loop() is not None
    return threading.get_ident(), asyncio.current_task() if asyncio is not None and running else None


def _own_leases(lock: RefusedLock, refused: Refused, endless: bool) -> tuple[list[WatchedLease], bool]:
    """Return the leases of a lock that can't end before the current run or block, and whether one is that of a run."""
    runs, scope = {}, current_scope()
    while scope is not None:
        runs[scope.lease.token] = scope.lease
        scope = scope.outer
    found = {}
    for holder in refused.holders:
        lease = runs.get(holder.token) or keeper().kept(holder.token)
        if lease is not None:
            found[lease.token] = lease
    if len(refused.holders) >= MOST_HOLDERS:  # the answer does not name all of them
        for lease in (*runs.values(), *keeper().leases()):
            if lease._claim.name == lock._name and lease._store is lock._store:
                found[lease.token] = lease
    own = [lease for token, lease in found.items() if token in runs]
    if endless:
        here = block_here()
        own += [lease for token, lease in found.items() if token not in runs and lease._is_of_block(here)]
    return own, any(lease.token in runs for lease in own)


def waits_for_itself(lock: RefusedLock, refused: Refused, endless: bool) -> LockError | None:
    """Return the error of a wait that could never succeed, because the code that waits holds too many permits itself.

    The lease of a run always counts. The lease of a ``with`` block counts if the wait has no timeout and the lease is
    renewed without a limit: then the thread, or the asyncio task, never reaches the end of its block.

    Args:
        lock: The lock to wait for.
        refused: The store's answer, which names the holders.
        endless: Whether the wait has no timeout.

    Returns:
        The error, or ``None`` if the wait may succeed.
    """
    limit, wanted = lock._terms.limit, lock._terms.permits
    own, of_run = _own_leases(lock, refused, endless)
    held = sum(lease._claim.permits for lease in own)
    if not held or held + wanted <= limit:
        return None
    holder, use = ("the current run", "current_lease()") if of_run else ("this block", "the lease of the block")
    if limit == 1:
        message = f"{holder} holds {lock.key!r} already and would wait for itself: use {use}, or acquire another key"
    else:
        message = (
            f"{holder} holds {held} of the {limit} permits of {lock.key!r} and would wait for itself to acquire "
            f"{wanted} more: release them first, or acquire all of them in one call"
        )
    return LockError(message, lock.key)


def mark_of_run(token: str) -> str:
    """Return the mark of a run: the end of each owner token that its body acquires with.

    By the mark, `celery locks doctor` finds the run that stands in line. A one-way function makes it from the token of
    the run's lease, so no one can compute that token from it.
    """
    return blake2b(token.encode(), digest_size=_MARK_BYTES).hexdigest()


def mark_in(token: str) -> str | None:
    """Return the mark of the run whose body uses this owner token, ``None`` for a token from outside of runs."""
    return token[_TOKEN_LENGTH:] if len(token) == _TOKEN_LENGTH + 2 * _MARK_BYTES else None
