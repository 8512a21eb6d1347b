"""Parking before the pool: `Parking.park`, in stores that have it."""

from __future__ import annotations

from dataclasses import replace

from celery_locks.stores.base import Store
from celery_locks.stores.listing import LockInfo
from celery_locks.stores.parking import Dispatch, Dropped, Parked, Parking
from celery_locks.stores.types import Granted
from celery_locks.testing.compliance.ticket_base import TicketTests


class EarlyParking(TicketTests):
    """A ticket that can't run now is parked, and no permit is taken."""

    def parks_early(self, parking: Parking) -> bool:
        """Return whether the store overrides `Parking.park`. Other stores never park by it."""
        return type(parking).park is not Parking.park

    def test_what_is_free_is_not_parked(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        assert parking.park(self.claim(name), self.ticket(1)) is None
        assert store.info(name) == LockInfo(name, (), 0, 0)
        assert parking.sweep(prefix, "") == ()
        granted = parking.enter(claim := self.claim(name), self.ticket(1))
        assert isinstance(granted, Granted)
        assert self.end(parking, name, claim.token) == (True, ())
        assert isinstance(self.enter(parking, name, 1), Granted), "its ticket became known, and is done"

    def test_what_is_held_is_parked(self, store: Store, another: Store, parking: Parking, name: str) -> None:
        holder = self.hold(another, name)
        answers = [parking.park(self.claim(name), self.ticket(number)) for number in (1, 2)]
        if not self.parks_early(parking):
            assert answers == [None, None]
            return
        assert [answer.refused.position for answer in answers if answer] == [0, 1]
        assert all(self.names(answer.refused.holders) == [holder.owner] for answer in answers if answer)
        assert parking.waiting(name) == 2
        assert self.names(store.holders(name)) == [holder.owner]
        (dispatch,) = self.end(parking, name, holder.token)[1]
        assert dispatch == Dispatch(name, "task 1:0", "message 1", 1)
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_without_a_message_it_is_only_asked(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        asking = replace(self.ticket(1), message="")
        assert parking.park(self.claim(name), asking) is None
        holder = self.hold(store, name)
        answer = parking.park(self.claim(name), asking)
        if self.parks_early(parking):
            assert answer is not None
            assert answer.refused.position is None
            assert self.names(answer.refused.holders) == [holder.owner]
        assert parking.waiting(name) == 0
        assert self.end(parking, name, holder.token) == (True, ())
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_a_known_ticket_is_left_alone(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        ticket = self.ticket(1)

        def asked() -> Parked | None:
            return parking.park(self.claim(name), ticket)

        self.park(parking, name, 1, 2)
        assert asked() is None, "parked"
        assert parking.waiting(name) == 2
        self.end(parking, name, holder.token)
        assert asked() is None, "dispatched"
        self.refused(store, self.claim(name))
        token = self.enter_granted(parking, name, 1)
        assert asked() is None, "running"
        assert self.ids(self.end(parking, name, token)[1]) == ["task 2:0"]
        assert asked() is None, "done"
        assert self.enter(parking, name, 1) == Dropped("done")
        assert self.ids(parking.withdraw(prefix, "", "task 2")) == [], "it is dispatched, not parked"

    def test_the_line_before_it_counts(self, store: Store, parking: Parking, name: str) -> None:
        holder, waiter = self.hold(store, name), self.claim(name)
        self.in_line(store, waiter)
        assert store.release(name, holder.token)
        answer = parking.park(self.claim(name), self.ticket(1))
        if self.parks_early(parking):
            assert answer is not None, "free, but not for it"
            assert answer.refused.position == 1
            assert answer.refused.holders == ()
        self.granted(store, waiter)
        dispatches = self.end(parking, name, waiter.token)[1]
        assert self.ids(dispatches) == (["task 1:0"] if self.parks_early(parking) else [])

    def test_no_more_are_parked_than_may_wait(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1)
        assert parking.park(self.claim(name), self.ticket(2, max_waiters=1)) is None
        assert parking.waiting(name) == 1
        assert parking.withdraw(prefix, "", "task 2") == ()
        assert self.ids(self.end(parking, name, holder.token)[1]) == ["task 1:0"]
        assert self.end(parking, name, self.enter_granted(parking, name, 1)) == (True, ())
        assert isinstance(self.enter(parking, name, 2), Granted)

    def test_a_ticket_whose_turn_has_come_is_dispatched_on_the_way(
        self, store: Store, parking: Parking, name: str
    ) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1)
        self.pass_time(self.short)
        answer = parking.park(self.claim(name), self.ticket(2))
        if self.parks_early(parking):
            assert answer is not None
            assert self.ids(answer.dispatches) == ["task 1:0"]
            assert answer.refused.position == 0
        assert isinstance(self.enter(parking, name, 1), Granted)

    def test_one_that_is_parked_early_is_out_in_time(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.hold(store, name)
        answer = parking.park(self.claim(name), self.ticket(1, wait=self.short))
        self.pass_time(self.short)
        dispatches = parking.sweep(prefix, "")
        assert self.ids(dispatches) == ([] if answer is None else ["task 1:0"])
        assert parking.waiting(name) == 0
