"""For tests of code with locks: a store for each, somebody else who holds a key, leases that are lost, who held what.

The fixtures of the pytest plugin are made of these; see ``docs/how-to/testing.md``.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload
from weakref import WeakKeyDictionary

import pytest
from celery.app.task import Task

from celery_locks import signals
from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.keys.names import described
from celery_locks.lease import Lease
from celery_locks.locks import Locks
from celery_locks.owners import read, task_of
from celery_locks.renewal import keeper
from celery_locks.signals import Outcome, audit
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.memory import store as memory
from celery_locks.stores.types import Holder
from celery_locks.tasks import options

#: Seconds between two looks at a key.
LOOK_EVERY = 0.01


@contextmanager
def store_for_a_test() -> Iterator[MemoryStore]:
    """A new store in memory, in which all apps of this process, and ``Locks()``, have their locks until it ends.

    All apps have the same prefix in it, whatever their settings say.
    """
    url = f"memory://test-{secrets.token_hex(8)}"
    store = memory.open_memory(url)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CELERY_LOCKS_URL", url)
            patch.setattr(Locks, "from_app", classmethod(lambda cls, app, *_: cls(store)))
            patch.setattr(options, "_locks", WeakKeyDictionary())
            yield store
    finally:
        memory._named.pop(url, None)
        keeper().drop(store)


class HeldLock:
    """``with held_lock(key) as lease:`` somebody else holds a key.

    Args:
        locks: Where.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    @contextmanager
    def __call__(self, key: str, by: str = "somebody else", permits: int = 1) -> Iterator[Lease]:
        """Holds the key until the block ends; it is not renewed, and lives for an hour.

        Args:
            key: What is held.
            by: The holder's name that others see.
            permits: How many permits of a semaphore.

        Raises:
            AssertionError: Others hold it already.
        """
        semaphore = self._locks.semaphore(key, permits, ttl=3600, renew=False, owner=by)
        lease = semaphore.try_acquire(permits=permits)
        if lease is None:
            raise AssertionError(f"{key!r} can't be held by {by}: {_state(self._locks, key)}")
        try:
            yield lease
        finally:
            lease.release()


@dataclass
class _Loss:
    """How the next run is to lose its lease."""

    seconds: float | None
    calls: int | None
    key: str | None
    reason: LossReason
    lease: Lease | None = None
    happened: bool = False

    def __str__(self) -> str:
        when = f"{self.seconds:g} s" if self.seconds is not None else f"{self.calls} calls of lease.check()"
        return f"{when}{'' if self.key is None else f', key {self.key!r}'}"


class LockLostAfter:
    """Has runs lose their leases.

    Args:
        store: Only leases in it.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._losses: list[_Loss] = []
        self._timers: list[threading.Timer] = []
        signals.on_lock_acquired.connect(self._acquired, weak=False)

    def __call__(
        self,
        seconds: float | None = None,
        *,
        calls: int | None = None,
        key: str | None = None,
        reason: LossReason = "deleted",
    ) -> None:
        """The next run that takes a lease loses it. Called twice, the run after that loses its own too.

        In the store the key is free from then on, so that others can have it.

        Args:
            seconds: So many seconds after it was acquired.
            calls: Instead: when ``lease.check()`` is called for the so-manieth time. No clock has a part in it.
            key: Only a run that holds this key.
            reason: What is told to ``on_lock_lost``.

        Raises:
            LockConfigError: Not exactly one of ``seconds`` and ``calls`` is given, or it is out of bounds.
        """
        if (seconds is None) == (calls is None):
            raise LockConfigError("lock_lost_after takes seconds or calls, one of them")
        if (seconds is not None and seconds < 0) or (calls is not None and calls < 1):
            raise LockConfigError("lock_lost_after takes seconds from 0 on, or calls from 1 on")
        self._losses.append(_Loss(seconds, calls, key, reason))

    def close(self) -> None:
        """Ends it.

        Raises:
            AssertionError: A loss did not happen: the test did not test what it says.
        """
        signals.on_lock_acquired.disconnect(self._acquired)
        for timer in self._timers:
            timer.cancel()
        for loss in self._losses:
            if not loss.happened:
                why = "no run took a lease" if loss.lease is None else "the run ended before"
                raise AssertionError(f"lock_lost_after ({loss}): no lease was lost, since {why}")

    def _acquired(self, sender: object, lease: Lease, **_: Any) -> None:
        if lease._store is not self._store or not isinstance(sender, Task) or _of_call(lease):
            return
        fitting = (loss for loss in self._losses if loss.lease is None and loss.key in (None, lease.key))
        loss = next(fitting, None)
        if loss is None:
            return
        loss.lease = lease
        if loss.calls is not None:
            self._count(sender, lease, loss, loss.calls)
            return
        timer = threading.Timer(loss.seconds or 0.0, self._lose, (sender, lease, loss))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _count(self, task: Any, lease: Lease, loss: _Loss, calls: int) -> None:
        left = [calls]

        def check() -> None:
            left[0] -= 1
            if left[0] == 0:
                self._lose(task, lease, loss)
            Lease.check(lease)

        lease.check = check  # type: ignore[method-assign]

    def _lose(self, task: Any, lease: Lease, loss: _Loss) -> None:
        if not lease.held:
            return
        loss.happened = True
        try:
            # Not by force: that would leave a reason of its own.
            self._store.release(lease._claim.name, lease.token)
        finally:
            lease._lose(loss.reason)


class LockHistory(Sequence[Outcome]):
    """What became of locks, in order: each is an `Outcome`.

    Args:
        store: Of locks in it.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._outcomes: list[Outcome] = []
        self._stop = audit(self._hear)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __repr__(self) -> str:
        return "\n".join(f"{each.kind} {each.key!r} {each.owner}" for each in self) or "nothing happened"

    def of(self, key: str) -> list[Outcome]:
        """What became of one key."""
        return [each for each in self if each.key == key]

    def kinds(self, key: str) -> list[str]:
        """The same in words: ``["acquired", "released"]``."""
        return [each.kind for each in self.of(key)]

    def holders(self, key: str) -> list[str]:
        """Who acquired a key, in order: tasks by their names, others by the names that they gave."""
        return [_name(each.owner or "") for each in self.of(key) if each.kind == "acquired"]

    def close(self) -> None:
        """Hears no more."""
        self._stop()

    def _hear(self, outcome: Outcome) -> None:
        if getattr(outcome.sender, "store", self._store) is self._store:
            self._outcomes.append(outcome)


class AssertLocked:
    """``assert_locked(key, by=…)``.

    Args:
        locks: Where.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def __call__(self, key: str, by: Any = None, within: float = 0.0) -> Holder:
        """Asserts that a key is held.

        Args:
            key: The key.
            by: By whom: a task, its name, a task's id, or a holder's name; ``None`` for anybody.
            within: For how many seconds to wait for it.

        Returns:
            Who holds it.

        Raises:
            AssertionError: Nobody holds it, or others do.
        """
        wanted = None if by is None else str(getattr(by, "name", by))
        until = monotonic() + within
        while True:
            for holder in self._locks.lock(key).holders():
                if wanted in (None, holder.owner, holder.task_name, holder.task_id):
                    return holder
            if monotonic() >= until:
                who = "" if wanted is None else f" by {wanted}"
                raise AssertionError(f"{key!r} is not held{who}: {_state(self._locks, key)}")
            time.sleep(LOOK_EVERY)


class AssertFree:
    """``assert_free(key)``.

    Args:
        locks: Where.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def __call__(self, key: str, within: float = 0.0) -> None:
        """Asserts that nobody holds a key.

        Args:
            key: The key.
            within: For how many seconds to wait for it.

        Raises:
            AssertionError: Somebody holds it.
        """
        until = monotonic() + within
        while self._locks.lock(key).locked():
            if monotonic() >= until:
                raise AssertionError(f"{key!r} is not free: {_state(self._locks, key)}")
            time.sleep(LOOK_EVERY)


def _of_call(lease: Lease) -> bool:
    """Whether it was taken when its task was called: no run has it yet."""
    task = read(lease.owner)
    return task is not None and task.where in ("called by", "until expiry from")


def _name(owner: str) -> str:
    task = task_of(owner)
    return owner if task is None else task[0]


def _state(locks: Locks, key: str) -> str:
    """Who holds a key, and what else is held, for a message."""
    holders = locks.lock(key).holders()
    if holders:
        return f"it is held by {', '.join(holder.owner for holder in holders)}"
    held = [described(item.key, item.part) for item in locks.list(count=10).items]
    return f"nobody holds it; held are {', '.join(held)}" if held else "nobody holds any key"
