"""Waiters are woken (promise 7)."""

from __future__ import annotations

import time
from itertools import count
from threading import Lock

from celery_locks.stores.base import Store
from celery_locks.testing.compliance.base import StoreTests


class Waking(StoreTests):
    """Waiters are woken (promise 7)."""

    def test_wait_ends_with_its_timeout(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name))
        self.in_line(store, waiter)
        start = time.monotonic()
        store.wait(name, waiter.token, 0.05)
        assert time.monotonic() - start < self.patience

    def test_release_ends_a_wait(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.release(name, holder.token)
            ended()
        self.granted(another, waiter)

    def test_release_before_the_wait_ends_it_too(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(another, waiter)
        store.release(name, holder.token)
        with self.waiting(another, waiter) as ended:
            ended()

    def test_force_release_ends_a_wait(self, store: Store, another: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name))
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.force_release(name)
            ended()
        self.granted(another, waiter)

    def test_leave_hands_the_wake_up_on(self, store: Store, another: Store, name: str) -> None:
        holder, leaver, waiter = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, leaver)
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.release(name, holder.token)
            store.wait(name, leaver.token, self.patience)
            store.leave(name, leaver.token)
            ended()
        self.granted(another, waiter)

    def test_room_for_two_wakes_two(self, store: Store, another: Store, name: str) -> None:
        holder = self.claim(name, limit=2, permits=2)
        first, second = self.claim(name, limit=2), self.claim(name, limit=2)
        self.granted(store, holder)
        self.in_line(another, first, second)
        with self.waiting(another, second) as ended:
            store.release(name, holder.token)
            store.wait(name, first.token, self.patience)
            self.granted(store, first)
            ended()
        self.granted(another, second)

    def test_everybody_in_line_gets_a_turn(self, store: Store, another: Store, name: str) -> None:
        served, guard = list[int](), Lock()

        def work(number: int) -> None:
            mine = (store, another)[number % 2]
            claim = self.claim(name)
            self.until_granted(mine, claim)
            with guard:
                served.append(number)
            assert mine.release(name, claim.token)

        self.run_all(work)
        assert sorted(served) == list(range(self.threads))

    def test_one_wait_for_many_returns_whose_turn_it_is(self, store: Store, another: Store, name: str) -> None:
        together = another.waits_with(name)
        other_name = next(each for number in count() if another.waits_with(each := f"{name}{number}") == together)
        kept, holder = self.claim(other_name), self.claim(name)
        behind, first = self.claim(kept.name), self.claim(holder.name)
        self.granted(store, kept)
        self.granted(store, holder)
        self.in_line(another, behind)
        self.in_line(another, first)
        places = [(behind.name, behind.token), (first.name, first.token)]
        if another.waits_for == 1:
            places = places[1:]
        assert store.release(holder.name, holder.token)
        deadline, told = time.monotonic() + self.patience, set[str]()
        while first.token not in told and time.monotonic() < deadline:
            told.update(another.wait_any(places, self.patience))
        assert told == {first.token}
        self.granted(another, first)
        assert behind.token not in another.wait_any(places[:1], 0.02) or another.waits_for == 1
