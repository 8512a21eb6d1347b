"""`AsyncLocks`: the same leases for coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback

import pytest

from celery_locks import LockConfigError, Locks, LockTimeout, Outcome, StoreUnavailable, audit
from celery_locks.aio import AsyncLock, AsyncLockable, AsyncLocks
from celery_locks.errors import LockKeyError, LockNotOwned
from celery_locks.renewal import keeper
from tests.support.faulty_store import FaultyStore, fail
from tests.support.loop import on_a_loop, soon


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def locks(store: FaultyStore) -> AsyncLocks:
    return AsyncLocks(store)


@pytest.fixture
def lock(locks: AsyncLocks) -> AsyncLock:
    return locks.lock("k", ttl=30)


class TestOneKey:
    @on_a_loop
    async def test_it_is_held_for_a_block(self, locks: AsyncLocks, lock: AsyncLock) -> None:
        async with lock as lease:
            lease.check()
            assert lease.held
            assert not lease.lost
            assert lease.lost_reason is None
            assert 29 < lease.remaining() <= 30
            assert (lease.key, lease.ttl, lease.token) == ("k", 30, lease.plain.token)
            await lease.extend(60)
            assert lease.remaining() > 59
            assert await lock.locked()
            assert [holder.fencing_token for holder in await lock.holders()] == [lease.fencing_token]
            assert await lock.try_acquire() is None
        assert not await lock.locked()
        assert await lease.release() is False
        assert keeper().leases() == []

    @on_a_loop
    async def test_coroutines_and_threads_exclude_each_other(self, store: FaultyStore, lock: AsyncLock) -> None:
        plain = Locks(store).lock("k")
        with plain:
            assert await lock.try_acquire() is None
            waiting = asyncio.ensure_future(lock.acquire())
            await soon(lambda: store.in_line(plain._name) == 1)
        lease = await waiting
        assert plain.try_acquire() is None
        assert await lease.release()
        assert plain.try_acquire() is not None

    @on_a_loop
    async def test_many_are_in_one_after_the_other(self, locks: AsyncLocks) -> None:
        lock, inside, most, entered = locks.lock("k"), 0, 0, 0

        async def enter() -> None:
            nonlocal inside, most, entered
            async with lock:
                inside, entered = inside + 1, entered + 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(enter() for _ in range(50)))
        assert (most, entered) == (1, 50)
        assert keeper().leases() == []

    @on_a_loop
    async def test_a_timeout_leaves_the_line(self, store: FaultyStore, lock: AsyncLock) -> None:
        async with lock as lease:
            for timeout in (0, 0.05):
                with pytest.raises(LockTimeout) as caught:
                    await lock.acquire(timeout=timeout)
                assert caught.value.holders == [lease.owner]
            assert store.in_line(lock.plain._name) == 0
            assert await lock.wait(timeout=0.01) is False
        assert await lock.wait() is True

    @on_a_loop
    async def test_run_takes_functions_and_coroutine_functions(self, lock: AsyncLock) -> None:
        async def held(*args: int, key: int) -> tuple[bool, int]:
            return await lock.locked(), sum(args) + key

        assert await lock.run(held, 1, 2, key=3) == (True, 6)
        assert await lock.run(lambda value: value + 1, 2, timeout=1) == 3
        with pytest.raises(ZeroDivisionError):
            await lock.run(lambda: 1 / 0)
        assert not await lock.locked()

    @on_a_loop
    async def test_force_release(self, lock: AsyncLock) -> None:
        lease = await lock.acquire()
        assert [holder.owner for holder in await lock.force_release()] == [lease.owner]
        assert await lease.release() is False
        assert lease.lost_reason == "force_released"

    @on_a_loop
    async def test_a_block_may_be_left_by_another_task(self, lock: AsyncLock) -> None:
        await asyncio.ensure_future(lock.__aenter__())
        assert await lock.locked()
        await asyncio.ensure_future(lock.__aexit__(None, None, None))
        assert not await lock.locked()

    @on_a_loop
    async def test_a_store_that_is_away_is_not_acquired(self, store: FaultyStore, lock: AsyncLock) -> None:
        store.after["acquire"] = fail  # granted, and nobody knows
        for attempt in (lock.acquire, lock.try_acquire, lock.enqueue):
            with pytest.raises(StoreUnavailable):
                await attempt()
        store.come_back()
        await soon(lambda: not lock.plain.locked(), message="what was granted is given back")
        assert keeper().leases() == []

    @on_a_loop
    async def test_a_store_that_goes_away_ends_the_waiting(self, store: FaultyStore, lock: AsyncLock) -> None:
        await lock.acquire()
        waiting = [asyncio.ensure_future(lock.acquire()) for _ in range(3)]
        await soon(lambda: store.in_line(lock.plain._name) == 3)
        store.before["wait"] = fail
        await lock.force_release()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        assert len({id(error) for error in errors}) == len(errors) >= 1
        store.come_back()
        for answer in answers:
            if not isinstance(answer, BaseException):
                await answer.release()
        await soon(lambda: store.in_line(lock.plain._name) == 0)


class TestTickets:
    @on_a_loop
    async def test_line_up_first_and_wait_later(self, lock: AsyncLock) -> None:
        lease = await lock.acquire()
        first, second = await lock.enqueue(), await lock.enqueue()
        assert (first.acquired, first.lease) == (False, None)
        assert [await first.position(), await second.position()] == [0, 1]
        with pytest.raises(LockTimeout):
            await first.wait(timeout=0.01)
        assert await lease.release()
        mine = await first.wait(timeout=30)
        assert first.acquired
        assert mine is first.lease
        assert await first.position() is None
        assert await second.position() == 0
        assert await first.cancel() is True
        assert await second.cancel() is True
        assert await second.cancel() is False
        with pytest.raises(LockNotOwned):
            await second.wait()

    @on_a_loop
    async def test_a_wake_up_between_two_waits_is_not_lost(self, locks: AsyncLocks) -> None:
        lock = locks.lock("k", ttl=300)  # without the wake-up it would look again after 100 s
        lease, ticket = await lock.acquire(), await lock.enqueue()
        with pytest.raises(LockTimeout):
            await ticket.wait(timeout=0.01)
        # Its place is still waited for by a thread, which now takes the wake-up.
        waiting = asyncio.ensure_future(ticket.wait(timeout=60))
        await asyncio.sleep(0)
        await lease.release()
        assert await (await waiting).release()


class TestOtherKinds:
    @on_a_loop
    async def test_a_semaphore(self, locks: AsyncLocks) -> None:
        smtp = locks.semaphore("smtp", limit=3)
        assert await smtp.available() == 3
        async with smtp as one:
            assert await smtp.available() == 2
            two = await smtp.acquire(permits=2, timeout=5)
            assert await smtp.locked()
            assert await smtp.try_acquire() is None
            assert len(await smtp.holders()) == 2
            assert await smtp.wait(timeout=0.01) is False
            ticket = await smtp.enqueue(permits=3)
            assert await ticket.position() == 0
            await two.release()
        assert not one.held
        await (await ticket.wait(timeout=30)).release()
        assert await smtp.run(lambda: smtp.plain.available(), permits=3) == 0
        with pytest.raises(LockConfigError):
            await smtp.acquire(permits=4)
        await smtp.acquire()
        assert len(await smtp.force_release()) == 1

    @on_a_loop
    async def test_readers_and_writers(self, locks: AsyncLocks) -> None:
        report = locks.read_write("report:7")
        async with report.read, report.read:
            assert await report.write.try_acquire() is None
        async with report.write:
            assert await report.read.try_acquire() is None

    @on_a_loop
    async def test_several_keys(self, locks: AsyncLocks) -> None:
        both = locks.multi(["b", "a"])
        async with both as leases:
            assert [lease.key for lease in leases.leases] == ["a", "b"]
            leases.check()
            await leases.extend(60)
            assert leases.remaining() > 59
            assert await both.try_acquire() is None
            assert await locks.lock("a").locked()
        assert not leases.held
        assert await both.run(lambda: 7, timeout=5) == 7
        async with locks.lock("b"):
            told = list[Outcome]()
            stop = audit(told.append)
            assert await both.try_acquire() is None
            with pytest.raises(LockTimeout) as caught:
                await both.acquire(timeout=0.01)
            stop()
            assert caught.value.key == "b"
            assert [outcome.key for outcome in told if outcome.kind == "timed_out"] == ["b"]
            assert not await locks.lock("a").locked()
            waiting = asyncio.ensure_future(both.acquire())
        async with await waiting as leases:
            assert leases.held
        assert not await locks.lock("a").locked()

    @on_a_loop
    async def test_several_keys_in_any_order_by_many(self, locks: AsyncLocks) -> None:
        done = list[int]()

        async def work(number: int) -> None:
            keys = ["a", "b", "c"][number % 3 :] + ["a", "b", "c"][: number % 3]
            async with locks.multi(keys[:2]):
                done.append(number)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert sorted(done) == list(range(20))

    @on_a_loop
    async def test_declared_locks(self, locks: AsyncLocks) -> None:
        order = locks.lockable("order:<order_id>", ttl=60)
        assert isinstance(order, AsyncLockable)
        assert order.key(order_id=7) == "order:7"
        async with order(7) as lease:
            assert (lease.key, lease.ttl) == ("order:7", 60)

    @on_a_loop
    async def test_a_value_is_kept(self, locks: AsyncLocks) -> None:
        async with locks.lock("import") as lease:
            assert await lease.value() is None
            lease.update({"page": 1})
            assert await lease.value() == {"page": 1}
            assert await locks.value("import") is None
        assert await locks.value("import") == {"page": 1}
        assert await locks.delete("import") is True
        assert await locks.delete("import") is False

    @on_a_loop
    async def test_what_is_held(self, locks: AsyncLocks) -> None:
        async with locks.lock("user:7", owner="me"):
            assert [item.key for item in (await locks.list(prefix="user:")).items] == ["user:7"]
            assert (await locks.info("user:7")).holders[0].owner == "me"
            assert (await locks.stats()).locks == 1

    @on_a_loop
    async def test_a_lease_is_restored(self, locks: AsyncLocks, lock: AsyncLock) -> None:
        lease = await lock.acquire()
        other = await locks.restore(lease.serialize())
        assert other.token == lease.token
        assert await other.release()
        with pytest.raises(LockNotOwned):
            await locks.restore(lease.serialize())

    @on_a_loop
    async def test_locks_are_made_as_those_of_threads(self, store: FaultyStore) -> None:
        plain = Locks(store, prefix="mine", owner="me")
        async with AsyncLocks(plain) as locks:
            assert locks.plain is plain
            assert (locks.prefix, locks.store) == ("mine", store)
            async with locks.lock("k", ttl=5) as lease:
                assert lease.owner == "me"
        for wrong in (lambda: locks.lock("k", ttl=0), lambda: locks.multi([]), lambda: AsyncLocks("nothing://")):
            with pytest.raises(LockConfigError):
                wrong()
        with pytest.raises(LockKeyError):
            locks.lock("")


class TestLoops:
    def test_several_loops_in_several_threads(self, locks: AsyncLocks) -> None:
        lock, inside, seen = locks.lock("k"), list[int](), list[int]()

        async def work() -> None:
            async with lock:
                inside.append(1)
                seen.append(len(inside))
                await asyncio.sleep(0)
                inside.pop()

        async def several() -> None:
            await asyncio.wait_for(asyncio.gather(*(work() for _ in range(5))), 60)

        threads = [threading.Thread(target=asyncio.run, args=(several(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert seen == [1] * 20

    def test_one_loop_after_the_other(self, lock: AsyncLock) -> None:
        async def wait() -> None:
            async with lock:
                with pytest.raises(LockTimeout):
                    await lock.acquire(timeout=0.02)

        for _ in range(3):
            asyncio.run(asyncio.wait_for(wait(), 60))

    def test_a_loop_that_ends_releases_what_its_tasks_waited_for(self, store: FaultyStore, lock: AsyncLock) -> None:
        async def leave_one_waiting() -> None:
            lease = await lock.acquire()
            waiting = asyncio.ensure_future(lock.acquire())
            await soon(lambda: store.in_line(lock.plain._name) == 1)
            await lease.release()
            assert not waiting.cancelled()

        asyncio.run(leave_one_waiting())
        asyncio.run(asyncio.wait_for(soon(lambda: not lock.plain.locked()), 60))
        assert store.in_line(lock.plain._name) == 0
        assert keeper().leases() == []

    def test_a_forked_child_has_threads_of_its_own(self, locks: AsyncLocks) -> None:
        async def use(key: str) -> None:
            async with locks.lock(key) as lease:
                with pytest.raises(LockTimeout):
                    await locks.lock(key).acquire(timeout=0.02)
                lease.check()

        asyncio.run(asyncio.wait_for(use("parent"), 60))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(asyncio.wait_for(use("child"), 60))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(asyncio.wait_for(use("parent"), 60))
