"""``attempts=``: a bounded number of requests, with growing pauses in line; ``max_waiters=``: a bounded line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_locks import LockConfigError, LockQueueFull, Locks, LockTimeout, _sansio
from celery_locks.aio import AsyncLocks
from celery_locks.stores.memory import MemoryStore
from tests.support.faulty_store import FaultyStore
from tests.support.waiting import eventually

MADE: dict[str, Callable[..., Any]] = {
    "lock": lambda locks, **terms: locks.lock("k", **terms),
    "semaphore": lambda locks, **terms: locks.semaphore("k", 1, **terms),
    "write": lambda locks, **terms: locks.read_write("k", **terms).write,
    "multi": lambda locks, **terms: locks.multi(["k"], **terms),
    "lockable": lambda locks, **terms: locks.lockable("<id>", **terms)("k"),
}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sansio, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("celery_locks.multi.PATIENCE_SECONDS", 0.001)


@pytest.mark.usefixtures("short_pauses")
class TestAttempts:
    @made
    def test_a_free_key_takes_one(self, locks: Locks, store: FaultyStore, make: Callable[..., Any]) -> None:
        assert make(locks).acquire(attempts=3).held
        assert store.calls == ["acquire"]

    @pytest.mark.parametrize("attempts", [1, 2, 5])
    @pytest.mark.parametrize("name", ["lock", "semaphore", "write", "lockable"])
    def test_as_many_are_made_and_the_line_is_left(self, name: str, attempts: int) -> None:
        store = FaultyStore()
        locks = Locks(store, owner="Anna")
        held = locks.lock("k").acquire()
        store.calls.clear()
        with pytest.raises(LockTimeout, match="held by Anna"):
            MADE[name](locks).acquire(attempts=attempts)
        assert store.calls.count("acquire") == attempts
        assert store.in_line(held._claim.name) == 0

    def test_a_release_ends_the_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sansio, "FIRST_PAUSE_SECONDS", 3)
        locks, store = Locks(store := FaultyStore()), store
        held = locks.lock("k").acquire()
        store.before["wait"] = lambda: held.release()
        assert locks.lock("k").acquire(attempts=2).held

    def test_the_timeout_counts_as_well(self) -> None:
        locks = Locks(FaultyStore())
        locks.lock("k").acquire()
        with pytest.raises(LockTimeout):
            locks.lock("k").acquire(attempts=10**6, timeout=0.05)

    def test_several_keys_make_as_many_rounds(self) -> None:
        store = FaultyStore()
        locks = Locks(store)
        held = locks.lock("b").acquire()
        with pytest.raises(LockTimeout):
            locks.multi(["a", "b"]).acquire(attempts=1, timeout=1)
        assert not locks.lock("a").locked()
        assert store.in_line(held._claim.name) == 0

    @pytest.mark.parametrize("key", ["a", "b"])
    def test_several_keys_wait_no_longer_without_a_timeout(self, key: str) -> None:
        locks = Locks(FaultyStore())
        locks.lock(key).acquire()
        with pytest.raises(LockTimeout):
            locks.multi(["a", "b"]).acquire(attempts=1)

    @made
    @pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "3"])
    def test_other_numbers_are_refused(
        self, locks: Locks, store: FaultyStore, make: Callable[..., Any], attempts: Any
    ) -> None:
        with pytest.raises(LockConfigError, match="attempts"):
            make(locks).acquire(attempts=attempts)
        assert store.calls == []

    @pytest.mark.parametrize("name", ["lock", "semaphore"])
    def test_coroutines(self, name: str) -> None:
        async def main() -> None:
            locks = AsyncLocks(MemoryStore())
            lock = MADE[name](locks)
            async with await lock.acquire(attempts=2):
                with pytest.raises(LockTimeout):
                    await lock.acquire(attempts=2)
            assert (await locks.info("k")).waiting == 0

        asyncio.run(main())


class TestMaxWaiters:
    @made
    def test_one_more_is_refused(self, make: Callable[..., Any]) -> None:
        locks = Locks(FaultyStore())
        locks.lock("k").acquire()
        places = [locks.lock("k").enqueue() for _ in range(2)]
        with pytest.raises(LockQueueFull, match="'k' has max_waiters=2 waiters already: try again later") as caught:
            make(locks, max_waiters=2).acquire(timeout=60)
        assert caught.value.key == "k"
        assert locks.info("k").waiting == 2
        places[0].cancel()
        with pytest.raises(LockTimeout):
            make(locks, max_waiters=2).acquire(timeout=0.01)

    def test_enqueue_and_wait_are_refused_too(self, locks: Locks) -> None:
        lock = locks.lock("k", max_waiters=1)
        lock.acquire()
        lock.enqueue()
        for ask in (lock.enqueue, lock.wait):
            with pytest.raises(LockQueueFull):
                ask()

    def test_what_does_not_line_up_is_not_refused(self, locks: Locks) -> None:
        lock = locks.lock("k", max_waiters=1)
        held = lock.acquire()
        place = lock.enqueue()
        assert lock.try_acquire() is None
        with pytest.raises(LockTimeout):
            lock.acquire(timeout=0)
        held.release()
        assert place.wait(timeout=0).held, "a place in line is kept"

    def test_coroutines(self) -> None:
        async def main() -> None:
            locks = AsyncLocks(MemoryStore())
            lock = locks.lock("k", max_waiters=1)
            async with lock:
                await lock.enqueue()
                with pytest.raises(LockQueueFull):
                    await lock.acquire(timeout=60)
                with pytest.raises(LockQueueFull):
                    await locks.semaphore("k", 1, max_waiters=1).acquire(timeout=60)

        asyncio.run(main())

    @made
    @pytest.mark.parametrize("number", [0, -1, True, 1.0, "1"])
    def test_other_numbers_are_refused(self, locks: Locks, make: Callable[..., Any], number: Any) -> None:
        with pytest.raises(LockConfigError, match="max_waiters"):
            make(locks, max_waiters=number)

    def test_a_store_without_a_line_refuses_it(self) -> None:
        class Unfair(MemoryStore):
            fair = False

        with pytest.raises(LockConfigError, match="max_waiters"):
            Locks(Unfair()).lock("k", max_waiters=1)


def test_several_keys_in_a_crowd_are_acquired_in_time() -> None:
    """While single lockers stand in line for one key, and others for the other."""
    import threading
    import time

    locks, stop, waits = Locks(MemoryStore()), threading.Event(), list[float]()

    def single(key: str) -> None:
        while not stop.is_set():
            begun = time.monotonic()
            with locks.lock(key):
                waits.append(time.monotonic() - begun)
                stop.wait(0.05)

    lockers = [threading.Thread(target=single, args=(key,)) for key in "aaaabbbb"]
    for locker in lockers:
        locker.start()
    try:
        eventually(lambda: len(waits) > 8, 30)
        begun = time.monotonic()
        locks.multi(["a", "b"]).acquire(timeout=60).release()
        taken = time.monotonic() - begun
    finally:
        stop.set()
        for locker in lockers:
            locker.join(30)
    assert taken < 10 * max(waits)
