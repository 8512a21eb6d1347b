"""`Locks.list`, `info` and `stats`: what is held, by key."""

from __future__ import annotations

import pytest

from celery_locks import LockConfigError, LockKeyError, Locks, owners
from celery_locks.keys.names import key_and_part, run_part
from celery_locks.lock_info import LockInfo, parts_of
from celery_locks.stores.base import Store
from celery_locks.stores.types import Holder
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore

#: The one begins like another's name in the store, or ends it.
ODD_KEYS = ["}", "=}", "=", "{=}", "}{=}", "a}b", "{a}", "käse", "=}a", "a}"]
#: These look like a part of another key, or like the cursor of one.
ODD_KEYS += ["a}:call", "a}:call}", "a}:call}=", "a}:call}=}=", f"a}}:run:{'0' * 32}", "}:call", ":call", "a}:callx"]


def keys(locks: Locks, **wanted: object) -> list[str]:
    return [item.key for item in locks.list(**wanted).items]  # type: ignore[arg-type]


def test_what_is_held_is_listed_by_key(locks: Locks) -> None:
    smtp = locks.semaphore("smtp", limit=5, owner="you").acquire(permits=2)
    with locks.lock("user:7", owner="me") as lease:
        page = locks.list()
        assert [(item.key, item.permits, item.limit, item.waiting) for item in page.items] == [
            ("smtp", 2, 5, 0),
            ("user:7", 1, 1, 0),
        ]
        assert page.next is None
        holder = page.items[1].holders[0]
        assert (holder.owner, holder.fencing_token, holder.task_id) == ("me", lease.fencing_token, None)
        assert holder.expires_in == pytest.approx(30)
        assert locks.info("user:7") == page.items[1]
    smtp.release()
    assert locks.list().items == ()
    assert locks.info("user:7").holders == ()


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys(locks: Locks, key: str) -> None:
    for each in ODD_KEYS:
        locks.lock(each).acquire()
    assert key_and_part(locks._space.name(key)) == (key, "")
    assert sorted(keys(locks)) == sorted(ODD_KEYS)
    assert sorted(keys(locks, prefix=key)) == sorted(each for each in ODD_KEYS if each.startswith(key))
    assert [item.key for item in all_pages(locks, 1)] == keys(locks)


@pytest.mark.parametrize("part", ["call", run_part("task 7")])
def test_a_part_of_a_key_is_listed_by_the_key(locks: Locks, part: str) -> None:
    for key in ODD_KEYS:
        lock = locks.lock(key)
        lock._name = locks._space.name(key, part)
        lease = lock.acquire()
        (item,) = locks.list().items
        assert (item.key, item.part, item.permits) == (key, part, 1)
        assert locks.info(key, part) == item
        assert locks.info(key).holders == ()
        assert (locks.stats().oldest, locks.stats().oldest_part) == (key, part)
        lease.release()


def test_pages_go_on_between_a_key_and_its_parts(locks: Locks) -> None:
    parts = ("", "call", run_part("task 7"))
    for key in ODD_KEYS:
        for part in parts:
            lock = locks.lock(key)
            lock._name = locks._space.name(key, part)
            lock.acquire()
    listed = [(item.key, item.part) for item in all_pages(locks, 1)]
    assert sorted(listed) == sorted((key, part) for key in ODD_KEYS for part in parts)
    assert [(item.key, item.part) for item in all_pages(locks, 7)] == listed
    for key in ODD_KEYS:
        assert sorted(item.part for item in parts_of(locks._space, key)) == sorted(parts[1:])


@pytest.mark.parametrize("part", ["calls", "run:", "run:" + "g" * 32, "}", "call\n", "line"])
def test_other_parts_are_refused(locks: Locks, part: str) -> None:
    with pytest.raises(LockKeyError, match="is not a part of a key"):
        locks.info("user:7", part)


def all_pages(locks: Locks, count: int) -> list[LockInfo]:
    items: list[LockInfo] = []
    after = None
    while True:
        page = locks.list(after=after, count=count)
        items += page.items
        if page.next is None:
            return items
        after = page.next


def test_pages_are_bounded(locks: Locks) -> None:
    for count in (0, -1, 1001, 2.5, True, None, "10"):
        with pytest.raises(LockConfigError, match="count must be a whole number"):
            locks.list(count=count)  # type: ignore[arg-type]
    assert locks.list(count=1000).items == ()


def test_info_of_no_key(locks: Locks) -> None:
    with pytest.raises(LockKeyError):
        locks.info("")


def test_stats(locks: Locks, clock: MovableClock) -> None:
    locks.lock("old", ttl=60, renew=False).acquire()
    clock.advance(5)
    locks.lock("new", ttl=30, renew=False).acquire()
    stats = locks.stats(near=31)
    assert (stats.locks, stats.holders, stats.near_expiry, stats.waiting) == (2, 2, 1, 0)
    assert (stats.oldest, stats.oldest_held_for, stats.complete) == ("old", 5, True)
    with pytest.raises(LockConfigError):
        locks.stats(near=0)


def test_the_task_of_a_holder() -> None:
    def holder(owner: str) -> Holder:
        return Holder(owner, 1, 1, 0.0, 1.0, "token")

    run = holder(owners.running("shop.sync[%]", "id[1]", "w@host"))
    assert (run.task_name, run.task_id) == ("shop.sync[%]", "id[1]")
    call = holder(owners.called("sync", "7", "host:1"))
    assert (call.task_name, call.task_id) == ("sync", "7")
    assert (holder("web1:4711").task_name, holder("web1:4711").task_id) == (None, None)


def test_a_store_without_a_list_reports_it(clock: MovableClock) -> None:
    class Bare(FaultyStore):
        lists = False
        page, stats, info = Store.page, Store.stats, Store.info

    locks = Locks(Bare(clock), clock=clock)
    with locks.lock("k"):
        assert locks.info("k").permits == 1
        with pytest.raises(LockConfigError, match="a list of what is held, and Bare has none"):
            locks.list()
        with pytest.raises(LockConfigError, match="Bare keeps no list"):
            locks.store.stats("p", 1.0)
