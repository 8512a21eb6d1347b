"""Coroutines that lose their leases, or are cancelled."""

# ruff: noqa: PT012 - whole blocks are what raises here

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time

import pytest

from celery_locks import LockLost, Locks, signals
from celery_locks.aio import AsyncLease, AsyncLock, AsyncLocks, driver
from celery_locks.errors import LossReason
from celery_locks.renewal import keeper
from tests.support.faulty_store import FaultyStore
from tests.support.loop import on_a_loop, soon


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def locks(store: FaultyStore) -> AsyncLocks:
    return AsyncLocks(store)


@pytest.fixture
def lock(locks: AsyncLocks) -> AsyncLock:
    """Renewed so often that a loss is found soon."""
    return locks.lock("k", ttl=30, renew=0.05)


@pytest.fixture
def aborting(locks: AsyncLocks) -> AsyncLock:
    return locks.lock("k", ttl=30, renew=0.05, abort=True)


async def cancelled(task: asyncio.Future[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def asked_to_end() -> int:
    """How many asked this task to end; known since Python 3.11."""
    task = asyncio.current_task()
    return task.cancelling() if sys.version_info >= (3, 11) and task else 0


class TestCancelled:
    @on_a_loop
    async def test_who_waits_gives_its_place_up(self, store: FaultyStore, lock: AsyncLock) -> None:
        async with lock:
            waiting = asyncio.ensure_future(lock.acquire())
            await soon(lambda: store.in_line(lock.plain._name) == 1)
            await cancelled(waiting)
            assert store.in_line(lock.plain._name) == 0
        assert await lock.try_acquire() is not None

    @on_a_loop
    async def test_a_timeout_of_asyncio_does_too(self, store: FaultyStore, lock: AsyncLock) -> None:
        lease = await lock.acquire()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(lock.acquire(), 0.02)
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02), lock:
                    pytest.fail("it was held")
        await soon(lambda: store.in_line(lock.plain._name) == 0)
        await lease.release()

    @pytest.mark.parametrize("way", ["acquire", "try_acquire", "enqueue", "multi"])
    @on_a_loop
    async def test_what_is_granted_at_that_moment_is_released(
        self, store: FaultyStore, locks: AsyncLocks, lock: AsyncLock, way: str
    ) -> None:
        asked, go_on = threading.Event(), threading.Event()
        store.after["acquire"] = lambda: (asked.set(), go_on.wait(60))
        attempt = locks.multi(["k", "l"]).acquire if way == "multi" else getattr(lock, way)
        waiting = asyncio.ensure_future(attempt())
        await soon(asked.is_set)
        assert lock.plain.locked()
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert not waiting.done(), "it waits for the answer, since it is not known what is to be given back"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not lock.plain.locked()
        assert keeper().leases() == []
        assert store.in_line(lock.plain._name) == 0

    @on_a_loop
    async def test_it_is_not_held_up_by_a_store_that_hangs(
        self, store: FaultyStore, lock: AsyncLock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "CANCEL_PATIENCE_SECONDS", 0.05)
        asked, go_on = threading.Event(), threading.Event()
        store.after["acquire"] = lambda: (asked.set(), go_on.wait(60))
        waiting = asyncio.ensure_future(lock.acquire())
        await soon(asked.is_set)
        await cancelled(waiting)
        assert lock.plain.locked()
        go_on.set()
        await soon(lambda: not lock.plain.locked())

    @on_a_loop
    async def test_what_was_not_yet_asked_for_is_not(
        self, store: FaultyStore, locks: AsyncLocks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "THREADS", 1)
        asked, go_on = threading.Event(), threading.Event()
        store.before["holders"] = lambda: (asked.set(), go_on.wait(60))
        looking = asyncio.ensure_future(locks.lock("other").holders())
        await soon(asked.is_set)
        waiting = asyncio.ensure_future(locks.lock("k").acquire())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await looking
        assert "acquire" not in store.calls

    @on_a_loop
    async def test_a_release_is_done_all_the_same(self, store: FaultyStore, lock: AsyncLock) -> None:
        asked, go_on = threading.Event(), threading.Event()
        lease = await lock.acquire()
        store.before["release"] = lambda: (asked.set(), go_on.wait(60))
        releasing = asyncio.ensure_future(lease.release())
        await soon(asked.is_set)
        await cancelled(releasing)
        go_on.set()
        await soon(lambda: not lock.plain.locked())

    @on_a_loop
    async def test_a_block_that_is_cancelled_is_left(self, aborting: AsyncLock) -> None:
        async def work() -> None:
            async with aborting:
                await asyncio.sleep(60)

        working = asyncio.ensure_future(work())
        await soon(aborting.locked)
        await cancelled(working)
        assert not await aborting.locked()

    @on_a_loop
    async def test_several_keys_release_their_leases(self, store: FaultyStore, locks: AsyncLocks) -> None:
        async with locks.lock("b") as lease:
            waiting = asyncio.ensure_future(locks.multi(["a", "b"]).acquire())
            await soon(lambda: store.in_line(locks.plain._space.name("b")) == 1)
            await cancelled(waiting)
            assert not await locks.lock("a").locked()
            assert store.in_line(locks.plain._space.name("b")) == 0
            assert keeper().leases() == [lease.plain]


class TestLost:
    @on_a_loop
    async def test_callbacks_are_called_on_the_loop(self, lock: AsyncLock) -> None:
        told, loop = list[tuple[str, AsyncLease, LossReason]](), asyncio.get_running_loop()

        def by_function(lease: AsyncLease, reason: LossReason) -> None:
            assert asyncio.get_running_loop() is loop
            told.append(("function", lease, reason))

        async def by_coroutine(lease: AsyncLease, reason: LossReason) -> None:
            await asyncio.sleep(0)
            told.append(("coroutine", lease, reason))

        lease = await lock.acquire()
        for callback in (by_function, by_coroutine):
            lease.on_lost(callback)
        lease.on_lost(lambda *_: told.append(("disconnected", *_)))()
        await lock.force_release()
        await soon(lambda: len(told) == 2)
        assert told == [("function", lease, "force_released"), ("coroutine", lease, "force_released")]
        lease.on_lost(by_function)
        assert told[2:] == [("function", lease, "force_released")]
        with pytest.raises(LockLost):
            lease.check()

    @on_a_loop
    async def test_signals_of_a_loss_run_on_the_loop(self, lock: AsyncLock) -> None:
        told = list[threading.Thread]()
        signals.on_lock_lost.connect(lambda **_: told.append(threading.current_thread()), lock.plain, weak=False)
        await lock.acquire()
        await lock.force_release()
        await soon(lambda: told == [threading.current_thread()])

    @on_a_loop
    async def test_a_callback_that_raises_is_logged(self, lock: AsyncLock, caplog: pytest.LogCaptureFixture) -> None:
        async def fails(lease: AsyncLease, reason: LossReason) -> None:
            raise ValueError("later")

        told = asyncio.Event()
        lease = await lock.acquire()
        lease.on_lost(lambda *_: 1 / 0)
        lease.on_lost(fails)
        lease.on_lost(lambda *_: told.set())
        with caplog.at_level(logging.ERROR):
            await lock.force_release()
            await told.wait()
            await soon(lambda: {"ZeroDivisionError", "ValueError"} == errors(caplog))

    @on_a_loop
    async def test_a_block_ends_with_it(self, lock: AsyncLock) -> None:
        with pytest.raises(LockLost, match="'k'"):
            async with lock as lease:
                await lock.force_release()
                await soon(lambda: lease.lost)
        with pytest.raises(ZeroDivisionError):  # an error of the block's own comes first
            async with lock as lease:
                await lock.force_release()
                await soon(lambda: lease.lost)
                raise ZeroDivisionError

    @on_a_loop
    async def test_a_block_is_aborted(self, aborting: AsyncLock) -> None:
        with pytest.raises(LockLost) as caught:
            async with aborting:
                await aborting.force_release()
                await asyncio.sleep(60)
        assert caught.value.reason == "force_released"
        assert asked_to_end() == 0
        await asyncio.sleep(0)

    @on_a_loop
    async def test_run_and_other_kinds_are_aborted(self, locks: AsyncLocks) -> None:
        terms = {"ttl": 30, "renew": 0.05, "abort": True}
        kinds = [
            locks.lock("k", **terms),
            locks.semaphore("s", 2, **terms),
            locks.read_write("r", **terms).write,
            locks.lockable("o:<id>", **terms)(7),
        ]
        for kind in kinds:
            running = asyncio.ensure_future(kind.run(asyncio.sleep, 60))
            await soon(kind.holders)
            await kind.force_release()
            with pytest.raises(LockLost):
                await running
        with pytest.raises(LockLost) as caught:
            async with locks.multi(["a", "b"], **terms):
                await locks.lock("b").force_release()
                await asyncio.sleep(60)
        assert caught.value.key == "b"
        await soon(lambda: not locks.plain.lock("a").locked())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 can't tell two cancellations apart")
    @on_a_loop
    async def test_a_cancellation_by_others_is_not_taken_for_an_abort(self, aborting: AsyncLock) -> None:
        async def work() -> None:
            async with aborting as lease:
                try:
                    await asyncio.sleep(60)
                finally:
                    await aborting.force_release()
                    await soon(lambda: lease.lost)

        working = asyncio.ensure_future(work())
        await soon(aborting.locked)
        await cancelled(working)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 can't tell two cancellations apart")
    @on_a_loop
    async def test_a_cancellation_during_an_abort_is_one(self, aborting: AsyncLock) -> None:
        async def work() -> None:
            async with aborting:
                try:
                    await asyncio.sleep(60)
                finally:
                    working.cancel()  # when the abort has struck, and before the block has ended

        working = asyncio.ensure_future(work())
        await soon(aborting.locked)
        await aborting.force_release()
        with pytest.raises(asyncio.CancelledError):
            await working

    @on_a_loop
    async def test_a_block_that_swallows_the_abort_ends_with_the_loss(self, aborting: AsyncLock) -> None:
        with pytest.raises(LockLost):
            async with aborting:
                await aborting.force_release()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(60)
        assert asked_to_end() == 0

    @on_a_loop
    async def test_no_abort_hits_what_comes_after_the_block(self, aborting: AsyncLock, store: FaultyStore) -> None:
        for _ in range(50):
            try:
                async with aborting as lease:
                    Locks(store).lock("k").force_release()
                    assert aborting.plain.try_acquire() is not None  # so that a renewal finds another there
                    keeper().tick()
                    assert lease.lost
            except LockLost:
                pass
            await asyncio.sleep(0)
            await aborting.force_release()
        assert asked_to_end() == 0


class TestBlockedLoop:
    @on_a_loop
    async def test_a_lease_is_renewed_meanwhile(self, locks: AsyncLocks) -> None:
        async with locks.lock("k", ttl=0.6, renew=0.1) as lease:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                time.sleep(0.05)  # what blocks the loop is what is tested
            lease.check()

    @on_a_loop
    async def test_a_loss_is_known_immediately_and_reported_afterwards(
        self, locks: AsyncLocks, store: FaultyStore
    ) -> None:
        told = list[str]()
        lease = await locks.lock("k", ttl=30, renew=0.05).acquire()
        lease.on_lost(lambda _, reason: told.append(reason))
        Locks(store).lock("k").force_release()
        until = time.monotonic() + 30
        while lease.held and time.monotonic() < until:
            time.sleep(0.01)
        assert told == []
        with pytest.raises(LockLost):
            lease.check()
        await soon(lambda: told == ["force_released"])

    def test_a_loss_after_the_loop_has_ended_is_logged(self, lock: AsyncLock, caplog: pytest.LogCaptureFixture) -> None:
        async def acquire() -> AsyncLease:
            lease = await lock.acquire()
            lease.on_lost(lambda *_: pytest.fail("there is no loop to be told on"))
            return lease

        lease = asyncio.run(acquire())
        lock.plain.force_release()
        asyncio.run(soon(lambda: lease.plain._loss_reported))
        assert "is not called for a lost lease: its event loop is closed" in caplog.text
        assert "raised" not in caplog.text


def errors(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {record.exc_info[0].__name__ for record in caplog.records if record.exc_info and record.exc_info[0]}
