"""First come, first served (promise 6)."""

from __future__ import annotations

from celery_locks.stores.base import Store
from celery_locks.testing.compliance.base import StoreTests


class Line(StoreTests):
    """First come, first served (promise 6)."""

    def test_first_come_first_served(self, store: Store, another: Store, name: str) -> None:
        holder, waiters = self.claim(name), [self.claim(name) for _ in range(4)]
        self.granted(store, holder)
        self.in_line(another, *waiters)
        for turn, waiter in enumerate(waiters):
            store.release(name, holder.token)
            for later in reversed(waiters[turn + 1 :]):
                self.refused(store, later, self.long)
            self.granted(another, waiter)
            holder = waiter

    def test_positions(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        waiters = [self.claim(name) for _ in range(3)]
        assert [self.refused(store, waiter, self.long).position for waiter in waiters] == [0, 1, 2]
        assert [self.refused(store, waiter, self.long).position for waiter in waiters] == [0, 1, 2]
        assert self.refused(store, self.claim(name)).position is None
        assert [self.refused(store, waiter).position for waiter in waiters] == [0, 1, 2]
        store.leave(name, waiters[1].token)
        assert [self.refused(store, waiter).position for waiter in waiters] == [0, None, 1]
        assert self.refused(store, waiters[1], self.long).position == 2

    def test_no_claim_overtakes_the_line(self, store: Store, another: Store, name: str) -> None:
        holder, waiter, newcomer = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.release(name, holder.token)
        answer = self.refused(another, newcomer)
        assert answer.holders == ()
        assert self.refused(another, newcomer, self.long).position == 1
        self.granted(store, waiter)

    def test_light_ones_do_not_overtake_a_heavy_one(self, store: Store, name: str) -> None:
        holder = self.claim(name, limit=3, permits=2)
        heavy, light = self.claim(name, limit=3, permits=3), self.claim(name, limit=3)
        self.granted(store, holder)
        self.in_line(store, heavy)
        self.refused(store, light, self.long)  # one permit is free
        store.release(name, holder.token)
        self.refused(store, light, self.long)
        self.granted(store, heavy)
        store.release(name, heavy.token)
        self.granted(store, light)

    def test_those_behind_a_heavy_one_follow_when_it_leaves(self, store: Store, name: str) -> None:
        heavy, light = self.claim(name, limit=3, permits=3), self.claim(name, limit=3)
        self.granted(store, self.claim(name, limit=3, permits=2))
        self.in_line(store, heavy, light)
        with self.waiting(store, light) as ended:
            store.leave(name, heavy.token)
            ended()
        self.granted(store, light)

    def test_a_grant_ends_the_waiting(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.release(name, holder.token)
        self.granted(store, waiter)
        store.release(name, waiter.token)
        self.granted(store, self.claim(name))

    def test_a_dead_waiter_is_passed_over(self, store: Store, another: Store, name: str) -> None:
        holder, dead, waiter = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, dead, self.short)
        self.in_line(another, waiter)
        self.pass_time(self.short)
        assert self.refused(another, waiter).position == 0
        store.release(name, holder.token)
        self.granted(another, waiter)

    def test_a_dead_waiter_is_passed_over_when_its_turn_had_come(self, store: Store, name: str) -> None:
        holder, dead = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, dead, self.short)
        store.release(name, holder.token)
        self.pass_time(self.short)
        self.granted(store, self.claim(name))

    def test_a_dead_holder_makes_room_for_the_line(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name, ttl=self.short))
        store.acquire(waiter, self.long)
        self.pass_time(self.short)
        self.granted(store, waiter, self.long)

    def test_a_place_that_ended_is_lost(self, store: Store, name: str) -> None:
        first, second = self.claim(name), self.claim(name)
        self.granted(store, self.claim(name))
        self.refused(store, first, self.short)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, first, self.long).position == 1
        assert self.refused(store, second).position == 0

    def test_a_place_is_kept_by_repeating(self, store: Store, name: str) -> None:
        first, second = self.claim(name), self.claim(name)
        self.granted(store, self.claim(name))
        self.refused(store, first, self.short)
        self.refused(store, first, self.long)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, first).position == 0

    def test_a_place_is_not_shortened_by_repeating(self, store: Store, name: str) -> None:
        first, second = self.claim(name), self.claim(name)
        self.granted(store, self.claim(name))
        self.in_line(store, first)
        self.refused(store, first, self.short)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, second).position == 1

    def test_a_place_is_kept_by_an_acquire_without_lining_up(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        assert self.refused(store, waiter).position == 0
        store.release(name, holder.token)
        self.refused(store, self.claim(name))

    def test_without_lining_up_there_is_no_place(self, store: Store, name: str) -> None:
        holder = self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name))
        store.release(name, holder.token)
        self.granted(store, self.claim(name))

    def test_leave_is_for_the_own_place_only(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.leave(name, "another")
        store.leave(name + "x", waiter.token)
        store.leave(name, holder.token)
        assert self.refused(store, waiter).position == 0
        assert self.names(store.holders(name)) == [holder.owner]
