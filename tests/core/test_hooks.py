"""``on_event=``: what becomes of one lock's acquisitions and leases, for one function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_locks import Locks, LockTimeout, Outcome, audit
from celery_locks.aio import AsyncLocks
from celery_locks.stores.memory import MemoryStore
from celery_locks.testing import MovableClock
from tests.support.waiting import eventually


@pytest.fixture
def told() -> list[Outcome]:
    return []


def kinds(told: list[Outcome]) -> list[str]:
    return [outcome.kind for outcome in told]


def test_all_kinds_of_outcome(locks: Locks, clock: MovableClock, told: list[Outcome]) -> None:
    lock = locks.lock("k", ttl=30, owner="Anna", on_event=told.append)
    lease = lock.acquire()
    clock.advance(10)
    lease.extend()
    with pytest.raises(LockTimeout):
        lock.acquire(timeout=0)
    lease.release()
    lease = lock.acquire()
    clock.advance(30)
    assert lease.lost
    assert kinds(told) == ["acquired", "renewed", "contended", "timed_out", "released", "acquired", "lost"]
    assert {(outcome.key, outcome.owner, outcome.sender) for outcome in told} == {("k", "Anna", lock)}
    assert (told[1].seconds, told[2].holders, told[6].reason) == (10, ("Anna",), "expired")
    assert told[0].fencing_token == told[4].fencing_token != told[5].fencing_token == lease.fencing_token


def test_renewals_in_the_background_are_reported(told: list[Outcome]) -> None:
    with Locks(MemoryStore()).lock("k", ttl=0.3, on_event=told.append):
        eventually(lambda: "renewed" in kinds(told), 30)


def test_other_locks_are_not_reported(locks: Locks, told: list[Outcome]) -> None:
    locks.lock("k", on_event=told.append)
    with locks.lock("k"), locks.lock("other"):
        pass
    assert told == []


def test_what_it_raises_disturbs_nothing(locks: Locks, caplog: pytest.LogCaptureFixture) -> None:
    with locks.lock("k", on_event=lambda outcome: 1 / 0) as lease:
        assert lease.held
        assert locks.lock("k", on_event=lambda outcome: 1 / 0).try_acquire() is None
    assert "on_event of 'k' raised" in caplog.text


def test_audit_receives_all_but_renewals(locks: Locks, told: list[Outcome]) -> None:
    heard = list[Outcome]()
    stop = audit(heard.append)
    with locks.lock("k", on_event=told.append) as lease:
        lease.extend()
    stop()
    assert kinds(told) == ["acquired", "renewed", "released"]
    assert kinds(heard) == ["acquired", "released"]


MADE: dict[str, Callable[..., Any]] = {
    "semaphore": lambda locks, **terms: locks.semaphore("k", 2, **terms),
    "read": lambda locks, **terms: locks.read_write("k", **terms).read,
    "multi": lambda locks, **terms: locks.multi(["k"], **terms),
    "lockable": lambda locks, **terms: locks.lockable("<id>", **terms)("k"),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_other_kinds_of_lock(locks: Locks, told: list[Outcome], make: Callable[..., Any]) -> None:
    with make(locks, on_event=told.append):
        pass
    assert kinds(told) == ["acquired", "released"]


@pytest.mark.parametrize("make", [lambda locks, **terms: locks.lock("k", **terms), *MADE.values()])
def test_coroutines(told: list[Outcome], make: Callable[..., Any]) -> None:
    async def main() -> None:
        async with make(AsyncLocks(MemoryStore()), on_event=told.append):
            pass

    asyncio.run(main())
    assert kinds(told) == ["acquired", "released"]
