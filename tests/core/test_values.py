"""A value that is kept with a key, and written by who holds it when it lets go."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_locks import Lock, LockConfigError, LockLost, Locks, StoreUnavailable
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
def test_what_is_no_json_is_refused_at_once(lock: Lock, value: object) -> None:
    with lock as lease, pytest.raises(LockConfigError, match="must be JSON"):
        lease.update(value)


def test_keep_is_checked(lock: Lock) -> None:
    with lock as lease:
        for keep in (0, -1, "1", float("inf")):
            with pytest.raises(LockConfigError, match="keep must be"):
                lease.update(1, keep=keep)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["write", "release"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_release_that_failed_writes_when_it_is_repeated(
    locks: Locks, lock: Lock, store: FaultyStore, side: str, method: str
) -> None:
    lease = lock.acquire()
    lease.update("v")
    getattr(store, side)[method] = fail
    with pytest.raises(StoreUnavailable):
        lease.release()
    store.come_back()
    lease.release()
    assert locks.value("k") == "v"
    assert not lock.locked()


def test_a_release_in_the_background_writes_too(locks: Locks, lock: Lock, store: FaultyStore) -> None:
    with lock as lease:
        lease.update("v")
        store.before["write"] = fail
    store.come_back()
    eventually(lambda: not lock.locked(), 30)
    assert locks.value("k") == "v"


def test_a_store_without_values_says_so_at_the_update(clock: MovableClock) -> None:
    class Bare(FaultyStore):
        values = False

    with (
        Locks(Bare(clock), clock=clock).lock("k") as lease,
        pytest.raises(LockConfigError, match="Bare has none"),
    ):
        lease.update(1)
