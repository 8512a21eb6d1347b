"""An exception raised anywhere by a signal's handler: what was acquired is released, and the exception comes out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from celery_locks import Locks
from celery_locks.renewal import keeper
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Claim
from tests.support.interrupts import failures, within

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


class Struck(BaseException):
    """What the handler raises."""


def _block(made: Any) -> None:
    with made:
        pass


def _some_permits(semaphore: Any) -> None:
    with semaphore.acquire(permits=2) as lease:
        lease.release(permits=1)


def _released(made: Any) -> None:
    made.release()


def _waited(ticket: Any) -> None:
    ticket.wait().release()


#: The key is held for a moment.
CONTENDED = "contended: "
WORKS: dict[str, Callable[[Locks], object]] = {
    "acquire and release": lambda locks: locks.lock("k").acquire(timeout=1).release(),
    "try_acquire": lambda locks: _released(locks.lock("k").try_acquire()),
    "with lock": lambda locks: _block(locks.lock("k")),
    "run": lambda locks: locks.lock("k").run(int),
    "semaphore": lambda locks: _block(locks.semaphore("k", limit=2).acquire(permits=2)),
    "some permits": lambda locks: _some_permits(locks.semaphore("k", limit=2)),
    "update": lambda locks: locks.lock("k").update(lambda value: 7),
    "attempts": lambda locks: locks.lock("k").acquire(attempts=2).release(),
    "read_write": lambda locks: _block(locks.read_write("k").write),
    "multi": lambda locks: _block(locks.multi(["k", "l"])),
    "enqueue": lambda locks: _waited(locks.lock("k").enqueue()),
    CONTENDED + "with lock": lambda locks: _block(locks.lock("k")),
    CONTENDED + "wait": lambda locks: locks.lock("k").wait(),
    CONTENDED + "multi": lambda locks: _block(locks.multi(["j", "k"])),
    CONTENDED + "enqueue": lambda locks: _waited(locks.lock("k").enqueue()),
}


def interrupted(name: str, every: int) -> tuple[list[str], int]:
    """Interrupt one of the works at each of so many places."""
    store = MemoryStore()
    locks = Locks(store)

    def work() -> None:
        if name.startswith(CONTENDED):
            store.acquire(Claim(locks._space.name("k"), "other", "other", 0.05))
        WORKS[name](locks)

    def in_use(name: str) -> bool:
        state = store.info(name)
        return bool(state.holders or state.waiting)

    def check(error: BaseException | None) -> str:
        if not isinstance(error, Struck):
            return f"ended with {error!r}"
        names = [locks._space.name(key) for key in "jkl"]
        if not within(3, lambda: not keeper().leases() and not any(map(in_use, names))):
            return f"holders {[store.holders(name) for name in names]}, renewed {keeper().leases()}"
        lease = locks.lock("k").try_acquire()
        return "" if lease is not None and lease.release() else "the key can't be acquired"

    return failures(lambda: (work, check), Struck, every)


@pytest.mark.parametrize("name", WORKS)
def test_promise_40_an_interrupt_leaves_no_lease_behind_at_some_places(name: str) -> None:
    wrong, total = interrupted(name, 9)
    assert total > 50
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_promise_40_an_interrupt_leaves_no_lease_behind_at_any_place(name: str) -> None:
    wrong, _ = interrupted(name, 1)
    assert not wrong, "\n".join(wrong)
