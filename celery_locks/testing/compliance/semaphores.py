"""Limits above one: how many permits are held, and in which order waiters are served."""

from __future__ import annotations

import pytest

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store
from celery_locks.stores.types import MOST_HOLDERS, Granted
from celery_locks.testing.compliance.base import StoreTests


class Semaphores(StoreTests):
    """Limits above one: how many permits are held, and in which order waiters are served."""

    def test_a_store_without_semaphores_refuses_them(self, store: Store, name: str) -> None:
        claim = self.claim(name, limit=2)
        if store.semaphores:
            assert isinstance(store.acquire(claim), Granted)
        else:
            with pytest.raises(LockConfigError):
                store.acquire(claim)
            assert store.holders(name) == ()

    def test_held_counts_the_permits(self, store: Store, another: Store, name: str) -> None:
        assert store.held(name) == 0
        claims = [self.claim(name, limit=9, permits=permits) for permits in (1, 2, 4)]
        for claim in claims:
            self.granted(store, claim)
        self.granted(store, claims[2])
        self.refused(store, self.claim(name, limit=9, permits=3), self.long)
        assert another.held(name) == 7
        store.release(name, claims[1].token)
        store.release(name, claims[1].token)
        assert another.held(name) == 5
        another.force_release(name)
        assert store.held(name) == 0

    def test_held_counts_no_expired_ones(self, store: Store, another: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=9, permits=4))
        self.granted(store, self.claim(name, ttl=self.short, limit=9, permits=3))
        self.granted(store, self.claim(name + "x", ttl=self.short, limit=9, permits=3))
        self.pass_time(self.short)
        assert another.held(name) == 4
        assert another.held(name + "x") == 0
        assert store.held(name) == 4, "reading changed something"

    def test_held_counts_more_than_are_named(self, store: Store, name: str) -> None:
        for _ in range(MOST_HOLDERS + 5):
            self.granted(store, self.claim(name, limit=1000, permits=2))
        assert store.held(name) == 2 * (MOST_HOLDERS + 5)

    def test_each_acquisition_goes_by_its_own_limit(self, store: Store, another: Store, name: str) -> None:
        for _ in range(3):
            self.granted(store, self.claim(name, limit=5))
        self.refused(another, self.claim(name, limit=3))
        self.granted(another, self.claim(name, limit=4))
        self.refused(store, self.claim(name, limit=1))
        self.granted(store, self.claim(name, limit=5))
        self.refused(store, self.claim(name, limit=5))
        assert store.held(name) == 5

    def test_a_heavy_one_is_not_starved(self, store: Store, another: Store, name: str) -> None:
        """Claims of one permit never end. A claim of all permits is served when those before it have ended."""
        light = [self.claim(name, limit=3) for _ in range(3)]
        for claim in light:
            self.granted(store, claim)
        heavy = self.claim(name, limit=3, permits=3)
        self.in_line(another, heavy)
        behind = [self.claim(name, limit=3) for _ in light]
        for holder, newcomer in zip(light, behind, strict=True):
            self.refused(store, newcomer, self.long)
            self.refused(another, heavy)
            store.release(name, holder.token)
            self.refused(store, newcomer)
            self.refused(store, self.claim(name, limit=3))
        self.granted(another, heavy)
        self.refused(store, behind[0])
        another.release(name, heavy.token)
        for claim in behind:
            self.granted(store, claim)

    def test_the_line_is_served_in_its_order_whatever_the_weights(self, store: Store, name: str) -> None:
        weights = (3, 1, 1, 2, 3, 1)
        holder, waiters = self.claim(name, limit=3, permits=3), [self.claim(name, limit=3, permits=w) for w in weights]
        self.granted(store, holder)
        self.in_line(store, *waiters)
        store.release(name, holder.token)
        served: list[int] = []
        for turn in range(len(waiters)):  # the last one asks first: only the order of the line may decide
            for number in reversed(range(len(waiters))):
                if number not in served and isinstance(store.acquire(waiters[number]), Granted):
                    served.append(number)
                    store.release(name, waiters[number].token)
            assert len(served) > turn
        assert served == list(range(len(waiters)))

    def test_an_end_of_a_deadline_makes_room_for_a_heavy_one(self, store: Store, another: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=3))
        self.granted(store, self.claim(name, ttl=self.short, limit=3, permits=2))
        heavy = self.claim(name, limit=3, permits=2)
        store.acquire(heavy, self.long)
        self.pass_time(self.short)
        self.granted(another, heavy)

    def test_a_heavy_release_wakes_all_for_whom_there_is_room(self, store: Store, another: Store, name: str) -> None:
        holder = self.claim(name, limit=4, permits=4)
        waiters = [self.claim(name, limit=4) for _ in range(4)]
        self.granted(store, holder)
        self.in_line(another, *waiters)
        store.release(name, holder.token)
        for waiter in waiters:
            with self.waiting(another, waiter) as ended:
                ended()
            self.granted(another, waiter)

    def test_heavy_and_light_ones_all_get_a_turn(self, store: Store, another: Store, name: str) -> None:
        def work(number: int) -> None:
            mine = (store, another)[number % 2]
            for _ in range(self.rounds if number else 3):  # number 0 needs all permits, and the others need one
                claim = self.claim(name, limit=3, permits=1 if number else 3)
                self.until_granted(mine, claim)
                assert mine.release(name, claim.token)

        self.run_all(work)
        assert store.held(name) == 0
