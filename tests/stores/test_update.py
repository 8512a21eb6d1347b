"""`Lock.update` over connections that break: the function is applied once at most, and no change is reported lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from celery_locks import LockLost, Locks, StoreUnavailable
from celery_locks.aio import AsyncLocks
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Value
from tests.support.proxy import Proxy

pytestmark = pytest.mark.redis

#: The requests of an update: acquire, read, and release with the value.
STEPS = 3

Change = Callable[[object], int]
#: Each way to update, by its name.
WAYS: dict[str, Callable[[Locks, Change], int]] = {
    "threads": lambda locks, change: locks.lock("k", 10).update(change),
    "asyncio": lambda locks, change: asyncio.run(AsyncLocks(locks).lock("k", 10).update(change)),
}


class Counted:
    """Counts how often it is applied."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: object) -> int:
        self.calls += 1
        assert value is None or isinstance(value, int)
        return (value or 0) + 1


@pytest.fixture
def locks(proxy: Proxy, redis_url: str) -> Iterator[Locks]:
    with closing(Locks(f"redis://127.0.0.1:{proxy.port}/9", prefix="update")) as locks:
        locks.delete("k")
        assert locks.lock("k", 10).update(Counted()) == 1  # it connects, and loads the scripts
        yield locks
        locks.delete("k")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", range(STEPS))
def test_promise_35_a_lost_reply_changes_nothing(locks: Locks, proxy: Proxy, way: str, step: int) -> None:
    change = Counted()
    proxy.drop_reply(after=step)
    assert WAYS[way](locks, change) == 2
    assert proxy.drops_left == 0
    assert (change.calls, locks.value("k")) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", range(STEPS))
def test_promise_35_a_store_that_never_answers_is_no_loss(locks: Locks, proxy: Proxy, way: str, step: int) -> None:
    """The replies to a request and to its repeat are lost: what became of it is unknown, and that is the error."""
    change = Counted()
    proxy.drop_reply(count=2, after=step)
    with pytest.raises(StoreUnavailable):
        WAYS[way](locks, change)
    written = step == STEPS - 1
    assert (change.calls, locks.value("k")) == (int(written), 1 + written)
    proxy.heal()
    with locks.lock("k", 10).acquire(timeout=5):
        assert locks.value("k") == 1 + written


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_broke_before_is_no_error(locks: Locks, proxy: Proxy, way: str) -> None:
    change = Counted()

    def cut(value: object) -> int:
        proxy.cut()
        return change(value)

    assert WAYS[way](locks, cut) == 2
    assert (change.calls, locks.value("k")) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
def test_a_lease_that_was_taken_by_force_is_a_loss_after_a_lost_reply(locks: Locks, proxy: Proxy, way: str) -> None:
    def taken(value: object) -> int:
        locks.lock("k").force_release()
        proxy.drop_reply()
        return 7

    with pytest.raises(LockLost) as caught:
        WAYS[way](locks, taken)
    assert caught.value.reason == "force_released"
    assert locks.value("k") == 1


class AnswersLate(MemoryStore):
    """A store whose answer to a release is that to a repeat, after the lease has expired."""

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        if value is None:
            return super().release(name, token)
        while self.holders(name):
            self.wait(name, token, 0.01)
        return True


def test_a_repeat_that_came_after_the_deadline_is_not_taken_for_a_change() -> None:
    locks, change = Locks(AnswersLate()), Counted()
    with pytest.raises(StoreUnavailable, match="read the value"):
        locks.lock("k", 0.2, renew=False).update(change)
    assert (change.calls, locks.value("k")) == (1, None)
