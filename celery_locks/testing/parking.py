"""Parking: tickets, leases that are adopted and replaced, leases taken for a task."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Thread

from celery_locks.stores.base import Granted, Store
from celery_locks.stores.listing import Figures, Names
from celery_locks.stores.parking import Call, Dropped, Full, Out, Parked, Parking
from celery_locks.testing.early import EarlyParking
from celery_locks.testing.handed_over import HandedOver


class ParkingCompliance(EarlyParking, HandedOver):
    """What every store promises of parking, of adopted leases and of replaced ones, as tests."""

    # Coming and parking

    def test_a_free_lock_is_granted_and_leaves_no_ticket(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.claim(name)
        granted = parking.enter(claim, self.ticket(1))
        assert isinstance(granted, Granted)
        assert parking.enter(claim, self.ticket(1)) == granted, "the same once more"
        assert parking.hand_on(name, claim.token) == (True, ())
        assert isinstance(self.enter(parking, name, 1), Granted), "a copy that comes later is a first one"

    def test_a_held_lock_parks(self, store: Store, another: Store, parking: Parking, name: str) -> None:
        holder = self.hold(another, name)
        answers = [self.enter(parking, name, number) for number in (1, 2)]
        assert [answer.refused.position for answer in answers if isinstance(answer, Parked)] == [0, 1]
        assert all(self.names(answer.refused.holders) == [holder.owner] for answer in answers)  # type: ignore[attr-defined]
        assert parking.waiting(name) == 2
        self.refused(store, self.claim(name))

    def test_without_a_message_nothing_is_parked(self, store: Store, parking: Parking, name: str) -> None:
        self.hold(store, name)
        assert isinstance(parking.enter(self.claim(name), replace(self.ticket(1), message="")), Parked)
        assert parking.waiting(name) == 0

    def test_a_copy_is_the_same_waiter(self, store: Store, another: Store, parking: Parking, name: str) -> None:
        self.hold(store, name)
        self.park(parking, name, 1, 2)
        assert isinstance(another, Parking)
        self.park(another, name, 1)
        assert parking.waiting(name) == 2

    def test_no_more_than_may_wait(self, store: Store, parking: Parking, name: str) -> None:
        holder = self.hold(store, name)
        few = self.ticket(1, max_waiters=1)
        assert isinstance(parking.enter(self.claim(name), few), Parked)
        assert parking.enter(self.claim(name), self.ticket(2, max_waiters=1)) == Full(1)
        assert isinstance(parking.enter(self.claim(name), few), Parked), "one that is in line already may stay"
        assert self.ids(parking.hand_on(name, holder.token)[1]) == [few.id]

    # Being called

    def test_tickets_are_called_in_the_order_of_their_coming(self, store: Store, parking: Parking, name: str) -> None:
        token = self.hold(store, name).token
        self.park(parking, name, 3, 1, 2)
        for number in (3, 1, 2):
            released, (call,) = parking.hand_on(name, token)
            assert released
            assert call == Call(name, f"task {number}:0", f"message {number}", 1)
            claim = self.claim(name)
            assert isinstance(parking.enter(claim, self.ticket(number)), Granted)
            token = claim.token
        assert parking.hand_on(name, token) == (True, ())
        assert store.holders(name) == ()

    def test_nobody_overtakes_a_called_ticket(self, store: Store, parking: Parking, name: str) -> None:
        parking.enter(holder := self.claim(name), self.ticket(0))
        self.park(parking, name, 1)
        parking.hand_on(name, holder.token)
        self.refused(store, self.claim(name))
        self.park(parking, name, 2)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_tickets_and_waiters_stand_in_one_line(self, store: Store, parking: Parking, name: str) -> None:
        holder, waiter = self.hold(store, name), self.claim(name)
        self.park(parking, name, 1)
        self.in_line(store, waiter)
        self.park(parking, name, 2)
        assert self.ids(parking.hand_on(name, holder.token)[1]) == ["task 1:0"]
        self.refused(store, waiter)
        parking.enter(first := self.claim(name), self.ticket(1))
        assert parking.hand_on(name, first.token) == (True, ())
        assert isinstance(self.enter(parking, name, 2), Parked)
        self.granted(store, waiter)
        assert self.ids(parking.hand_on(name, waiter.token)[1]) == ["task 2:0"]

    def test_a_place_behind_a_ticket_that_ended_is_lost(self, store: Store, parking: Parking, name: str) -> None:
        holder, first, second = self.hold(store, name), self.claim(name), self.claim(name)
        self.park(parking, name, 1)
        self.refused(store, first, self.short)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, second).position == 1, "the dead are not counted"
        assert self.refused(store, first, self.long).position == 2
        assert self.ids(parking.hand_on(name, holder.token)[1]) == ["task 1:0"]
        parking.settle(name, "task 1:0")
        self.refused(store, first)
        self.granted(store, second)

    def test_as_many_are_called_as_fit(self, store: Store, parking: Parking, name: str) -> None:
        holder = self.hold(store, name, limit=3, permits=3)
        for number, permits in ((1, 1), (2, 1), (3, 2), (4, 1)):
            self.park(parking, name, number, limit=3, permits=permits)
        calls = parking.hand_on(name, holder.token)[1]
        assert self.ids(calls) == ["task 1:0", "task 2:0"], "a heavy one that does not fit yet is not overtaken"
        one, two = (each.fencing_token for each in store.holders(name))
        assert one < two, "two that are called at once have one fencing token"
        parking.enter(first := self.claim(name, limit=3), self.ticket(1))
        assert self.ids(parking.hand_on(name, first.token)[1]) == ["task 3:0"]

    def test_a_call_that_was_never_sent_is_made_again(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        parking.hand_on(name, holder.token)
        assert parking.sweep(prefix) == ()
        self.pass_time(self.first_call)
        (call,) = parking.sweep(prefix)
        assert (call.id, call.calls) == ("task 1:0", 2)

    def test_a_call_that_was_sent_has_longer(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        (call,) = parking.hand_on(name, holder.token)[1]
        parking.sent(call, self.long)
        self.pass_time(self.first_call)
        assert parking.sweep(prefix) == ()
        self.refused(store, self.claim(name))
        assert isinstance(self.enter(parking, name, 1), Granted)
        parking.sent(call, self.long)  # late: does nothing

    def test_a_call_that_is_confirmed_too_late_keeps_nothing(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        (call,) = parking.hand_on(name, holder.token)[1]
        self.pass_time(self.first_call)
        parking.sent(call, self.long)
        assert store.holders(name) == ()
        (again,) = parking.sweep(prefix)
        assert (again.id, again.calls) == (call.id, 2)

    def test_a_called_ticket_that_comes_late_keeps_its_place(self, store: Store, parking: Parking, name: str) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        parking.hand_on(name, holder.token)
        self.pass_time(self.first_call)
        assert isinstance(self.enter(parking, name, 2), (Parked, Granted))
        answer = self.enter(parking, name, 1)
        assert isinstance(answer, (Parked, Granted))
        if isinstance(answer, Parked):
            assert answer.refused.position == 0

    # What is told

    def test_a_ticket_has_an_owner_of_its_own(self, store: Store, parking: Parking, name: str) -> None:
        """In line, and while permits are kept for it; its run then has the owner of the claim by which it entered."""
        holder, ticket = self.hold(store, name), replace(self.ticket(1), owner="shop.sync[task 1] via queue shop")
        assert isinstance(parking.enter(self.claim(name), ticket), Parked)
        if store.lists:
            assert [waiter.owner for waiter in store.info(name).line] == [ticket.owner]
        parking.hand_on(name, holder.token)
        (dispatched,) = store.holders(name)
        assert (dispatched.owner, dispatched.state) == (ticket.owner, "dispatched")
        assert (dispatched.queue, dispatched.worker, dispatched.task_id) == ("shop", None, "task 1")
        claim = replace(self.claim(name), owner="shop.sync[task 1] on web1")
        assert isinstance(parking.enter(claim, ticket), Granted)
        (running,) = store.holders(name)
        assert (running.owner, running.state, running.worker, running.queue) == (claim.owner, "running", "web1", None)
        store.release(name, claim.token)

    def test_parked_tasks_are_listed(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2, 3)
        assert store.info(name).waiting == 3
        waiter = self.claim(name)
        self.in_line(store, waiter)
        if store.lists:
            line = store.info(name).line
            assert [waiter.task_id for waiter in line] == ["task 1", "task 2", "task 3", ""]
            assert [waiter.owner[:6] for waiter in line] == ["owner-", "owner-", "owner-", ""]
            assert store.stats(prefix, 1.0).waiting == 4
        store.leave(name, waiter.token)
        assert store.info(name).waiting == 3
        if store.lists:
            assert store.stats(prefix, 1.0).waiting == 3
        parking.hand_on(name, holder.token)  # calls the first, for whom the permits are kept
        assert store.info(name).waiting == 2
        if store.lists:
            (state,), _ = store.page(Names(prefix, prefix, "", 10))
            assert (len(state.holders), state.waiting) == (1, 2)
        for number in (1, 2, 3):
            parking.settle(name, self.ticket(number).id)
        assert store.info(name).waiting == 0
        if store.lists:
            assert store.page(Names(prefix, prefix, "", 10)) == ((), None)
            assert store.stats(prefix, 1.0) == Figures(0, 0, 0, 0)

    # Copies

    def test_a_copy_is_dropped_while_the_task_runs_and_when_it_has(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        parking.hand_on(name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_plain_release_ends_the_ticket_too(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        assert store.release(name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_leaving_the_line_ends_no_run(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        store.leave(name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("running")

    def test_a_copy_takes_over_from_a_run_that_died(self, store: Store, parking: Parking, name: str) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_a_run_that_died_after_a_copy_was_dropped_is_called_again(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        self.park(parking, name, 2)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix)) == ["task 1:0"], "it keeps its place before the next"

    def test_a_copy_takes_over_from_a_run_that_is_known_to_be_dead(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        self.park(parking, name, 2)
        released, calls = parking.died(name, claim.token)
        assert released
        assert self.ids(calls) == ["task 2:0"]
        parking.hand_on(name, self.enter_granted(parking, name, 2))
        assert isinstance(self.enter(parking, name, 1), Granted)
        assert parking.died(name, claim.token) == (False, ()), "and no other run loses its lease by that"

    def test_a_dead_run_is_not_done_by_what_others_do_to_the_lock(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        parking.died(name, claim.token)
        store.leave(name, "somebody else")
        store.force_release(name)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_the_lease_of_a_dead_run_may_be_taken_over_and_given_back(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert Parking.died(parking, name, claim.token) == (True, ())
        assert not store.holders(name)
        assert Parking.died(parking, name, claim.token) == (False, ()), "what is free is not taken"
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_a_dead_run_of_which_a_copy_was_dropped_goes_on_at_its_place(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1, ttl=self.short)
        self.park(parking, name, 2)
        assert self.enter(parking, name, 1) == Dropped("running")
        released, calls = parking.died(name, claim.token)
        assert released
        if not calls or self.ids(calls) != [
            "task 1:0"
        ]:  # a store may leave it in peace until its lease would have ended
            self.pass_time(self.short)
            parking.hand_on(name, self.enter_granted(parking, name, 2))
            calls = parking.sweep(prefix)
        assert self.ids(calls) == ["task 1:0"]

    def test_a_run_that_ended_late_leaves_the_next_run_alone(self, store: Store, parking: Parking, name: str) -> None:
        late = self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(1)), Granted)
        assert parking.hand_on(name, late.token) == (False, ())
        assert self.enter(parking, name, 1) == Dropped("running")
        assert store.release(name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")

    # The sweeper's part

    def test_a_dead_holder_leaves_its_line_to_the_sweeper(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1, 2)
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix)) == ["task 1:0"]
        assert parking.sweep(prefix) == (), "a ticket is called once"

    def test_the_sweeper_is_woken_by_who_can_not_send(
        self, store: Store, another: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        thread = Thread(target=parking.await_due, args=(prefix, self.patience), daemon=True)
        thread.start()
        assert another.release(name, holder.token)
        thread.join(self.patience / 2)
        assert not thread.is_alive()
        assert self.ids(parking.sweep(prefix)) == ["task 1:0"]

    def test_await_due_ends_by_itself(self, parking: Parking, prefix: str) -> None:
        began = time.monotonic()
        parking.await_due(prefix, 0.05)
        assert time.monotonic() - began < self.patience

    def test_a_sweep_keeps_to_its_prefix(self, store: Store, parking: Parking, name: str) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1)
        self.pass_time(self.short)
        assert parking.sweep("another") == ()

    def test_a_waiter_at_the_head_makes_no_sweep_due(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.in_line(store, self.claim(name))
        self.park(parking, name, 1)
        store.release(name, holder.token)
        parking.sweep(prefix)
        began = time.monotonic()
        parking.await_due(prefix, 1.0)
        parking.await_due(prefix, 1.0)  # the first may still be woken by the release
        assert time.monotonic() - began >= 0.9
        assert parking.sweep(prefix) == ()

    # Leaving the line

    def test_who_waited_too_long_is_out(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        self.hold(store, name)
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(1, wait=self.short)), Parked)
        self.park(parking, name, 2)
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix)) == ["task 1:0"]
        assert parking.waiting(name) == 1
        told = parking.enter(claim, self.ticket(1))
        assert isinstance(told, Out)
        assert told.reason == "timeout"
        assert isinstance(parking.enter(claim, self.ticket(1)), Out), "the same once more"
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_who_is_out_is_sent_until_it_comes(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        self.hold(store, name)
        self.park(parking, name, 1)
        assert self.ids(parking.withdraw(prefix, "task 1")) == ["task 1:0"]
        self.pass_time(self.first_call)
        assert self.ids(parking.sweep(prefix)) == ["task 1:0"]
        parking.settle(name, "task 1:0")
        self.pass_time(self.first_call)
        assert parking.sweep(prefix) == ()

    def test_a_withdrawn_task_leaves_at_once(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        (call,) = parking.withdraw(prefix, "task 1")
        assert (call.id, call.message) == ("task 1:0", "message 1")
        assert parking.withdraw(prefix, "task 1") == ()
        assert parking.waiting(name) == 1
        answer = self.enter(parking, name, 1)
        assert isinstance(answer, Out)
        assert answer.reason == "revoked"
        assert self.ids(parking.hand_on(name, holder.token)[1]) == ["task 2:0"]

    def test_a_settled_ticket_gives_its_permits_to_the_next(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        parking.hand_on(name, holder.token)
        parking.settle(name, "task 1:0")
        assert self.ids(parking.sweep(prefix)) == ["task 2:0"]
