"""Tools for tests of code with locks: a store for each test, another holder, lost leases, and the history of locks.

The fixtures of the pytest plugin use them; see ``docs/how-to/testing.md``.
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
from celery_locks._validation import DEFAULT_STORE
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.keys.names import described
from celery_locks.lease import Lease
from celery_locks.locks import Locks, app_store
from celery_locks.owners import read, task_of
from celery_locks.renewal import keeper
from celery_locks.signals import Outcome, audit
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.memory import store as memory_stores
from celery_locks.stores.types import Holder
from celery_locks.tasks import options

#: Seconds between two reads of a key.
POLL_SECONDS = 0.01

#: The stores of a test by the names that apps give them, by the test's default store.
_stores_of_tests: WeakKeyDictionary[MemoryStore, dict[str, MemoryStore]] = WeakKeyDictionary()


@contextmanager
def store_for_a_test() -> Iterator[MemoryStore]:
    """Keep the locks of all apps of this process, and of ``Locks()``, in a new store in memory until the block ends.

    A store that apps have by another name than the default one is a store of its own in memory, for all apps together.
    All apps have the same prefix, whatever their settings are.
    """
    url = f"memory://test-{secrets.token_hex(8)}"
    store = memory_stores.open_memory(url)
    stores = _stores_of_tests[store] = {DEFAULT_STORE: store}

    def from_app(cls: type[Locks], app: Any, store: str = DEFAULT_STORE) -> Locks:
        if store != DEFAULT_STORE:
            app_store(app.conf, store)  # raises LockConfigError for an unknown name
        locks = cls(stores.setdefault(store, MemoryStore()))
        locks._space.store_name = store
        return locks

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CELERY_LOCKS_URL", url)
            patch.setattr(Locks, "from_app", classmethod(from_app))
            patch.setattr(options, "_locks", WeakKeyDictionary())
            yield store
    finally:
        memory_stores._named.pop(url, None)
        _stores_of_tests.pop(store, None)
        for each in stores.values():
            keeper().drop(each)


class HeldLock:
    """A context manager in which another holder has a key: ``with held_lock(key) as lease:``.

    Args:
        locks: The locks of the test.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    @contextmanager
    def __call__(self, key: str, by: str = "another holder", permits: int = 1) -> Iterator[Lease]:
        """Hold the key until the block ends. The lease is not renewed, and lives for an hour.

        Args:
            key: The key.
            by: The holder's name that others see.
            permits: How many permits of a semaphore.

        Raises:
            AssertionError: The key is held already.
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
    """A loss that is planned for the next run."""

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
    """Makes runs lose their leases.

    Args:
        store: The default store of the test. Leases in the test's other stores are lost, too.
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
        """Make the next run that acquires a lease lose it. After a second call, the run after that loses its lease too.

        The key is free in the store from then on, so that others can acquire it.

        Args:
            seconds: How long after the lease was acquired.
            calls: In place of ``seconds``: at which call of ``lease.check()``. This depends on no clock.
            key: Only a run that holds this key.
            reason: The reason that ``on_lock_lost`` gets.

        Raises:
            LockConfigError: Not exactly one of ``seconds`` and ``calls`` is given, or it is out of bounds.
        """
        if (seconds is None) == (calls is None):
            raise LockConfigError("lock_lost_after takes seconds or calls, one of them")
        if (seconds is not None and seconds < 0) or (calls is not None and calls < 1):
            raise LockConfigError("lock_lost_after takes seconds from 0 on, or calls from 1 on")
        self._losses.append(_Loss(seconds, calls, key, reason))

    def close(self) -> None:
        """Make no more runs lose their leases.

        Raises:
            AssertionError: A planned loss did not happen, so the test proves nothing.
        """
        signals.on_lock_acquired.disconnect(self._acquired)
        for timer in self._timers:
            timer.cancel()
        for loss in self._losses:
            if not loss.happened:
                why = "no run took a lease" if loss.lease is None else "the run ended before"
                raise AssertionError(f"lock_lost_after ({loss}): no lease was lost, since {why}")

    def _acquired(self, sender: object, lease: Lease, **_: Any) -> None:
        if not _is_of_test(lease._store, self._store) or not isinstance(sender, Task) or _is_of_call(lease):
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
            lease._store.release(lease._claim.name, lease.token)
        finally:
            lease._lose(loss.reason)


class LockHistory(Sequence[Outcome]):
    """The outcomes of all locks of a test, in order; each is an `Outcome`.

    Args:
        store: The default store of the test.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._outcomes: list[Outcome] = []
        self._stop = audit(self._add)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __repr__(self) -> str:
        return "\n".join(f"{each.kind} {each.key!r} {each.owner}" for each in self) or "no outcomes"

    def of(self, key: str) -> list[Outcome]:
        """Return the outcomes of one key."""
        return [each for each in self if each.key == key]

    def kinds(self, key: str) -> list[str]:
        """Return the kinds of the outcomes of one key, such as ``["acquired", "released"]``."""
        return [each.kind for each in self.of(key)]

    def holders(self, key: str) -> list[str]:
        """Return who acquired a key, in order: tasks by their names, other holders by their owner's names."""
        return [_name(each.owner or "") for each in self.of(key) if each.kind == "acquired"]

    def close(self) -> None:
        """Record no more outcomes."""
        self._stop()

    def _add(self, outcome: Outcome) -> None:
        if _is_of_test(getattr(outcome.sender, "store", self._store), self._store):
            self._outcomes.append(outcome)


class AssertLocked:
    """Asserts that a key is held: ``assert_locked(key, by=…)``.

    Args:
        locks: The locks of the test.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def __call__(self, key: str, by: Any = None, within: float = 0.0) -> Holder:
        """Assert that a key is held.

        Args:
            key: The key.
            by: The holder: a task, its name, a task's id, or an owner's name; ``None`` for any holder.
            within: How many seconds to wait for it.

        Returns:
            The holder.

        Raises:
            AssertionError: The key is free, or others hold it.
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
            time.sleep(POLL_SECONDS)


class AssertFree:
    """Asserts that a key is free: ``assert_free(key)``.

    Args:
        locks: The locks of the test.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def __call__(self, key: str, within: float = 0.0) -> None:
        """Assert that no one holds a key.

        Args:
            key: The key.
            within: How many seconds to wait for it.

        Raises:
            AssertionError: The key is held.
        """
        until = monotonic() + within
        while self._locks.lock(key).locked():
            if monotonic() >= until:
                raise AssertionError(f"{key!r} is not free: {_state(self._locks, key)}")
            time.sleep(POLL_SECONDS)


def _is_of_test(store: Any, default_store: MemoryStore) -> bool:
    """Return whether a store is one of those of a test."""
    return store is default_store or store in _stores_of_tests.get(default_store, {}).values()


def _is_of_call(lease: Lease) -> bool:
    """Return whether a lease was acquired at the call of its task, and no run has it yet."""
    task = read(lease.owner)
    return task is not None and task.where in ("called by", "until expiry from")


def _name(owner: str) -> str:
    task = task_of(owner)
    return owner if task is None else task[0]


def _state(locks: Locks, key: str) -> str:
    """Return who holds a key, and which other keys are held, for a message."""
    holders = locks.lock(key).holders()
    if holders:
        return f"it is held by {', '.join(holder.owner for holder in holders)}"
    held = [described(item.key, item.part) for item in locks.list(count=10).items]
    return f"it is free; held are {', '.join(held)}" if held else "it is free, and so are all others"
