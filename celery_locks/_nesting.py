"""What the current run and the current block hold: to wait for it would be a deadlock, so it is an error instead.

A lock asks here once the store has refused it, so a free key costs nothing.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from hashlib import blake2b
from types import TracebackType

from celery_locks import owners
from celery_locks._protocols import KeptLease, LockedKey
from celery_locks.errors import LockError
from celery_locks.renewal import keeper
from celery_locks.stores.types import MOST_HOLDERS, Refused

#: An owner token has 32 hexadecimal digits. What the body of a run acquires has 16 more: the mark of the run.
_TOKEN_LENGTH, _MARK_BYTES = 32, 8


class RunScope:
    """The body of a run, as a context manager: locks that are acquired within know which lease the run holds.

    Threads, asyncio tasks and greenlets with a copy of the context know it too, until the lease ends.

    Args:
        lease: The lease of the run.
    """

    __slots__ = ("_outer", "lease")

    def __init__(self, lease: KeptLease) -> None:
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
    def lives(self) -> bool:
        """Whether the run still holds its lease, by the local clock."""
        return self.lease._lives(self.lease._clock.now())

    @property
    def outer(self) -> RunScope | None:
        """The run that this one is nested in, as an eager task within a body is."""
        return _living(self._outer)

    @property
    def owner(self) -> str:
        """The owner's name of what the body acquires by itself."""
        return owners.in_body(self.lease.owner)


_scope: ContextVar[RunScope | None] = ContextVar("celery_locks_run_scope", default=None)


def current_scope() -> RunScope | None:
    """Return the innermost run under way here, ``None`` outside runs."""
    scope = _scope.get()
    return None if scope is None else _living(scope)


def _living(scope: RunScope | None) -> RunScope | None:
    # A signal may have struck before a scope could end: what its run held ended all the same.
    while scope is not None and not scope.lives:
        scope = scope._outer
    return scope


def block_here() -> tuple[int, object]:
    """Return what a block belongs to: the thread or greenlet, and the asyncio task that runs in it, if one does."""
    asyncio = sys.modules.get("asyncio")
    running = asyncio is not None and asyncio._get_running_loop() is not None
    return threading.get_ident(), asyncio.current_task() if asyncio is not None and running else None


def _own_leases(lock: LockedKey, refused: Refused, endless: bool) -> tuple[list[KeptLease], bool]:
    """Return the leases of a lock that can't end before the current run or block does, and whether one is a run's."""
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


def waits_for_itself(lock: LockedKey, refused: Refused, endless: bool) -> LockError | None:
    """Return the error of a wait that could never succeed: what is held here leaves too few permits.

    The lease of a run counts always. That of a ``with`` block counts where the wait has no end, and where it is renewed
    without an end: then the thread, or the asyncio task, of the block never comes to the block's end.

    Args:
        lock: What was asked for.
        refused: The store's answer, which names the holders.
        endless: Whether the wait has no timeout.

    Returns:
        The error, ``None`` where the wait may succeed.
    """
    limit, wanted = lock._terms.limit, lock._terms.permits
    own, of_run = _own_leases(lock, refused, endless)
    held = sum(lease._claim.permits for lease in own)
    if not held or held + wanted <= limit:
        return None
    holder, use = ("the current run", "current_lease()") if of_run else ("this block", "the lease of the block")
    if limit == 1:
        said = f"{holder} holds {lock.key!r} already and would wait for itself: use {use}, or acquire another key"
    else:
        said = (
            f"{holder} holds {held} of the {limit} permits of {lock.key!r} and would wait for itself to acquire "
            f"{wanted} more: release them first, or acquire all that are needed together"
        )
    return LockError(said, lock.key)


def mark_of_run(token: str) -> str:
    """Return what the owner tokens end with that a run asks for, made of the token of its lease.

    By it `celery locks doctor` finds the run that stands in line. It is made by a one-way function, so a token can't be
    computed from the mark.
    """
    return blake2b(token.encode(), digest_size=_MARK_BYTES).hexdigest()


def mark_in(token: str) -> str | None:
    """Return the mark of the run that asked for this owner token, ``None`` where no run did."""
    return token[_TOKEN_LENGTH:] if len(token) == _TOKEN_LENGTH + 2 * _MARK_BYTES else None
