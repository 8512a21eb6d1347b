"""An exception raised anywhere by a signal's handler: what was acquired is released, and the exception comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_locks import Locks
from celery_locks.renewal import keeper
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Claim
from tests.support.celery_worker import ROOT
from tests.support.interrupts import failures, within

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

#: Takes the name of a work, and which of its places are struck; returns what was wrong, and how many places it has.
Interrupted = Callable[[str, int], tuple[list[str], int]]


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


def serve() -> None:
    """Answer questions of `Interrupted`, a line each."""
    for question in sys.stdin:
        print(json.dumps(interrupted(*json.loads(question))), flush=True)


@pytest.fixture(scope="module")
def in_small_process() -> Iterator[Interrupted]:
    """Interrupts works in a process that has little memory: forking this one, with all its tests, takes far longer."""
    code = "from tests.core.test_interrupts import serve; serve()"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:

        def ask(name: str, every: int) -> tuple[list[str], int]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([name, every]), file=process.stdin, flush=True)
            wrong, places = json.loads(process.stdout.readline())
            return wrong, places

        yield ask


@pytest.mark.parametrize("name", WORKS)
def test_promise_40_an_interrupt_leaves_no_lease_behind_at_some_places(
    name: str, in_small_process: Interrupted
) -> None:
    wrong, total = in_small_process(name, 9)
    assert total > 50
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_promise_40_an_interrupt_leaves_no_lease_behind_at_any_place(name: str, in_small_process: Interrupted) -> None:
    wrong, _ = in_small_process(name, 1)
    assert not wrong, "\n".join(wrong)
