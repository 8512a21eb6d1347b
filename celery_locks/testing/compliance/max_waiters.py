"""A line of bounded length: `Claim.max_waiters`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.parking import Parked, Ticket, tickets_of
from celery_locks.stores.types import Claim
from celery_locks.testing.compliance.base import StoreTests


class MaxWaiters(StoreTests):
    """A line of bounded length: `Claim.max_waiters`."""

    @pytest.fixture
    def with_a_line(self, store: Store) -> None:
        if not store.fair:
            pytest.skip(f"{type(store).__name__} declares that it has no line")

    def bounded(self, name: str, most: int) -> Claim:
        return replace(self.claim(name), max_waiters=most)

    @pytest.mark.usefixtures("with_a_line")
    def test_a_full_line_takes_no_more(self, store: Store, another: Store, name: str) -> None:
        holder, first, second, third = self.claim(name), *(self.bounded(name, 2) for _ in range(3))
        self.granted(store, holder)
        for place, waiter in enumerate((first, second)):
            refused = self.refused(store, waiter, self.long)
            assert (refused.position, refused.full) == (place, False)
        refused = self.refused(another, third, self.long)
        assert refused.full
        assert refused.position is None
        assert self.names(refused.holders) == [holder.owner]
        assert not self.refused(store, self.bounded(name, 3), self.long).full
        store.release(name, holder.token)
        self.granted(store, first)

    @pytest.mark.usefixtures("with_a_line")
    def test_who_is_in_line_keeps_its_place(self, store: Store, name: str) -> None:
        waiters = [self.bounded(name, 2) for _ in range(2)]
        self.granted(store, self.claim(name))
        for _ in range(2):
            for place, waiter in enumerate(waiters):
                refused = self.refused(store, waiter, self.long)
                assert (refused.position, refused.full) == (place, False)

    @pytest.mark.usefixtures("with_a_line")
    def test_without_a_line_to_join_no_line_is_full(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        self.in_line(store, self.claim(name))
        assert not self.refused(store, self.bounded(name, 1)).full

    @pytest.mark.usefixtures("with_a_line")
    def test_a_free_lock_is_granted_whatever_the_bound(self, store: Store, name: str) -> None:
        self.granted(store, self.bounded(name, 1), self.long)

    @pytest.mark.usefixtures("with_a_line")
    def test_a_dead_waiter_does_not_count(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        self.refused(store, self.claim(name), self.short)
        self.pass_time(self.short)
        assert self.refused(store, self.bounded(name, 1), self.long).position == 0

    @pytest.mark.usefixtures("with_a_line")
    def test_one_that_left_makes_room(self, store: Store, name: str) -> None:
        first = self.bounded(name, 1)
        self.granted(store, self.claim(name))
        self.in_line(store, first)
        assert self.refused(store, self.bounded(name, 1), self.long).full
        store.leave(name, first.token)
        assert not self.refused(store, self.bounded(name, 1), self.long).full

    @pytest.mark.usefixtures("with_a_line")
    def test_a_parked_ticket_counts(self, store: Store, name: str) -> None:
        parking, locked = tickets_of(store), f"{name}:{{key}}"
        if parking is None:
            pytest.skip(f"in {type(store).__name__} no tasks park")
        self.granted(store, self.claim(locked))
        assert isinstance(parking.enter(self.claim(locked), Ticket("t", "message", "task")), Parked)
        assert self.refused(store, self.bounded(locked, 1), self.long).full
        assert not self.refused(store, self.bounded(locked, 2), self.long).full
