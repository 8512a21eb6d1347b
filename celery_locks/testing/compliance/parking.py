"""Parking: tickets, adopted and replaced leases, and leases that are taken at a call."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Thread

from celery_locks.stores.base import Store
from celery_locks.stores.listing import NameRange, Page, Stats
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking
from celery_locks.stores.types import Granted
from celery_locks.testing.compliance.adoption import HandedOver
from celery_locks.testing.compliance.brokers import Brokers
from celery_locks.testing.compliance.early_parking import EarlyParking
from celery_locks.testing.compliance.run_ends import RunEnds


class ParkingCompliance(EarlyParking, HandedOver, RunEnds, Brokers):
    """Tests of what every store promises of parking, of adopted leases and of replaced ones."""

    # --- Parking ---

    def test_a_free_lock_is_granted_and_leaves_no_ticket(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.claim(name)
        granted = parking.enter(claim, self.ticket(1))
        assert isinstance(granted, Granted)
        assert not granted.has_ticket
        assert parking.enter(claim, self.ticket(1)) == granted, "a repeated request"
        assert self.end(parking, name, claim.token) == (True, ())
        assert isinstance(self.enter(parking, name, 1), Granted), "a later copy counts as a first one"

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
        assert isinstance(parking.enter(self.claim(name), few), Parked), "a ticket that is in line already stays"
        assert self.ids(self.end(parking, name, holder.token)[1]) == [few.id]

    # --- Dispatching ---

    def test_tickets_are_dispatched_in_the_order_in_which_they_parked(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        token = self.hold(store, name).token
        self.park(parking, name, 3, 1, 2)
        for number in (3, 1, 2):
            released, (dispatch,) = self.end(parking, name, token)
            assert released
            assert dispatch == Dispatch(name, f"task {number}:0", f"message {number}", 1)
            claim = self.claim(name)
            assert isinstance(parking.enter(claim, self.ticket(number)), Granted)
            token = claim.token
        assert self.end(parking, name, token) == (True, ())
        assert store.holders(name) == ()

    def test_a_dispatched_ticket_is_not_overtaken(self, store: Store, parking: Parking, name: str) -> None:
        parking.enter(holder := self.claim(name), self.ticket(0))
        self.park(parking, name, 1)
        self.end(parking, name, holder.token)
        self.refused(store, self.claim(name))
        self.park(parking, name, 2)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_tickets_and_waiters_stand_in_one_line(self, store: Store, parking: Parking, name: str) -> None:
        holder, waiter = self.hold(store, name), self.claim(name)
        self.park(parking, name, 1)
        self.in_line(store, waiter)
        self.park(parking, name, 2)
        assert self.ids(self.end(parking, name, holder.token)[1]) == ["task 1:0"]
        self.refused(store, waiter)
        parking.enter(first := self.claim(name), self.ticket(1))
        assert self.end(parking, name, first.token) == (True, ())
        assert isinstance(self.enter(parking, name, 2), Parked)
        self.granted(store, waiter)
        assert self.ids(self.end(parking, name, waiter.token)[1]) == ["task 2:0"]

    def test_a_place_behind_a_ticket_that_ended_is_lost(self, store: Store, parking: Parking, name: str) -> None:
        holder, first, second = self.hold(store, name), self.claim(name), self.claim(name)
        self.park(parking, name, 1)
        self.refused(store, first, self.short)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, second).position == 1, "expired places are not counted"
        assert self.refused(store, first, self.long).position == 2
        assert self.ids(self.end(parking, name, holder.token)[1]) == ["task 1:0"]
        parking.finish(name, "task 1:0")
        self.refused(store, first)
        self.granted(store, second)

    def test_as_many_are_dispatched_as_fit(self, store: Store, parking: Parking, name: str) -> None:
        holder = self.hold(store, name, limit=3, permits=3)
        for number, permits in ((1, 1), (2, 1), (3, 2), (4, 1)):
            self.park(parking, name, number, limit=3, permits=permits)
        dispatches = self.end(parking, name, holder.token)[1]
        assert self.ids(dispatches) == ["task 1:0", "task 2:0"], (
            "a ticket of many permits that does not fit yet is not overtaken"
        )
        one, two = (each.fencing_token for each in store.holders(name))
        assert one < two, "two tickets that are dispatched in one step have different fencing tokens"
        parking.enter(first := self.claim(name, limit=3), self.ticket(1))
        assert self.ids(self.end(parking, name, first.token)[1]) == ["task 3:0"]

    def test_a_dispatch_that_was_never_published_is_made_again(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        self.end(parking, name, holder.token)
        assert parking.sweep(prefix, "") == ()
        self.pass_time(self.first_dispatch)
        (dispatch,) = parking.sweep(prefix, "")
        assert (dispatch.id, dispatch.count) == ("task 1:0", 2)

    def test_a_dispatch_that_was_published_has_longer(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        (dispatch,) = self.end(parking, name, holder.token)[1]
        parking.published(dispatch, self.long)
        self.pass_time(self.first_dispatch)
        assert parking.sweep(prefix, "") == ()
        self.refused(store, self.claim(name))
        assert isinstance(self.enter(parking, name, 1), Granted)
        parking.published(dispatch, self.long)  # late: does nothing

    def test_a_dispatch_that_is_confirmed_too_late_keeps_nothing(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        (dispatch,) = self.end(parking, name, holder.token)[1]
        self.pass_time(self.first_dispatch)
        parking.published(dispatch, self.long)
        assert store.holders(name) == ()
        (again,) = parking.sweep(prefix, "")
        assert (again.id, again.count) == (dispatch.id, 2)

    def test_a_dispatched_ticket_that_arrives_late_keeps_its_place(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        self.end(parking, name, holder.token)
        self.pass_time(self.first_dispatch)
        assert isinstance(self.enter(parking, name, 2), (Parked, Granted))
        answer = self.enter(parking, name, 1)
        assert isinstance(answer, (Parked, Granted))
        if isinstance(answer, Parked):
            assert answer.refused.position == 0

    # --- Owners and figures ---

    def test_a_ticket_has_an_owner_of_its_own(self, store: Store, parking: Parking, name: str) -> None:
        """Others see the ticket's owner in line and while permits are kept. The run has the owner of its claim."""
        holder, ticket = self.hold(store, name), replace(self.ticket(1), owner="shop.sync[task 1] via queue shop")
        assert isinstance(parking.enter(self.claim(name), ticket), Parked)
        if store.lists:
            assert [waiter.owner for waiter in store.info(name).line] == [ticket.owner]
        self.end(parking, name, holder.token)
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
        self.end(parking, name, holder.token)  # dispatches the first, for whom the permits are kept
        assert store.info(name).waiting == 2
        if store.lists:
            (state,) = store.page(NameRange(prefix, prefix, "", 10)).items
            assert (len(state.holders), state.waiting) == (1, 2)
        for number in (1, 2, 3):
            parking.finish(name, self.ticket(number).id)
        assert store.info(name).waiting == 0
        if store.lists:
            assert store.page(NameRange(prefix, prefix, "", 10)) == Page((), None)
            assert store.stats(prefix, 1.0) == Stats(0, 0, 0, 0)

    # --- Copies ---

    def test_a_copy_is_dropped_while_the_task_runs_and_when_it_has(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_leaving_the_line_ends_no_run(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        store.leave(name, claim.token)
        assert self.enter(parking, name, 1) == Dropped("running")

    def test_a_copy_takes_over_from_a_run_that_died(self, store: Store, parking: Parking, name: str) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_a_run_that_expired_after_a_copy_was_dropped_is_dispatched_again(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        self.park(parking, name, 2)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"], "it keeps its place before the next"

    # --- Sweeping ---

    def test_a_dead_holder_leaves_its_line_to_the_sweeper(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1, 2)
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]
        assert parking.sweep(prefix, "") == (), "a ticket is dispatched once"

    def test_the_sweeper_is_woken_by_a_plain_release(
        self, store: Store, another: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        thread = Thread(target=parking.await_due, args=(prefix, "", self.patience), daemon=True)
        thread.start()
        assert another.release(name, holder.token)
        thread.join(self.patience / 2)
        assert not thread.is_alive()
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]

    def test_await_due_ends_by_itself(self, parking: Parking, prefix: str) -> None:
        began = time.monotonic()
        parking.await_due(prefix, "", 0.05)
        assert time.monotonic() - began < self.patience

    def test_a_sweep_keeps_to_its_prefix(self, store: Store, parking: Parking, name: str) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1)
        self.pass_time(self.short)
        assert parking.sweep("another", "") == ()

    def test_a_waiter_at_the_head_makes_no_sweep_due(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.in_line(store, self.claim(name))
        self.park(parking, name, 1)
        store.release(name, holder.token)
        parking.sweep(prefix, "")
        began = time.monotonic()
        parking.await_due(prefix, "", 1.0)
        parking.await_due(prefix, "", 1.0)  # the first may still be woken by the release
        assert time.monotonic() - began >= 0.9
        assert parking.sweep(prefix, "") == ()

    # --- Leaving the line ---

    def test_a_ticket_that_waited_too_long_is_out(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        self.hold(store, name)
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(1, wait=self.short)), Parked)
        self.park(parking, name, 2)
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]
        assert parking.waiting(name) == 1
        told = parking.enter(claim, self.ticket(1))
        assert isinstance(told, Out)
        assert told.reason == "timeout"
        assert isinstance(parking.enter(claim, self.ticket(1)), Out), "a repeated request"
        parking.finish(name, "task 1:0")
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_ticket_that_is_out_is_published_until_it_is_finished(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        """The worker that gets a copy may die before it has stored the task's result."""
        self.hold(store, name)
        self.park(parking, name, 1)
        assert self.ids(parking.withdraw(prefix, "", "task 1")) == ["task 1:0"]
        assert isinstance(self.enter(parking, name, 1), Out)
        parking.finish(name, "task 1:0", "a token")
        self.pass_time(self.first_dispatch)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]
        assert isinstance(self.enter(parking, name, 1), Out), "each copy gets the same answer"
        parking.finish(name, "task 1:0")
        assert self.enter(parking, name, 1) == Dropped("done")
        self.pass_time(self.first_dispatch)
        assert parking.sweep(prefix, "") == ()

    def test_a_withdrawn_task_leaves_the_line_immediately(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        (dispatch,) = parking.withdraw(prefix, "", "task 1")
        assert (dispatch.id, dispatch.message) == ("task 1:0", "message 1")
        assert parking.withdraw(prefix, "", "task 1") == ()
        assert parking.waiting(name) == 1
        answer = self.enter(parking, name, 1)
        assert isinstance(answer, Out)
        assert answer.reason == "revoked"
        assert self.ids(self.end(parking, name, holder.token)[1]) == ["task 2:0"]

    def test_a_finished_ticket_leaves_its_permits_to_the_next(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        self.end(parking, name, holder.token)
        parking.finish(name, "task 1:0")
        assert self.ids(parking.sweep(prefix, "")) == ["task 2:0"]
