"""The pytest plugin: the helpers of `celery_locks.testing.harness` as fixtures.

Every pytest of an environment loads this module. So it is outside of the package, and imports the package only for a
test that uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from celery_locks import Locks
    from celery_locks.stores.memory import MemoryStore
    from celery_locks.testing.harness import AssertFree, AssertLocked, HeldLock, LockHistory, LockLostAfter


@pytest.fixture
def lock_store() -> Iterator[MemoryStore]:
    """Return an empty store in memory for this test. All apps, and ``Locks()``, have their locks in it."""
    from celery_locks.testing.harness import store_for_a_test

    with store_for_a_test() as store:
        yield store


@pytest.fixture
def celery_locks(lock_store: MemoryStore) -> Locks:
    """Return `Locks` in the store of the test, under the prefix that all apps have in it."""
    from celery_locks import Locks

    return Locks(lock_store)


@pytest.fixture
def held_lock(celery_locks: Locks) -> HeldLock:
    """Return a function of a key that makes a context manager, in which another holder has the key.

    Examples:
        >>> with held_lock("user:7"):
        ...     call()
    """
    from celery_locks.testing.harness import HeldLock

    return HeldLock(celery_locks)


@pytest.fixture
def lock_lost_after(lock_store: MemoryStore) -> Iterator[LockLostAfter]:
    """Return a function that makes the next run lose its lease: ``lock_lost_after(seconds=…)`` or ``(calls=…)``."""
    from celery_locks.testing.harness import LockLostAfter

    losses = LockLostAfter(lock_store)
    yield losses
    losses.close()


@pytest.fixture
def lock_history(lock_store: MemoryStore) -> Iterator[LockHistory]:
    """Return the outcomes of all locks in this test, in order."""
    from celery_locks.testing.harness import LockHistory

    history = LockHistory(lock_store)
    yield history
    history.close()


@pytest.fixture
def assert_locked(celery_locks: Locks) -> AssertLocked:
    """Return a function that asserts that a key is held, and by whom: ``assert_locked(key, by=…)``."""
    from celery_locks.testing.harness import AssertLocked

    return AssertLocked(celery_locks)


@pytest.fixture
def assert_free(celery_locks: Locks) -> AssertFree:
    """Return a function that asserts that no one holds a key: ``assert_free(key)``."""
    from celery_locks.testing.harness import AssertFree

    return AssertFree(celery_locks)
