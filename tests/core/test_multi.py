"""Several keys, all or none; readers and writers."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from celery_locks import (
    LockConfigError,
    LockKeyError,
    LockLost,
    Locks,
    LockTimeout,
    Outcome,
    StoreUnavailable,
    audit,
    multi,
)
from celery_locks.multi import MultiLock
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually


@pytest.fixture
def both(locks: Locks) -> MultiLock:
    return locks.multi(["b", "a"], ttl=30)


def held(locks: Locks, *keys: str) -> list[bool]:
    return [locks.lock(key).locked() for key in keys]


class TestMulti:
    def test_all_are_acquired_and_released(self, locks: Locks, both: MultiLock) -> None:
        assert both.keys == ("a", "b")
        with both as leases:
            assert held(locks, "a", "b") == [True, True]
            assert [lease.key for lease in leases.leases] == ["a", "b"]
            assert leases.held
            assert leases.remaining() == pytest.approx(30)
            leases.check()
            leases.extend(60)
            assert leases.remaining() == pytest.approx(60)
        assert held(locks, "a", "b") == [False, False]
        assert not leases.held
        assert not leases.lost
        assert leases.release() is False
        with pytest.raises(LockLost, match="released"):
            leases.check()
        assert both.run(lambda value: value + 1, 2, timeout=1) == 3

    @pytest.mark.parametrize("taken", ["a", "b"])
    def test_none_is_acquired_when_one_is_not(
        self, locks: Locks, both: MultiLock, store: FaultyStore, taken: str
    ) -> None:
        told = list[Outcome]()
        with locks.lock(taken):
            stop = audit(told.append)
            assert both.try_acquire() is None
            with pytest.raises(LockTimeout) as caught:
                both.acquire(timeout=0)
            assert caught.value.key == taken
            stop()
            assert [outcome.key for outcome in told if outcome.kind == "timed_out"] == [taken]
            assert sorted(held(locks, "a", "b")) == [False, True]
            assert store.in_line(locks._space.name("a")) == store.in_line(locks._space.name("b")) == 0
        assert both.try_acquire() is not None

    def test_a_timeout_is_reported_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(multi, "PATIENCE_SECONDS", 0.01)  # so it gives up the first key before the time is over
        locks = Locks("memory://")
        told = list[Outcome]()
        with locks.lock("b"):
            stop = audit(told.append)
            with pytest.raises(LockTimeout):
                locks.multi(["a", "b"]).acquire(timeout=0.1)
            stop()
        assert [outcome.key for outcome in told if outcome.kind == "released"] == ["a"]
        assert [outcome.key for outcome in told if outcome.kind == "timed_out"] == ["b"]

    def test_losing_one_loses_all(self, locks: Locks, both: MultiLock) -> None:
        told = list[tuple[str, str]]()
        leases = both.acquire()
        leases.on_lost(lambda whole, lease, reason: told.append((lease.key, reason)))
        forget = leases.on_lost(lambda *_: told.append(("forgotten", "")))
        forget()
        locks.lock("b").force_release()
        with pytest.raises(LockLost):
            leases.extend()
        assert told == [("b", "force_released")]
        assert leases.lost
        assert not leases.held
        assert leases.lost_reason == "force_released"
        assert leases.remaining() == 0
        with pytest.raises(LockLost) as caught:
            leases.check()
        assert caught.value.key == "b"
        eventually(lambda: held(locks, "a") == [False], 30)
        leases.on_lost(lambda whole, lease, reason: told.append(("late", reason)))
        assert told[1:] == [("late", "force_released")]
        assert leases.release() is False

    def test_a_loss_within_is_reported_at_the_end(self, locks: Locks, both: MultiLock) -> None:
        def body(error: Exception | None) -> None:
            with both as leases:
                locks.lock("a").force_release()
                with pytest.raises(LockLost):
                    leases.extend()
                if error:
                    raise error

        with pytest.raises(LockLost) as caught:
            body(None)
        assert caught.value.key == "a"
        with pytest.raises(ZeroDivisionError):  # an error of the body is not hidden
            body(ZeroDivisionError())

    def test_a_deadline_that_passes_loses_all(self, locks: Locks, clock: MovableClock) -> None:
        leases = locks.multi(["a", "b"], ttl=30, renew=False).acquire()
        clock.advance(31)
        assert leases.lost
        assert leases.lost_reason == "expired"
        assert leases.release() is False

    def test_a_store_that_fails_midway_leaves_nothing(self, locks: Locks, both: MultiLock, store: FaultyStore) -> None:
        lease = locks.lock("b").acquire()
        store.before["wait"] = fail
        with pytest.raises(StoreUnavailable):
            both.acquire()
        store.come_back()
        lease.release()
        eventually(lambda: held(locks, "a", "b") == [False, False], 30)

    def test_a_release_that_failed_may_be_repeated(self, locks: Locks, both: MultiLock, store: FaultyStore) -> None:
        leases = both.acquire()
        store.before["release"] = fail
        with pytest.raises(StoreUnavailable):
            leases.release()
        store.come_back()
        assert not leases.held
        assert leases.release() is True
        assert held(locks, "a", "b") == [False, False]

    def test_what_is_no_list_of_keys(self, locks: Locks) -> None:
        with pytest.raises(LockConfigError, match=r"multi\(\['ab'\]\)"):
            locks.multi("ab")
        with pytest.raises(LockConfigError, match="at least one key"):
            locks.multi([])
        with pytest.raises(LockKeyError):
            locks.multi(["a", ""])
        assert locks.multi(["a", "b", "a"]).keys == ("a", "b")


@pytest.mark.slow
def test_no_order_of_keys_deadlocks(tmp_path: Path) -> None:
    """Philosophers who take what they like, and some who take two keys one after the other, in the wrong order."""
    locks, inside, most = Locks(f"sqlite:///{tmp_path}/locks.db"), dict.fromkeys("abcd", 0), list[int]()
    guard = threading.Lock()

    def use(keys: list[str]) -> None:
        with guard:
            for key in keys:
                inside[key] += 1
            most.append(max(inside.values()))
        with guard:
            for key in keys:
                inside[key] -= 1

    def philosopher(number: int) -> None:
        mine = random.Random(number)
        for _ in range(4):
            keys = mine.sample("abcd", 3 if number else 4)
            with locks.multi(keys, ttl=20):
                use(keys)

    def one_by_one(_: int) -> None:
        for _ in range(2):
            with locks.lock("d", ttl=20), locks.lock("a", ttl=20):  # against the order of the others
                use(["d", "a"])

    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(work, n) for n, work in enumerate([*[philosopher] * 4, one_by_one])]:
            future.result(timeout=100)
    assert max(most) == 1
    assert locks.list().items == ()


class TestReadWrite:
    def test_many_read_and_one_writes(self, locks: Locks) -> None:
        report = locks.read_write("report")
        readers = [report.read.acquire() for _ in range(3)]
        assert report.write.try_acquire() is None
        for reader in readers:
            reader.release()
        with report.write:
            assert report.read.try_acquire() is None
            assert report.write.try_acquire() is None
        assert report.read.run(lambda: "read", timeout=0) == "read"

    def test_readers_do_not_starve_a_writer_nor_writers_a_reader(self, locks: Locks) -> None:
        report = locks.read_write("report")
        reader = report.read.acquire()
        writer, late, second = report.write.enqueue(), report.read.enqueue(), report.write.enqueue()
        assert [writer.position, late.position, second.position] == [0, 1, 2]
        assert report.read.try_acquire() is None, "a reader overtook the writer"
        reader.release()
        assert writer.position is None
        assert late.position == 0
        writer.wait().release()
        assert late.position is None
        assert second.position == 0
        late.wait().release()
        assert second.wait(timeout=0).held

    def test_waiting_for_either(self, locks: Locks) -> None:
        report = locks.read_write("report")
        with report.read:
            assert report.read.wait(timeout=0)
            assert not report.write.wait(timeout=0)
        with report.write:
            assert not report.read.wait(timeout=0)
        assert report.write.wait(timeout=0)
