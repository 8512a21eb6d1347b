"""The state of a ticket when its run ends: it is done, or runs again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.listing import LockInfo
from celery_locks.stores.parking import Dropped, Parked, Parking, RunEndName
from celery_locks.stores.types import Granted, Renewal
from celery_locks.testing.compliance.ticket_base import TicketTests


class RunEnds(TicketTests):
    """A ticket is done only when its run ended for good."""

    def test_a_run_that_ended_for_good_is_done(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.end(parking, name, claim.token) == (True, ())
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_run_that_did_not_end_for_good_runs_again(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.end(parking, name, claim.token, "again") == (True, ())
        assert store.info(name) == LockInfo(name, (), 0, 0), "an ended ticket holds nothing and stands in no line"
        again = self.claim(name)
        assert isinstance(parking.enter(again, self.ticket(1)), Granted)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, again.token)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_an_ended_ticket_keeps_its_place_before_later_ones(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        self.park(parking, name, 2, 3)
        assert self.ids(self.end(parking, name, claim.token, "again")[1]) == ["task 2:0"]
        answer = self.enter(parking, name, 1)
        assert isinstance(answer, Parked)
        assert answer.refused.position == 0
        answer = self.enter(parking, name, 2)
        assert isinstance(answer, Parked)
        assert self.ids(answer.dispatches) == ["task 1:0"], "the second was dispatched, and the first arrived since"

    @pytest.mark.parametrize("end", ["stored", "rejected", "again"])
    def test_an_ended_ticket_is_not_dispatched_by_itself(
        self, store: Store, parking: Parking, prefix: str, name: str, end: RunEndName
    ) -> None:
        claim = self.run(store, parking, name, 1)
        self.end(parking, name, claim.token, end)
        assert parking.sweep(prefix, "") == ()
        self.pass_time(max(self.first_dispatch, self.store_grace))
        assert parking.sweep(prefix, "") == ()

    def test_an_ended_ticket_of_which_a_copy_was_dropped_is_parked_at_its_old_place(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        self.park(parking, name, 2)
        assert self.enter(parking, name, 1) == Dropped("running")
        released, (dispatch,) = self.end(parking, name, claim.token, "again")
        assert released
        assert (dispatch.id, dispatch.message, dispatch.count) == ("task 1:0", "message 1", 2)
        assert parking.waiting(name) == 1

    def test_a_run_that_ended_for_good_is_done_though_a_copy_was_dropped(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1, ttl=self.short)
        assert self.enter(parking, name, 1) == Dropped("running")
        assert self.end(parking, name, claim.token)[1] == ()
        self.pass_time(self.short)
        assert parking.sweep(prefix, "") == ()
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_plain_release_does_not_end_a_run_for_good(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        assert store.release(name, claim.token)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_a_plain_release_after_a_copy_was_dropped_leaves_the_ticket_to_the_sweeper(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        assert store.release(name, claim.token)
        assert parking.waiting(name) == 1
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]

    @pytest.mark.parametrize("end", ["final", "stored", "rejected", "again"])
    def test_a_run_whose_lease_has_expired_ends_its_ticket(
        self, store: Store, parking: Parking, name: str, end: RunEndName
    ) -> None:
        claim = self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        assert self.end(parking, name, claim.token, end) == (False, ())
        answer = self.enter(parking, name, 1)
        assert answer == Dropped("done") if end == "final" else isinstance(answer, Granted)

    @pytest.mark.parametrize("end", ["final", "stored", "rejected", "again"])
    def test_a_run_that_was_taken_over_leaves_the_next_run_alone(
        self, store: Store, parking: Parking, name: str, end: RunEndName
    ) -> None:
        late = self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(1)), Granted)
        assert self.end(parking, name, late.token, end) == (False, ())
        parking.finish(name, "task 1:0", late.token)
        assert self.enter(parking, name, 1) == Dropped("running")
        assert self.end(parking, name, claim.token)[0]
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_the_end_of_an_ended_run_changes_nothing(self, store: Store, parking: Parking, name: str) -> None:
        claim = self.run(store, parking, name, 1)
        self.end(parking, name, claim.token, "again")
        assert self.end(parking, name, claim.token) == (False, ())
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_an_ended_ticket_is_not_done_by_what_others_do_to_the_lock(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        self.end(parking, name, claim.token, "again")
        store.leave(name, "another token")
        store.force_release(name)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_an_ended_ticket_is_finished_by_its_run(self, store: Store, parking: Parking, name: str) -> None:
        """As when the message was acknowledged late, after the result was stored."""
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, claim.token, "again")  # parks it again, since a copy was dropped
        parking.finish(name, "task 1:0", claim.token)
        token = self.enter_granted(parking, name, 1)
        self.end(parking, name, token, "again")
        parking.finish(name, "task 1:0", claim.token)
        parking.finish(name, "task 2:0", token)
        again = self.enter_granted(parking, name, 1)
        self.end(parking, name, again, "again")
        parking.finish(name, "task 1:0", again)
        assert self.enter(parking, name, 1) == Dropped("done")
        parking.finish(name, "task 1:0", again)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_running_ticket_is_finished_by_its_run(self, store: Store, parking: Parking, name: str) -> None:
        """As when a release waits for a store that was away, and the result is stored meanwhile."""
        claim = self.run(store, parking, name, 1)
        self.park(parking, name, 2)
        parking.finish(name, "task 1:0", "another token")
        assert self.enter(parking, name, 1) == Dropped("running")
        parking.finish(name, "task 1:0", claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")
        released, dispatches = self.end(parking, name, claim.token, "again")
        assert (released, self.ids(dispatches)) == (True, ["task 2:0"])
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_a_run_whose_lease_a_retry_adopted_finishes_its_ticket(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1, ttl=self.short)
        assert self.enter(parking, name, 1) == Dropped("running")
        adopter = replace(self.claim(name), adopts=claim.token)
        self.granted(store, adopter)
        parking.finish(name, "task 1:0", claim.token)
        assert self.enter(parking, name, 1) == Dropped("done")
        self.pass_time(self.short)
        assert parking.sweep(prefix, "") == ()
        assert self.names(store.holders(name)) == [adopter.owner]

    # --- A result that is not stored yet ---

    def test_a_run_whose_result_was_not_stored_runs_again_when_its_message_comes(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.end(parking, name, claim.token, "stored") == (True, ())
        assert store.info(name) == LockInfo(name, (), 0, 0), "an ended ticket holds nothing and stands in no line"
        token = self.enter_granted(parking, name, 1)
        self.end(parking, name, token, "stored")
        parking.finish(name, "task 1:0", token)
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_an_owed_run_whose_result_is_stored_in_time_is_done(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        assert self.end(parking, name, claim.token, "stored") == (True, ())
        assert parking.sweep(prefix, "") == ()
        assert parking.waiting(name) == 0, "the next run must not begin before the result is stored"
        parking.finish(name, "task 1:0", claim.token)
        self.pass_time(self.store_grace)
        assert parking.sweep(prefix, "") == ()
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_an_owed_run_whose_result_is_not_stored_in_time_is_parked_at_its_old_place(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, claim.token, "stored")
        self.hold(store, name, ttl=self.store_grace / 2)
        self.park(parking, name, 2)
        self.pass_time(self.store_grace)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]
        parking.finish(name, "task 1:0", claim.token)
        assert isinstance(self.enter(parking, name, 1), Granted), "too late: another run has the ticket"

    # --- Owed runs ---

    @pytest.mark.parametrize("end", ["stored", "again"])
    def test_the_run_after_an_owed_run_is_owed(
        self, store: Store, parking: Parking, prefix: str, name: str, end: RunEndName
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, claim.token, "stored")
        token = self.enter_granted(parking, name, 1)
        assert len(self.end(parking, name, token, end)[1]) == (end == "again")
        self.pass_time(max(self.first_dispatch, self.store_grace))
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]

    def test_the_run_after_an_owed_run_that_died_is_owed(self, store: Store, parking: Parking, name: str) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.pass_time(self.short)
        token = self.enter_granted(parking, name, 1)
        assert self.ids(self.end(parking, name, token, "again")[1]) == ["task 1:0"]

    def test_the_run_after_a_run_that_was_not_owed_is_not_owed(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.run(store, parking, name, 1, ttl=self.short)
        self.pass_time(self.short)
        token = self.enter_granted(parking, name, 1)
        assert self.end(parking, name, token, "again")[1] == ()
        token = self.enter_granted(parking, name, 1)
        assert self.end(parking, name, token, "again")[1] == ()
        assert parking.sweep(prefix, "") == ()

    @pytest.mark.parametrize(("late", "owed"), [(True, True), (False, False)], ids=["late", "early"])
    def test_a_run_that_began_from_the_line_is_owed_if_its_task_acknowledges_late(
        self, store: Store, parking: Parking, name: str, late: bool, owed: bool
    ) -> None:
        """Its first message was acknowledged when the ticket parked. The broker may not deliver this copy again."""
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        store.release(name, holder.token)
        claim = self.claim(name)
        ticket = self.ticket(1, late=late)
        granted = parking.enter(claim, ticket)
        assert isinstance(granted, Granted)
        assert granted.has_ticket
        assert parking.enter(claim, ticket) == granted, "a repeated request"
        assert self.ids(self.end(parking, name, claim.token, "again")[1]) == (["task 1:0"] if owed else [])

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_a_late_run_is_owed_unless_its_copy_is_the_last_that_was_dispatched(
        self, store: Store, parking: Parking, prefix: str, name: str, count: int
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        (dispatch,) = self.end(parking, name, holder.token)[1]
        assert dispatch.count == 1
        self.pass_time(self.first_dispatch)
        (dispatch,) = parking.sweep(prefix, "")
        assert dispatch.count == 2
        token = self.enter_late(parking, name, 1, count)
        assert len(self.end(parking, name, token, "again")[1]) == (count != dispatch.count)

    def test_a_late_copy_that_takes_over_is_owed_only_if_it_is_an_older_one(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        """The broker delivers a message that is requeued again and again: the store adds none to the queue."""
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        self.end(parking, name, holder.token)
        for _ in range(3):
            token = self.enter_late(parking, name, 1, 1)
            assert self.end(parking, name, token, "again")[1] == ()
        token = self.enter_late(parking, name, 1, 0)
        assert self.ids(self.end(parking, name, token, "again")[1]) == ["task 1:0"]

    def test_a_ticket_that_is_not_known_is_not_owed(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        token = self.enter_late(parking, name, 1, 0)
        assert self.end(parking, name, token, "again") == (True, ())
        assert parking.sweep(prefix, "") == ()
        assert parking.waiting(name) == 0

    def test_an_owed_run_that_dies_is_dispatched_again(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        self.end(parking, name, holder.token)
        self.enter_late(parking, name, 1, 0, ttl=self.short)
        assert parking.sweep(prefix, "") == ()
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]

    def test_an_owed_run_that_renews_its_lease_goes_on(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        self.end(parking, name, holder.token)
        token = self.enter_late(parking, name, 1, 0, ttl=self.short)
        assert store.renew([Renewal(name, token, self.long)]) == [None]
        self.pass_time(self.short)
        assert parking.sweep(prefix, "") == ()
        assert parking.waiting(name) == 0
        assert self.end(parking, name, token) == (True, ())
        assert parking.sweep(prefix, "") == ()
        assert self.enter(parking, name, 1) == Dropped("done")

    # --- A rejected message ---

    @pytest.mark.parametrize("owed", [False, True], ids=["not owed", "owed"])
    def test_a_run_whose_message_was_rejected_runs_again_only_when_a_copy_arrives(
        self, store: Store, parking: Parking, prefix: str, name: str, owed: bool
    ) -> None:
        """As when a dead-letter queue brings the message again."""
        claim = self.run(store, parking, name, 1)
        if owed:
            assert self.enter(parking, name, 1) == Dropped("running")
        assert self.end(parking, name, claim.token, "rejected") == (True, ())
        assert store.info(name) == LockInfo(name, (), 0, 0), "an ended ticket holds nothing and stands in no line"
        assert parking.sweep(prefix, "") == ()
        self.pass_time(max(self.first_dispatch, self.store_grace))
        assert parking.sweep(prefix, "") == ()
        token = self.enter_granted(parking, name, 1)
        assert self.end(parking, name, token) == (True, ())
        assert self.enter(parking, name, 1) == Dropped("done")

    def test_the_run_after_an_owed_run_whose_message_was_rejected_is_not_owed(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.end(parking, name, claim.token, "rejected")
        token = self.enter_granted(parking, name, 1)
        assert self.end(parking, name, token, "again") == (True, ())
        assert parking.sweep(prefix, "") == ()
        assert parking.waiting(name) == 0

    def test_the_end_of_a_run_whose_message_was_rejected_dispatches_the_next(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        claim = self.run(store, parking, name, 1)
        assert self.enter(parking, name, 1) == Dropped("running")
        self.park(parking, name, 2)
        released, dispatches = self.end(parking, name, claim.token, "rejected")
        assert (released, self.ids(dispatches)) == (True, ["task 2:0"])

    # --- Ends without a run ---

    @pytest.mark.parametrize("state", ["parked", "dispatched", "running", "ended", "out"])
    def test_a_ticket_is_finished_wherever_it_is(
        self, store: Store, parking: Parking, prefix: str, name: str, state: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        if state in ("dispatched", "running", "ended"):
            self.end(parking, name, holder.token)
        if state in ("running", "ended"):
            token = self.enter_granted(parking, name, 1)
        if state == "ended":
            self.end(parking, name, token, "again")
        if state == "out":
            assert self.ids(parking.withdraw(prefix, "", "task 1")) == ["task 1:0"]
        parking.finish(name, "task 1:0")
        assert parking.waiting(name) == 0
        assert self.enter(parking, name, 1) == Dropped("done")
        self.pass_time(self.first_dispatch)
        assert parking.sweep(prefix, "") == ()

    def test_a_ticket_that_runs_under_a_living_lease_is_left_alone_where_only_others_are_finished(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        """As when a copy of a message ends without a run, and another worker runs its task."""
        claim = self.run(store, parking, name, 1)
        parking.finish(name, "task 1:0", running=False)
        assert self.enter(parking, name, 1) == Dropped("running")
        assert self.end(parking, name, claim.token) == (True, ())
        assert self.enter(parking, name, 1) == Dropped("done")

    @pytest.mark.parametrize("state", ["parked", "dispatched", "expired", "ended", "out"])
    def test_a_ticket_without_a_living_run_is_finished_where_only_others_are(
        self, store: Store, parking: Parking, prefix: str, name: str, state: str
    ) -> None:
        if state in ("parked", "out"):
            self.hold(store, name)
            self.park(parking, name, 1)
        if state == "out":
            assert self.ids(parking.withdraw(prefix, "", "task 1")) == ["task 1:0"]
        if state == "dispatched":
            holder = self.hold(store, name)
            self.park(parking, name, 1)
            assert self.ids(self.end(parking, name, holder.token)[1]) == ["task 1:0"]
        if state in ("expired", "ended"):
            claim = self.run(store, parking, name, 1, ttl=self.short)
        if state == "expired":
            self.pass_time(self.short)
        if state == "ended":
            self.end(parking, name, claim.token, "again")
        parking.finish(name, "task 1:0", running=False)
        assert parking.waiting(name) == 0
        assert self.enter(parking, name, 1) == Dropped("done")
        self.pass_time(self.first_dispatch)
        assert parking.sweep(prefix, "") == ()
