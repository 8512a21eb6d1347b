"""``celery locks doctor`` where runs wait for each other's keys."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from celery_locks import Locks, Semaphore, owners
from celery_locks._nesting import RunScope
from tests.support.cli import Run, make_app
from tests.support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("no_shared_tasks"), pytest.mark.slow]


@pytest.fixture(params=["redis", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_server").url())
    return f"sqlite:///{tmp_path}/locks.db"


class Shop:
    """Runs of tasks, each in a thread, and what ``doctor`` finds. Keys that begin with "audit" are in another store."""

    def __init__(self, url: str, audit: str) -> None:
        self._url, self._stores = url, {"audit": audit}
        self.locks = Locks(url, prefix=f"deadlock-{uuid.uuid4().hex[:8]}")
        self._audit = Locks(audit, prefix=self.locks.prefix)
        self._threads: list[threading.Thread] = []
        self._waiting: dict[str, int] = {}
        #: Set once each run has what it holds.
        self._go_on = threading.Event()

    def run(self, task: str, holds: str, waits_for: str, *, body_holds: str = "") -> None:
        """Start a run that holds a key, and in its body another one, and waits for a third until the test ends."""
        holding = threading.Event()

        def run() -> None:
            with ExitStack() as stack:
                owner = owners.running(task, f"id-{task}", "w1")
                lease = self.semaphore(holds, owner).acquire()
                stack.callback(lease.release)
                stack.enter_context(RunScope(lease))
                if body_holds:
                    stack.callback(self.locks.lock(body_holds).acquire().release)
                holding.set()
                self._go_on.wait()
                self.semaphore(waits_for).acquire().release()

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        assert holding.wait(30)
        self._waiting[waits_for] = self._waiting.get(waits_for, 0) + 1

    def semaphore(self, key: str, owner: str | None = None) -> Semaphore:
        """One of two permits, where the key begins with "pool"."""
        return self.locks_of(key).semaphore(key, 2 if key.startswith("pool") else 1, owner=owner)

    def locks_of(self, key: str) -> Locks:
        return self._audit if key.startswith("audit") else self.locks

    def deadlocks(self, status: int) -> list[str]:
        """What ``doctor``, which ends with this status, says of deadlocks once all runs stand in line."""
        self._go_on.set()
        for key, number in self._waiting.items():
            eventually(partial(self._has_line, key, number))
        run = Run(make_app(self._url, locks_prefix=self.locks.prefix, locks_stores=self._stores))
        output = run("doctor", "--json", "--patience", "0", status=status).output
        return [each["text"] for each in json.loads(output) if each["check"] == "deadlock"]

    def _has_line(self, key: str, number: int) -> bool:
        return self.locks_of(key).info(key).waiting == number

    def end(self) -> None:
        self._go_on.set()
        while any(thread.is_alive() for thread in self._threads):
            for locks in (self.locks, self._audit):
                for item in locks.list().items:
                    locks.lock(item.key).force_release()
            for thread in self._threads:
                thread.join(0.05)
        self.locks.close()
        self._audit.close()


@pytest.fixture
def shop(url: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(url, f"sqlite:///{tmp_path}/audit.db")
    yield shop
    shop.end()


def test_two_runs_that_wait_for_each_other_are_named_with_both_keys(shop: Shop) -> None:
    shop.run("red", "stock:red", "stock:blue")
    shop.run("blue", "stock:blue", "stock:red")
    (text,) = shop.deadlocks(1)
    assert text.startswith("2 runs wait for each other, and none can continue: ")
    assert "red[id-red] holds stock:red and waits for stock:blue" in text
    assert "blue[id-blue] holds stock:blue and waits for stock:red" in text
    assert "terminate=True" in text


def test_two_runs_that_wait_in_two_stores(shop: Shop) -> None:
    shop.run("red", "stock:red", "audit:blue")
    shop.run("blue", "audit:blue", "stock:red")
    (text,) = shop.deadlocks(1)
    assert "red[id-red] holds stock:red and waits for audit:blue in the store audit" in text
    assert "blue[id-blue] holds audit:blue in the store audit and waits for stock:red" in text


def test_three_runs_in_a_circle_and_a_fourth_that_only_waits(shop: Shop) -> None:
    shop.run("a", "k:a", "k:b")
    shop.run("b", "k:b", "k:c")
    shop.run("c", "k:c", "k:a")
    shop.run("d", "k:d", "k:a")
    (text,) = shop.deadlocks(1)
    assert text.startswith("3 runs wait")
    assert "d[id-d]" not in text


def test_a_key_that_the_body_holds_is_its_runs(shop: Shop) -> None:
    shop.run("red", "red", "blue", body_holds="inner")
    shop.run("blue", "blue", "inner")
    (text,) = shop.deadlocks(1)
    assert "red[id-red] holds inner and waits for blue" in text


def test_runs_that_wait_for_one_that_works_are_no_deadlock(shop: Shop) -> None:
    shop.locks.lock("k:c").acquire()
    shop.run("a", "k:a", "k:b")
    shop.run("b", "k:b", "k:c")
    assert shop.deadlocks(0) == []


@pytest.mark.parametrize("second", ["works", "waits"])
def test_of_two_permits_both_must_be_held_by_runs_that_wait(shop: Shop, second: str) -> None:
    shop.run("a", "k:a", "pool")
    shop.run("b", "pool", "k:a")
    if second == "works":
        shop.semaphore("pool").acquire()
        assert shop.deadlocks(0) == []
    else:
        shop.run("c", "pool", "k:a")
        (text,) = shop.deadlocks(1)
        assert text.startswith("2 runs wait")
