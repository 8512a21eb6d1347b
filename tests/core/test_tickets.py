"""Two phases: a place in line first, the lease later; and waiting without acquiring."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from celery_locks import Lock, LockContended, LockNotOwned, Locks, LockTimeout, StoreUnavailable
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually


def test_a_free_key_is_acquired_immediately(lock: Lock) -> None:
    ticket = lock.enqueue()
    assert ticket.acquired
    assert ticket.position is None
    lease = ticket.wait(timeout=0)
    assert lease is ticket.lease
    assert lease.held
    assert ticket.cancel() is True
    assert not lease.held
    assert ticket.cancel() is False


def test_places_are_served_in_their_order(lock: Lock, store: FaultyStore) -> None:
    holder = lock.acquire()
    first, second = lock.enqueue(), lock.enqueue()
    assert [first.acquired, second.acquired] == [False, False]
    assert [first.position, second.position] == [0, 1]
    with pytest.raises(LockTimeout) as caught:
        first.wait(timeout=0)
    assert caught.value.holders == [holder.owner]
    assert first.position == 0, "it lost its place"
    holder.release()
    assert second.position == 1
    assert lock.try_acquire() is None, "somebody got in between"
    assert first.position is None
    assert first.acquired
    assert first.wait().release()
    assert second.wait().release()
    assert store.in_line(lock._name) == 0


def test_a_ticket_is_woken(lock: Lock) -> None:
    holder, ticket = lock.acquire(), lock.enqueue()
    thread = threading.Thread(target=ticket.wait)
    thread.start()
    holder.release()
    thread.join(30)
    assert ticket.acquired


def test_a_cancelled_ticket_leaves_the_line(lock: Lock, store: FaultyStore) -> None:
    holder = lock.acquire()
    first, second = lock.enqueue(), lock.enqueue()
    assert first.cancel() is True
    assert first.cancel() is False
    for use in (first.wait, lambda: first.position):
        with pytest.raises(LockNotOwned, match="cancelled"):
            use()
    assert store.in_line(lock._name) == 1
    holder.release()
    assert second.position is None


def test_a_place_is_kept_for_the_ttl(locks: Locks, clock: MovableClock) -> None:
    lock = locks.lock("k", ttl=60, renew=False)
    holder, ticket = lock.acquire(), lock.enqueue()
    other = lock.enqueue()
    clock.advance(59)
    assert ticket.position == 0
    clock.advance(2)  # of these two, the other did not look again
    assert ticket.position is None
    assert other.position == 0
    assert not holder.held


def test_a_grant_whose_reply_is_lost_is_found_by_the_next_look(lock: Lock, store: FaultyStore) -> None:
    holder, ticket = lock.acquire(), lock.enqueue()
    holder.release()
    store.after["acquire"] = fail
    with pytest.raises(StoreUnavailable):
        ticket.wait(timeout=0)
    store.come_back()
    assert len(lock.holders()) == 1
    assert ticket.position is None
    assert ticket.wait().token == lock.holders()[0].token


def test_a_ticket_cancelled_after_a_lost_reply_releases_its_lease(lock: Lock, store: FaultyStore) -> None:
    holder, ticket = lock.acquire(), lock.enqueue()
    holder.release()
    store.after["acquire"] = fail
    with pytest.raises(StoreUnavailable):
        ticket.wait(timeout=0)
    store.come_back()
    assert ticket.cancel()
    assert not lock.locked()


@pytest.mark.parametrize("side", ["before", "after"])
def test_an_enqueue_that_failed_leaves_nothing(lock: Lock, store: FaultyStore, side: str) -> None:
    getattr(store, side)["acquire"] = fail
    with pytest.raises(StoreUnavailable):
        lock.enqueue()
    store.come_back()
    eventually(lambda: not lock.locked() and not store.in_line(lock._name), 30)


def test_waiting_acquires_nothing(lock: Lock, store: FaultyStore, told: list[tuple[str, object]]) -> None:
    assert lock.wait() is True
    assert not lock.locked()
    with lock:
        told.clear()
        assert lock.wait(timeout=0) is False
        assert store.in_line(lock._name) == 0
    assert [name for name, _ in told] == ["released"]


def test_waiting_ends_with_the_release_and_excludes_no_other(lock: Lock, store: FaultyStore) -> None:
    def late(wait: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    holder, answers = lock.acquire(), list[bool]()
    thread = late(lambda: answers.append(lock.wait(timeout=60)))
    eventually(lambda: store.in_line(lock._name) == 1, 30)
    granted = late(lambda: lock.acquire(timeout=60))
    eventually(lambda: store.in_line(lock._name) == 2, 30)
    holder.release()
    thread.join(30)
    granted.join(30)
    assert answers == [True]
    assert lock.locked(), "who stood behind it was not called"


def test_waiting_for_permits(locks: Locks) -> None:
    smtp = locks.semaphore("smtp", limit=3)
    lease = smtp.acquire(permits=2)
    assert smtp.wait(permits=1, timeout=0)
    assert not smtp.wait(permits=2, timeout=0)
    assert smtp.available() == 1
    ticket = smtp.enqueue(permits=2)
    assert not ticket.acquired
    lease.release()
    assert ticket.wait(timeout=10)._claim.permits == 2


def test_a_wait_that_fails_leaves_nothing(lock: Lock, store: FaultyStore) -> None:
    store.after["acquire"] = fail
    with pytest.raises(StoreUnavailable):
        lock.wait()
    store.come_back()
    eventually(lambda: not lock.locked(), 30)


def test_a_timeout_is_reported(lock: Lock) -> None:
    from celery_locks import signals

    told = list[object]()
    signals.on_lock_timed_out.connect(lambda sender, key, holders, **_: told.append((sender, key, holders)), weak=False)
    with lock as lease:
        with pytest.raises(LockContended):
            lock.acquire(timeout=0)
        with pytest.raises(LockContended):
            lock.enqueue().wait(timeout=0)
    assert told == [(lock, "k", [lease.owner])] * 2


def test_promise_40_a_wait_that_was_interrupted_gives_up_its_token(lock: Lock, store: FaultyStore) -> None:
    holder, ticket = lock.acquire(), lock.enqueue()
    token = ticket._claim.token
    store.before["acquire"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        ticket.wait(timeout=60)
    store.before.clear()
    assert ticket._claim.token != token, "what is still to release the old one would release the next lease"
    holder.release()
    lease = ticket.wait(timeout=60)
    eventually(lambda: store.calls.count("release") >= 2, 30, "the old token is released in the background")
    assert [each.token for each in store.holders(lock._name)] == [lease.token]


def interrupt() -> None:
    raise KeyboardInterrupt
