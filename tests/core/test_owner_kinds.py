"""Owners of declared kinds: how they are named, and how all that one holds is released."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from celery_locks import LockConfigError, Locks, Owner, owners
from celery_locks.aio import AsyncLocks
from celery_locks.stores.memory import MemoryStore


@pytest.fixture
def shared() -> Locks:
    return Locks(MemoryStore())


user = Owner("user", within="org")


def test_names_of_owners() -> None:
    assert user("org_1", "user_42") == "org:org_1/user:user_42"
    assert Owner("org")("org_1") == "org:org_1"
    assert Owner("session", within=user)(1, 42, "é 7") == "org:1/user:42/session:é 7"


def test_no_id_looks_like_another() -> None:
    assert Owner("org")("1/user:2") != user("1", "2")
    assert user("a/b", "c") != user("a", "b/c")
    assert user("a%2Fb", "c") != user("a/b", "c")
    assert owners.read(Owner("org")("x[y] on web1")) is None, "it would look like a task"


@pytest.mark.parametrize("ids", [(), ("a",), ("a", "b", "c"), ("a", ""), ("a", None), ("a", True), ("a", 1.5)])
def test_other_ids_are_refused(ids: tuple[Any, ...]) -> None:
    with pytest.raises(LockConfigError, match="owner"):
        user(*ids)


@pytest.mark.parametrize("kind", ["", "a b", "a/b", "a:b", None, 7])
def test_other_kinds_are_refused(kind: Any) -> None:
    with pytest.raises(LockConfigError, match="kind of owner"):
        Owner(kind)


def test_they_are_shown_wherever_owners_are(shared: Locks) -> None:
    name = user("org_1", "user_42")
    with shared.lock("k", owner=name) as lease:
        assert lease.owner == name
        assert shared.lock("k").holders()[0].owner == name
        assert shared.list().items[0].holders[0].owner == name
    with Locks(shared.store, owner=name).lock("k") as lease:
        assert lease.owner == name


class TestRelease:
    def test_all_that_one_holds(self, shared: Locks) -> None:
        mine = [shared.lock(key, owner=user("1", "2")).acquire() for key in "ab"]
        others = [shared.lock("c", owner=user("1", "22")).acquire(), shared.lock("d").acquire()]
        assert sorted(shared.release_owned_by(user("1", "2"))) == ["a", "b"]
        assert [lease.release() for lease in mine] == [False, False]
        assert [lease.lost_reason for lease in mine] == ["force_released", "force_released"]
        assert [lease.release() for lease in others] == [True, True]

    def test_those_within_it(self, shared: Locks) -> None:
        shared.lock("a", owner=user("1", "2")).acquire()
        shared.lock("b", owner=Owner("org")("1")).acquire()
        shared.lock("c", owner=user("10", "2")).acquire()
        assert sorted(shared.release_owned_by(Owner("org")("1"))) == ["a", "b"]
        assert shared.lock("c").locked()

    def test_only_its_permits_of_a_semaphore(self, shared: Locks) -> None:
        for number in range(30):
            shared.semaphore("smtp", limit=50, owner=user("1", number % 2)).acquire()
        assert shared.release_owned_by(user("1", 1)) == ("smtp",) * 15
        assert shared.semaphore("smtp", limit=50).available() == 35

    def test_over_many_pages(self, shared: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("celery_locks.lock_info.MOST_ON_A_PAGE", 3)
        for number in range(10):
            shared.lock(f"k{number}", owner="me").acquire()
        assert len(shared.release_owned_by("me")) == 10

    def test_coroutines(self, shared: Locks) -> None:
        async def main() -> None:
            await AsyncLocks(shared).lock("a", owner="me").acquire()
            assert await AsyncLocks(shared).release_owned_by("me") == ("a",)

        asyncio.run(main())

    @pytest.mark.parametrize("owner", ["", None, 7])
    def test_what_is_no_owner_is_refused(self, shared: Locks, owner: Any) -> None:
        with pytest.raises(LockConfigError, match="owner"):
            shared.release_owned_by(owner)

    def test_a_store_without_a_list_reports_it(self) -> None:
        class Listless(MemoryStore):
            lists = False

        with pytest.raises(LockConfigError, match="release_owned_by"):
            Locks(Listless()).release_owned_by("me")
