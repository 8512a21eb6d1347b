"""Waiters in MariaDB and MySQL: one thread of a process asks for all of them, and keeps their places in line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from celery_locks import Locks, StoreUnavailable
from celery_locks.stores.sql import turns
from celery_locks.stores.sql.mysql import MySQLStore
from celery_locks.stores.types import Claim, Refused
from tests.stores.test_sql import SOON, ask, claim, counted, granted, open_, prefix, tell
from tests.stores.test_sql_trouble import HOUR, blocked
from tests.support.sql_servers import MariaDBServer
from tests.support.waiting import eventually

__all__ = ["open_", "prefix"]

LONG = 10 * SOON


@pytest.fixture
def url(mariadb_server: MariaDBServer, prefix: str) -> str:
    return mariadb_server.url(query=f"table_prefix={prefix}")


@contextmanager
def waiting(store: MySQLStore, *waiters: Claim, timeout: float = LONG) -> Iterator[list[Future[Any]]]:
    """Threads wait, one for each waiter."""
    with ThreadPoolExecutor(len(waiters)) as pool:
        try:
            yield [pool.submit(store.wait_any, [(each.name, each.token)], timeout) for each in waiters]
        finally:
            end_waits(store)  # otherwise a failed test would go on for as long


def in_line(store: MySQLStore, count: int, seconds: float, name: str = "lock") -> list[Claim]:
    waiters = [claim(name) for _ in range(count)]
    for each in waiters:
        assert isinstance(store.acquire(each, seconds), Refused)
    return waiters


def deadline(store: MySQLStore, waiter: Claim) -> int:
    query = "SELECT deadline FROM celery_locks_waiter WHERE token = ?"
    return int(ask(store, query, waiter.token)[0][0])


def end_waits(store: MySQLStore) -> None:
    """The locks are free, and no one stands in line."""
    tell(store, "DELETE FROM celery_locks_waiter")
    tell(store, "DELETE FROM celery_locks_holder")
    for name in list(store._turns._locks):
        store._turns.query_soon(name)


class TestPlaces:
    def test_a_wait_keeps_the_place(self, url: str, open_: Any) -> None:
        store = open_(url)
        granted(store, claim())
        waiters = in_line(store, 3, 1.0)
        first = max(deadline(store, each) for each in waiters)
        with waiting(store, *waiters) as waits:
            eventually(lambda: min(deadline(store, each) for each in waiters) > first + 1_000_000, SOON)
            assert not any(wait.done() for wait in waits)

    def test_without_a_wait_a_place_is_lost(self, url: str, open_: Any) -> None:
        """Its process has died, or its thread waits no more."""
        store = open_(url)
        granted(store, claim())
        dead, alive = in_line(store, 2, 1.0)
        assert not store.wait_any([(dead.name, dead.token)], 0.05)
        with waiting(store, alive):
            eventually(lambda: store.waiting("lock") == 1, SOON)
            assert store.acquire(alive, 1.0).position == 0

    def test_a_lost_place_ends_the_wait(self, url: str, open_: Any) -> None:
        store = open_(url)
        granted(store, claim())
        first, second = in_line(store, 2, 1.0)
        with waiting(store, first, second, timeout=LONG) as waits:
            tell(store, "DELETE FROM celery_locks_waiter WHERE token = ?", second.token)
            assert waits[1].result(SOON) == {second.token}
            assert not waits[0].done()

    def test_a_clock_that_was_set_back_ends_the_wait(self, url: str, open_: Any) -> None:
        """The next request puts the store's clock forward. Otherwise no lease would expire for an hour."""
        store = open_(url)
        granted(store, claim())
        (waiter,) = in_line(store, 1, 1.5)
        with waiting(store, waiter) as waits:
            for table, column in (("lock", "touched"), ("holder", "deadline"), ("waiter", "deadline")):
                tell(store, f"UPDATE celery_locks_{table} SET {column} = {column} + ?", HOUR)
            assert waits[0].result(SOON) == {waiter.token}
            assert store.acquire(waiter, 1.5).position == 0

    def test_a_wait_that_an_interrupt_left_behind_keeps_no_place(
        self, url: str, open_: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_(url)
        granted(store, claim())
        (waiter,) = in_line(store, 1, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(turns.Turns, "_end", lambda *_: None)
            store.wait_any([(waiter.name, waiter.token)], 0.05)
        eventually(lambda: store.waiting("lock") == 0, SOON)
        eventually(lambda: not store._turns._locks, SOON)

    def test_one_transaction_keeps_many(self, url: str, open_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "EARLY_SECONDS", LONG)
        store = open_(url)
        granted(store, claim())
        waiters = [*in_line(store, 20, 60.0), *in_line(store, 1, 3.0)]
        before = [deadline(store, each) for each in waiters]
        with counted() as statements, waiting(store, *waiters):
            eventually(lambda: deadline(store, waiters[-1]) > before[-1], SOON)
            assert all(deadline(store, each) > old for each, old in zip(waiters, before, strict=True))
            assert sum("SET t.deadline" in each for each in statements) < 5

    def test_promise_37_a_blocked_row_of_one_lock_holds_up_no_other_place(
        self, mariadb_server: MariaDBServer, url: str, open_: Any
    ) -> None:
        store = open_(url)
        granted(store, claim())
        granted(store, claim("other"))
        (stuck,), (waiter,) = in_line(store, 1, 1.5), in_line(store, 1, 1.5, "other")
        query = "SELECT 1 FROM celery_locks_waiter WHERE name = ? AND token = ? FOR UPDATE"
        with waiting(store, stuck, waiter):
            first = deadline(store, waiter)
            with blocked(mariadb_server, store, query, "lock", stuck.token):
                eventually(lambda: deadline(store, waiter) > first + 1_500_000, SOON)


@pytest.fixture
def asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process asks only when a wait begins, or when it has changed the lock."""
    for pause in ("FIRST_QUERY_PAUSE_SECONDS", "LONGEST_QUERY_PAUSE_SECONDS"):
        monkeypatch.setattr(turns, pause, LONG)


def asked(store: MySQLStore, name: str) -> None:
    """Waits until a process has asked about a lock, and has read the answer."""
    eventually(lambda: store._turns._locks[name].head is not None, SOON)


class TestQueries:
    def test_their_number_does_not_grow_with_the_line(self, url: str, open_: Any, asks_once: None) -> None:
        store, numbers = open_(url), []
        for count in (2, 90):
            holder, name = claim(f"line of {count}"), f"line of {count}"
            granted(store, holder)
            waiters = in_line(store, count, LONG, name)
            store._sweeper._next = time.monotonic() + LONG
            with counted() as statements, ThreadPoolExecutor(1) as pool:
                wait = pool.submit(store.wait_any, [(each.name, each.token) for each in waiters], LONG)
                asked(store, name)
                assert store.release(name, holder.token)
                assert wait.result(SOON) == {waiters[0].token}
            numbers.append(len(statements))
        assert numbers[0] == numbers[1]

    def test_a_release_of_this_process_causes_one(self, url: str, open_: Any, asks_once: None) -> None:
        store, holder = open_(url), claim()
        granted(store, holder)
        (waiter,) = in_line(store, 1, LONG)
        with waiting(store, waiter) as waits:
            asked(store, "lock")
            assert store.release("lock", holder.token)
            assert waits[0].result(SOON) == {waiter.token}

    def test_an_error_of_the_store_ends_the_waits(self, url: str, open_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_(url)
        granted(store, claim())
        waiters = in_line(store, 2, 60.0)

        def fail(*_: Any) -> None:
            raise StoreUnavailable("down")

        with waiting(store, *waiters) as waits:
            monkeypatch.setattr(turns.Turns, "_query", fail)
            for wait in waits:
                with pytest.raises(StoreUnavailable, match="down"):
                    wait.result(SOON)
            monkeypatch.undo()
        assert store.wait_any([("free", "token")], SOON) == {"token"}

    def test_the_thread_ends_after_the_last_wait(self, url: str, open_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns, "IDLE_SECONDS", 0.01)
        store = open_(url)
        for _ in range(2):
            assert store.wait_any([("free", "token")], SOON) == {"token"}
            eventually(lambda: not store._turns._running, SOON)
        eventually(lambda: "celery-locks-sql-turns" not in [each.name for each in threading.enumerate()], SOON)


def test_two_processes_serve_a_line_in_its_order(url: str) -> None:
    """Two stores, each with a thread of its own that asks, as two processes have."""
    sides = [Locks(url, prefix="p"), Locks(url, prefix="p")]
    served: list[int] = []
    lease = sides[0].lock("key").acquire()

    def work(number: int) -> None:
        with sides[number % 2].lock("key").acquire(timeout=LONG):
            served.append(number)

    def in_line_now(count: int) -> bool:
        return sides[0].info("key").waiting == count

    workers: list[threading.Thread] = []
    for number in range(12):
        workers.append(threading.Thread(target=work, args=(number,)))
        workers[-1].start()
        eventually(partial(in_line_now, number + 1), SOON)
    assert lease.release()
    for worker in workers:
        worker.join(LONG)
    assert served == list(range(12))
    for side in sides:
        side.close()
