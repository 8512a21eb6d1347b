"""Declared locks, and every outcome told to one function."""

from __future__ import annotations

import uuid

import pytest

from celery_locks import Lock, LockConfigError, LockKeyError, Locks, LockTimeout, Outcome, audit
from tests.support.faulty_store import FaultyStore


class TestLockable:
    def test_a_thing_is_locked_by_its_id(self, locks: Locks) -> None:
        order = locks.lockable("order:<order_id>", ttl=60, owner="the shop")
        with order(7) as lease:
            assert lease.key == order.key(order_id=7) == "order:7"
            assert lease.ttl == 60
            assert locks.info("order:7").holders[0].owner == "the shop"
            assert locks.lock("order:7").try_acquire() is None
            assert order("7").try_acquire() is None
            assert order(8).try_acquire() is not None

    def test_no_id_looks_like_another(self, locks: Locks) -> None:
        page = locks.lockable("page:<site>:<path>")
        assert page("a:b", "c").key != page("a", "b:c").key
        assert page(path="c", site="a").key == page("a", "c").key == "page:a:c"
        assert len(page("x" * 500, "y").key.encode()) <= 200
        assert str(uuid.UUID(int=7)) in page(uuid.UUID(int=7), 1).key

    def test_the_key_is_that_of_a_task(self, locks: Locks) -> None:
        from celery import Celery

        from celery_locks import single_instance

        @Celery(broker="memory://").task
        @single_instance(key="page:<site>:<path>")
        def crawl(site: str, path: str, depth: int = 1) -> None: ...

        for args in (("a", "b"), ("a:b", "c%d"), ("ä" * 300, "{}")):
            assert crawl.lock_key_for(*args) == locks.lockable("page:<site>:<path>").key(*args)

    def test_faults_are_reported(self, locks: Locks) -> None:
        with pytest.raises(LockKeyError, match="separator"):
            locks.lockable("<a><b>")
        with pytest.raises(LockKeyError, match="template"):
            locks.lockable(7)  # type: ignore[arg-type]
        with pytest.raises(LockConfigError):
            locks.lockable("order:<id>", ttl=0)
        with pytest.raises(TypeError):
            locks.lockable("order:<id>")()
        with pytest.raises(LockKeyError):
            locks.lockable("order:<id>")(object())


class TestAudit:
    def test_every_outcome_is_reported_once(self, locks: Locks, lock: Lock) -> None:
        told = list[Outcome]()
        stop = audit(told.append)
        lease = lock.acquire()
        with pytest.raises(LockTimeout):
            lock.acquire(timeout=0)
        assert lock.try_acquire() is None
        lease.release()
        lost = lock.acquire()
        lock.force_release()
        assert lost.release() is False
        assert [outcome.kind for outcome in told] == [
            "acquired",
            "contended",
            "timed_out",
            "contended",
            "released",
            "acquired",
            "lost",
        ]
        assert {outcome.key for outcome in told} == {"k"}
        assert (told[0].owner, told[0].fencing_token, told[0].sender) == (lease.owner, lease.fencing_token, lock)
        assert told[2].holders == (lease.owner,)
        assert told[2].owner is None
        assert told[-1].reason == "force_released"
        stop()
        lock.acquire()
        assert len(told) == 7
        stop()

    def test_what_it_raises_disturbs_nothing(self, lock: Lock) -> None:
        told = list[str]()
        audit(lambda outcome: 1 // 0)
        audit(lambda outcome: told.append(outcome.kind))
        with lock:
            pass
        assert told == ["acquired", "released"]


class TestCapabilities:
    def test_a_feature_that_the_store_lacks_is_refused_where_it_is_defined(self) -> None:
        class Poor(FaultyStore):
            semaphores = fair = lists = values = False

        locks = Locks(Poor())
        for define in (
            lambda: locks.semaphore("smtp", limit=5),
            lambda: locks.read_write("report"),
            locks.list,
            locks.stats,
            lambda: locks.value("k"),
            locks.lock("k").enqueue,
        ):
            with pytest.raises(
                LockConfigError, match=r"locks?\.\w+\(\) needs a store with .*, and Poor has none; those at redis://"
            ):
                define()
        with locks.multi(["a", "b"]), locks.lock("k") as lease, pytest.raises(LockConfigError, match="values"):
            lease.update(1)

    def test_the_table_is_made_of_what_the_stores_say(self) -> None:
        from celery_locks.stores.capabilities import CAPABILITIES, table

        rows = table().splitlines()
        assert len(rows) == 2 + len(CAPABILITIES)
        assert "| leases that other machines see (`machines`) | yes | yes | yes | yes | yes | yes | no | no |" in rows
        assert "| waiters woken, not polled (`wakes`) | yes | yes | no | yes | yes | no | no | yes |" in rows
