"""A value that is kept with a key, and written by who holds it when it lets go."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from celery_locks import Lock, LockConfigError, LockLost, Locks, LockTimeout, StoreUnavailable
from celery_locks.aio import AsyncLocks
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually


def test_a_value_is_written_at_the_release(locks: Locks, lock: Lock) -> None:
    with lock as lease:
        assert lease.value is None
        lease.update({"page": 3, "names": ["ä", None, 1.5]})
        assert lease.value == {"page": 3, "names": ["ä", None, 1.5]}
        assert locks.value("k") is None, "written too early"
    assert locks.value("k") == {"page": 3, "names": ["ä", None, 1.5]}
    with lock as lease:
        assert lease.value["page"] == 3
    assert locks.value("k")["page"] == 3
    assert locks.delete("k") is True
    assert locks.delete("k") is False
    assert locks.value("k") is None


def test_the_last_update_counts(locks: Locks, lock: Lock) -> None:
    with lock as lease:
        lease.update(1)
        lease.update(None)
        assert lease.value is None
        lease.update([2])
    assert locks.value("k") == [2]


def test_who_lost_the_lease_writes_nothing(locks: Locks, lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    lease.update("mine")
    lock.force_release()
    with lock:
        assert lease.release() is False
    assert locks.value("k") is None
    lease = locks.lock("k", ttl=30, renew=False).acquire()
    lease.update("late")
    clock.advance(30)
    assert lease.release() is False
    assert locks.value("k") is None
    with pytest.raises(LockLost):
        lease.update("later still")


def test_a_value_is_kept_for_its_own_time(locks: Locks, clock: MovableClock) -> None:
    lock = locks.lock("k", ttl=30, renew=False)
    for keep in (60, timedelta(minutes=1)):
        with lock as lease:
            lease.update("v", keep=keep)
            clock.advance(20)
        clock.advance(59)
        assert locks.value("k") == "v", "it counts from the release"
        clock.advance(1)
        assert locks.value("k") is None


@pytest.mark.parametrize("value", [{1, 2}, b"x", float("nan"), object()], ids=["set", "bytes", "nan", "object"])
def test_what_is_no_json_is_refused_immediately(lock: Lock, value: object) -> None:
    with lock as lease, pytest.raises(LockConfigError, match="must be JSON"):
        lease.update(value)


def test_keep_is_checked(lock: Lock) -> None:
    with lock as lease:
        for keep in (0, -1, "1", float("inf")):
            with pytest.raises(LockConfigError, match=f"keep={keep!r} is"):
                lease.update(1, keep=keep)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_release_that_failed_writes_when_it_is_repeated(
    locks: Locks, lock: Lock, store: FaultyStore, side: str
) -> None:
    lease = lock.acquire()
    lease.update("v")
    getattr(store, side)["release"] = fail
    with pytest.raises(StoreUnavailable):
        lease.release()
    store.come_back()
    lease.release()
    assert locks.value("k") == "v"
    assert not lock.locked()


def test_a_release_in_the_background_writes_too(locks: Locks, lock: Lock, store: FaultyStore) -> None:
    with lock as lease:
        lease.update("v")
        store.before["release"] = fail
    store.come_back()
    eventually(lambda: not lock.locked(), 30)
    assert locks.value("k") == "v"


def test_value_and_release_are_one_request(lock: Lock, store: FaultyStore) -> None:
    lease = lock.acquire()
    lease.update("v")
    store.calls.clear()
    assert lease.release()
    assert store.calls == ["release"]


class TestUpdateOfALock:
    def test_the_value_is_changed_under_the_lock(self, locks: Locks, lock: Lock) -> None:
        def add(value: int | None) -> int:
            assert lock.locked()
            return (value or 0) + 1

        assert [lock.update(add) for _ in range(3)] == [1, 2, 3]
        assert locks.value("k") == 3
        assert not lock.locked()

    def test_threads_lose_no_change(self) -> None:
        lock = Locks("memory://").lock("counter")

        def count() -> None:
            for _ in range(20):
                lock.update(lambda value: (value or 0) + 1, timeout=60)

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(count) for _ in range(4)]:
                future.result(timeout=60)
        assert lock.update(lambda value: value) == 80

    def test_an_error_of_the_function_changes_nothing(self, locks: Locks, lock: Lock) -> None:
        lock.update(lambda _: "before")
        with pytest.raises(ZeroDivisionError):
            lock.update(lambda _: 1 / 0)
        assert (locks.value("k"), lock.locked()) == ("before", False)

    def test_a_value_that_is_not_json_changes_nothing(self, locks: Locks, lock: Lock) -> None:
        with pytest.raises(LockConfigError, match="must be JSON"):
            lock.update(lambda _: object())
        assert (locks.value("k"), lock.locked()) == (None, False)

    def test_a_loss_within_is_an_error(self, locks: Locks, lock: Lock) -> None:
        with pytest.raises(LockLost):
            lock.update(lambda _: lock.force_release() and "mine")
        assert locks.value("k") is None

    @pytest.mark.parametrize("side", ["before", "after"])
    def test_a_release_without_an_answer_is_an_error(self, lock: Lock, store: FaultyStore, side: str) -> None:
        def change(_: object) -> str:
            getattr(store, side)["release"] = fail
            return "v"

        with pytest.raises(StoreUnavailable):
            lock.update(change)
        store.come_back()
        eventually(lambda: not lock.locked(), 30)

    def test_the_timeout_is_that_of_the_key(self, lock: Lock) -> None:
        with lock, pytest.raises(LockTimeout):
            lock.update(lambda _: 1, timeout=0)

    def test_the_value_is_kept_as_long_as_asked_for(self, locks: Locks, lock: Lock, clock: MovableClock) -> None:
        lock.update(lambda _: "v", keep="1m")
        clock.advance(61)
        assert locks.value("k") is None

    def test_a_store_without_values_refuses_it_before_it_acquires(self, clock: MovableClock) -> None:
        class Bare(FaultyStore):
            values = False

        store = Bare(clock)
        with pytest.raises(LockConfigError, match="Bare has none"):
            Locks(store, clock=clock).lock("k").update(lambda _: 1)
        assert store.calls == []

    def test_coroutines(self) -> None:
        async def main() -> None:
            locks = AsyncLocks("memory://coroutines")
            lock = locks.lock("k")

            async def add(value: int | None) -> int:
                assert await lock.locked()
                return (value or 0) + 1

            assert await lock.update(add) == 1
            assert await lock.update(lambda value: value + 1, timeout="5s") == 2
            assert (await locks.value("k"), await lock.locked()) == (2, False)
            with pytest.raises(ZeroDivisionError):
                await lock.update(lambda _: 1 / 0)
            assert not await lock.locked()

        asyncio.run(main())


class TestDelete:
    def test_the_value_and_the_leases_go(self, locks: Locks, lock: Lock) -> None:
        lock.update(lambda _: "v")
        lease = lock.acquire()
        lease.update("mine")
        assert locks.delete("k") is True
        assert not lock.locked()
        assert lease.release() is False
        assert lease.lost_reason == "force_released"
        assert locks.value("k") is None
        assert locks.delete("k") is False

    def test_a_lease_alone_is_something(self, locks: Locks, lock: Lock) -> None:
        lock.acquire()
        assert locks.delete("k") is True

    def test_the_first_waiter_is_next(self, locks: Locks, lock: Lock) -> None:
        lock.acquire()
        ticket = lock.enqueue()
        locks.delete("k")
        assert ticket.wait(timeout=0).held

    def test_a_store_without_values_deletes_the_leases(self, clock: MovableClock) -> None:
        class Bare(FaultyStore):
            values = False

        locks = Locks(Bare(clock), clock=clock)
        locks.lock("k").acquire()
        assert locks.delete("k") is True
        assert locks.delete("k") is False


def test_a_store_without_values_reports_it_at_the_update(clock: MovableClock) -> None:
    class Bare(FaultyStore):
        values = False

    with (
        Locks(Bare(clock), clock=clock).lock("k") as lease,
        pytest.raises(LockConfigError, match="Bare has none"),
    ):
        lease.update(1)
