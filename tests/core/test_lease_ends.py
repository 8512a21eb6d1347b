"""Other ways to end a lease than its release: it is abandoned, or a part of its permits is released."""

from __future__ import annotations

import asyncio

import pytest

from celery_locks import Lock, LockConfigError, LockLost, Locks, StoreUnavailable, renewal
from celery_locks.aio import AsyncLocks
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail


class TestAbandon:
    def test_the_key_is_taken_until_the_ttl_ends(self, lock: Lock, clock: MovableClock) -> None:
        lease = lock.acquire()
        clock.advance(10)
        assert lease.abandon() is True
        assert (lease.held, lease.lost, lease.lost_reason, lease.remaining()) == (False, False, None, 0)
        clock.advance(19)
        renewal.keeper().tick()
        assert lock.try_acquire() is None
        clock.advance(1)
        assert lock.try_acquire() is not None
        assert not lease.lost

    def test_nothing_ends_it_twice(self, lock: Lock, store: FaultyStore) -> None:
        lease = lock.acquire()
        lease.abandon()
        store.calls.clear()
        assert lease.abandon() is False
        assert lease.release() is False
        assert store.calls == []
        with pytest.raises(LockLost, match="was abandoned"):
            lease.check()
        with pytest.raises(LockLost, match="was abandoned"):
            lease.extend()

    def test_what_is_no_longer_held_can_not_be_abandoned(self, lock: Lock, clock: MovableClock) -> None:
        lease = lock.acquire()
        lease.release()
        assert lease.abandon() is False
        lease = lock.acquire()
        clock.advance(30)
        assert lease.abandon() is False
        assert lease.lost

    def test_no_value_is_written_and_no_callback_called(self, locks: Locks, lock: Lock, clock: MovableClock) -> None:
        told = list[str]()
        with lock as lease:
            lease.update("v")
            lease.on_lost(lambda lease, reason: told.append(reason))
            lease.abandon()
        clock.advance(31)
        renewal.keeper().tick()
        assert (locks.value("k"), told) == (None, [])

    def test_it_is_not_watched_any_more(self, lock: Lock) -> None:
        lease = lock.acquire()
        lease.abandon()
        assert renewal.keeper().leases() == []

    def test_several_keys(self, locks: Locks) -> None:
        with locks.multi(["a", "b"]) as leases:
            assert leases.abandon() is True
            assert (leases.held, leases.lost, leases.abandon()) == (False, False, False)
        assert [locks.lock(key).locked() for key in "ab"] == [True, True]

    def test_coroutines(self) -> None:
        async def main() -> None:
            lock = AsyncLocks("memory://abandon").lock("k", ttl=0.2)
            async with lock as lease:
                assert lease.abandon() is True
                assert not lease.held
            assert await lock.locked()
            async with await lock.acquire(timeout=5):
                pass

        asyncio.run(main())


class TestSomePermits:
    def test_promise_35_a_later_release_of_fewer_takes_none_back(self) -> None:
        store = FaultyStore()
        lease = Locks(store).semaphore("k", limit=5).acquire(permits=5)
        store.after["shrink"] = fail
        with pytest.raises(StoreUnavailable):
            lease.release(permits=2)
        store.come_back()
        assert lease.permits == 3
        assert lease.release(permits=1)
        assert (lease.permits, store.held(lease._claim.name)) == (3, 3)

    def test_the_rest_is_held(self, locks: Locks) -> None:
        smtp = locks.semaphore("smtp", limit=5)
        lease = smtp.acquire(permits=4)
        assert lease.permits == 4
        assert lease.release(permits=1) is True
        assert (lease.permits, lease.held, smtp.available()) == (3, True, 2)
        lease.extend()
        assert lease.release(permits=3) is True
        assert (lease.held, smtp.available()) == (False, 5)
        assert lease.release(permits=1) is False

    def test_all_are_the_whole(self, lock: Lock) -> None:
        lease = lock.acquire()
        assert lease.release(permits=1) is True
        assert not lock.locked()

    def test_the_next_in_line_gets_them(self, locks: Locks) -> None:
        smtp = locks.semaphore("smtp", limit=3)
        lease = smtp.acquire(permits=3)
        ticket = smtp.enqueue(permits=2)
        lease.release(permits=1)
        assert ticket.position == 0
        lease.release(permits=1)
        assert ticket.position is None
        assert lease.held

    @pytest.mark.parametrize("permits", [0, -1, 1.0, True, "1"])
    def test_other_numbers_are_refused(self, locks: Locks, permits: int) -> None:
        lease = locks.semaphore("smtp", limit=3).acquire(permits=2)
        with pytest.raises(LockConfigError, match="permits"):
            lease.release(permits=permits)
        assert (lease.held, lease.permits) == (True, 2)

    def test_more_than_it_has_are_refused(self, locks: Locks) -> None:
        lease = locks.semaphore("smtp", limit=3).acquire(permits=2)
        with pytest.raises(LockConfigError, match="permits=3 is more than the lease of 'smtp' has: release 2 at most"):
            lease.release(permits=3)
        assert lease.held

    @pytest.mark.parametrize("side", ["before", "after"])
    def test_promise_35_a_lost_reply_is_no_loss_and_may_be_repeated(
        self, locks: Locks, store: FaultyStore, side: str
    ) -> None:
        smtp = locks.semaphore("smtp", limit=5)
        lease = smtp.acquire(permits=4)
        getattr(store, side)["shrink"] = fail
        with pytest.raises(StoreUnavailable):
            lease.release(permits=1)
        store.come_back()
        assert lease.held
        assert lease.release(permits=1) is True
        assert (lease.permits, smtp.available()) == (3, 2)

    def test_a_lease_that_was_lost_releases_none(self, locks: Locks) -> None:
        smtp = locks.semaphore("smtp", limit=5)
        lease = smtp.acquire(permits=4)
        smtp.force_release()
        assert lease.release(permits=1) is False
        assert lease.lost_reason == "force_released"

    def test_an_interrupt_leaves_the_lease_held(self, locks: Locks, store: FaultyStore) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        lease = locks.semaphore("smtp", limit=5).acquire(permits=4)
        store.before["shrink"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            lease.release(permits=1)
        renewal.keeper().tick()
        assert lease.held

    def test_coroutines(self) -> None:
        async def main() -> None:
            smtp = AsyncLocks("memory://permits").semaphore("smtp", limit=5)
            lease = await smtp.acquire(permits=4)
            assert await lease.release(permits=1) is True
            assert (lease.permits, await smtp.available()) == (3, 2)
            assert await lease.release() is True

        asyncio.run(main())
