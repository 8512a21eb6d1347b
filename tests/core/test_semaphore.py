"""`Semaphore`: permits taken, waited for and given back; the rest is `Lock`, and tested there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from celery_locks import (
    LockConfigError,
    LockKeyError,
    LockLost,
    Locks,
    LockTimeout,
    Semaphore,
    StoreUnavailable,
    renewal,
)
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually

Told = list[tuple[str, dict[str, Any]]]
TAKES: list[Callable[..., Any]] = [
    Semaphore.acquire,
    Semaphore.try_acquire,
    lambda semaphore, permits: semaphore.run(pytest.fail, permits=permits),
]


@pytest.fixture
def semaphore(locks: Locks) -> Semaphore:
    return locks.semaphore("k", limit=5)


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_as_many_as_the_limit(semaphore: Semaphore) -> None:
    leases = [semaphore.acquire() for _ in range(5)]
    assert semaphore.try_acquire() is None
    with pytest.raises(LockTimeout):
        semaphore.acquire(timeout=0)
    assert leases[2].release()
    assert semaphore.try_acquire() is not None


def test_permits_are_acquired_and_released_immediately(semaphore: Semaphore) -> None:
    heavy = semaphore.acquire(permits=3)
    assert semaphore.available() == 2
    assert semaphore.try_acquire(permits=3) is None
    assert semaphore.available() == 2, "a refusal took some"
    light = semaphore.try_acquire(permits=2)
    assert light is not None
    assert (semaphore.available(), semaphore.locked()) == (0, True)
    assert heavy.release()
    assert not heavy.release()
    assert (semaphore.available(), semaphore.locked()) == (3, False)


def test_holders_and_force_release_state_the_permits(locks: Locks) -> None:
    semaphore = locks.semaphore("k", limit=5, owner="Anna")
    semaphore.acquire(permits=2)
    lease = semaphore.acquire(permits=3)
    assert [(holder.owner, holder.permits) for holder in semaphore.holders()] == [("Anna", 2), ("Anna", 3)]
    assert len(semaphore.force_release()) == 2
    assert semaphore.available() == 5
    assert not lease.release()
    assert lease.lost


def test_available_counts_more_holders_than_are_named(locks: Locks) -> None:
    semaphore = locks.semaphore("k", limit=1000)
    for _ in range(150):
        semaphore.acquire(permits=2)
    assert semaphore.available() == 700
    assert len(semaphore.holders()) == 100


def test_available_follows_the_deadlines(locks: Locks, clock: MovableClock) -> None:
    semaphore = locks.semaphore("k", limit=5, ttl=10, renew=False)
    semaphore.acquire(permits=4)
    clock.advance(10)
    assert semaphore.available() == 5


@pytest.mark.parametrize("take", TAKES)
def test_more_permits_than_the_limit_states_what_to_do(semaphore: Semaphore, store: FaultyStore, take: Any) -> None:
    with pytest.raises(LockConfigError) as caught:
        take(semaphore, permits=6)
    assert str(caught.value) == (
        "permits=6 is more than limit=5: ask for 5 at most, or make the semaphore 'k' with limit=6 or more"
    )
    assert caught.value.key == "k"
    assert store.calls == []


@pytest.mark.parametrize("take", TAKES)
@pytest.mark.parametrize("permits", [0, -1, 1.0, True, "2", None], ids=repr)
def test_permits_are_whole_numbers(semaphore: Semaphore, take: Any, permits: Any) -> None:
    with pytest.raises(LockConfigError, match="permits must be a whole number of at least 1"):
        take(semaphore, permits=permits)


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "2", None], ids=repr)
def test_limits_are_whole_numbers(locks: Locks, limit: Any) -> None:
    with pytest.raises(LockConfigError, match="limit must be a whole number of at least 1"):
        locks.semaphore("k", limit=limit)


@pytest.mark.parametrize("wrong", [{"ttl": 0}, {"renew": "no"}, {"renew": 20}, {"max_hold": 0}], ids=repr)
def test_wrong_terms_are_refused(locks: Locks, wrong: dict[str, Any]) -> None:
    with pytest.raises(LockConfigError):
        locks.semaphore("k", limit=2, **wrong)


def test_a_semaphore_needs_a_key(locks: Locks) -> None:
    with pytest.raises(LockKeyError):
        locks.semaphore("", limit=2)


def test_each_goes_by_the_limit_it_gave(locks: Locks) -> None:
    wide, narrow = locks.semaphore("k", limit=5), locks.semaphore("k", limit=2)
    leases = [wide.acquire() for _ in range(4)]
    assert narrow.try_acquire() is None
    assert (wide.available(), narrow.available()) == (1, 0), "never below 0"
    for lease in leases[1:]:
        lease.release()
    assert narrow.try_acquire() is not None
    assert narrow.try_acquire() is None
    assert wide.try_acquire() is not None


def test_a_lock_is_a_limit_of_one(locks: Locks, semaphore: Semaphore) -> None:
    lease = semaphore.acquire()
    assert locks.lock("k").try_acquire() is None
    lease.release()
    assert locks.lock("k").try_acquire() is not None
    assert semaphore.available() == 4


def test_a_heavy_waiter_is_not_overtaken() -> None:
    store = FaultyStore()
    semaphore, served = Locks(store).semaphore("k", limit=3), []
    first = semaphore.acquire(permits=2)
    name = Locks(store)._space.name("k")

    def take(permits: int) -> None:
        lease = semaphore.acquire(permits=permits, timeout=10)
        served.append(permits)
        lease.release()

    heavy = in_thread(lambda: take(3))
    eventually(lambda: store.in_line(name) == 1)
    light = in_thread(lambda: take(1))  # one permit is free
    eventually(lambda: store.in_line(name) == 2)
    assert semaphore.try_acquire() is None
    assert (semaphore.available(), served) == (1, [])
    first.release()
    heavy.join(10)
    light.join(10)
    assert served == [3, 1]


def test_with_takes_one_permit_also_nested_and_shared_by_threads(locks: Locks) -> None:
    semaphore = locks.semaphore("k", limit=100)
    start, wrong = threading.Barrier(4), []

    def nest() -> None:
        start.wait()
        for _ in range(20):
            with semaphore as outer, semaphore as inner:
                if outer.token == inner.token or not (outer.held and inner.held):
                    wrong.append(outer)
            if outer.held or inner.held:
                wrong.append(outer)

    threads = [in_thread(nest) for _ in range(4)]
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert semaphore.available() == 100


def test_with_raises_when_the_lease_was_lost(semaphore: Semaphore, clock: MovableClock) -> None:
    with pytest.raises(LockLost), semaphore:
        clock.advance(30)


def test_run_holds_its_permits_and_returns_what_the_function_returns(semaphore: Semaphore) -> None:
    assert semaphore.run(lambda a, b: (a, b, semaphore.available()), 1, b=2, permits=3) == (1, 2, 2)
    assert semaphore.available() == 5
    semaphore.acquire(permits=3)
    with pytest.raises(LockTimeout):
        semaphore.run(pytest.fail, permits=3, timeout=timedelta(0))


def test_promise_23_a_lost_reply_is_not_acquired_and_its_permits_are_released(
    semaphore: Semaphore, store: FaultyStore
) -> None:
    store.after["acquire"] = fail
    for take in (semaphore.acquire, semaphore.try_acquire):
        with pytest.raises(StoreUnavailable):
            take(permits=5)
    store.come_back()
    eventually(lambda: semaphore.available() == 5, timeout=5)


def test_a_store_that_is_away_is_reported(semaphore: Semaphore, store: FaultyStore) -> None:
    store.go_down()
    for ask in (semaphore.acquire, semaphore.try_acquire, semaphore.available, semaphore.locked, semaphore.holders):
        with pytest.raises(StoreUnavailable):
            ask()


def test_leases_are_renewed(semaphore: Semaphore, clock: MovableClock) -> None:
    lease = semaphore.acquire(permits=2)
    for _ in range(6):
        clock.advance(10)
        renewal.keeper().tick()
    assert lease.held
    assert semaphore.available() == 3


def test_max_hold_ends_the_holding(locks: Locks, clock: MovableClock) -> None:
    lease = locks.semaphore("k", limit=2, ttl=10, max_hold=4).acquire()
    clock.advance(4)
    assert lease.lost_reason == "max_hold"


def test_a_lease_of_several_permits_is_restored_whole(locks: Locks, semaphore: Semaphore) -> None:
    restored = locks.restore(semaphore.acquire(permits=3).serialize())
    assert (restored._claim.limit, restored._claim.permits) == (5, 3)
    assert restored.release()
    assert semaphore.available() == 5


def test_signals_name_the_semaphore(semaphore: Semaphore, told: Told) -> None:
    semaphore.acquire(permits=5).release()
    semaphore.acquire(permits=5)
    assert semaphore.try_acquire(permits=2) is None
    assert [name for name, _ in told] == ["acquired", "released", "acquired", "contended"]
    assert {named["sender"] for _, named in told} == {semaphore}


def test_its_text_names_key_and_limit(semaphore: Semaphore) -> None:
    assert repr(semaphore) == "<Semaphore 'k' of 5 at FaultyStore>"
