"""A store that is shared by services with brokers of their own, and the wake-ups of their sweepers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread, Timer

from celery_locks.stores.base import Store
from celery_locks.stores.parking import Dropped, Parked, Parking
from celery_locks.stores.types import Granted
from celery_locks.testing.compliance.ticket_base import TicketTests

#: Identities of two brokers.
MAIL, BILLING = "amqp://mail", "redis://billing/0"


class Brokers(TicketTests):
    """A step dispatches tickets of its own broker only, and wakes the sweeper of another one."""

    #: Seconds by which a sweeper may be late for a due ticket.
    late = 1.0

    @contextmanager
    def sweeper_waits(self, parking: Parking, prefix: str, broker: str) -> Iterator[None]:
        """Have a sweeper of a broker wait, and expect that the block wakes it."""
        thread = Thread(target=parking.await_due, args=(prefix, broker, self.patience), daemon=True)
        thread.start()
        yield
        thread.join(self.late + 1.0)
        assert not thread.is_alive(), f"the sweeper of {broker} was not woken"

    def waits_for(self, parking: Parking, prefix: str, broker: str) -> float:
        """Return for how many of 0.3 seconds a sweeper waits."""
        began = time.monotonic()
        parking.await_due(prefix, broker, 0.3)
        return time.monotonic() - began

    def test_the_first_ticket_of_another_broker_stays_first(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        self.park(parking, name, 2, broker=BILLING)
        assert self.end(parking, name, holder.token, broker=BILLING) == (True, ())
        assert parking.waiting(name) == 2
        answer = self.enter(parking, name, 3, BILLING)
        assert isinstance(answer, Parked)
        assert (answer.dispatches, answer.refused.position) == ((), 2)
        assert parking.sweep(prefix, BILLING) == ()
        assert self.ids(parking.sweep(prefix, MAIL)) == ["task 1:0"]
        token = self.claim(name)
        assert isinstance(parking.enter(token, self.ticket(1, broker=MAIL)), Granted)
        assert self.end(parking, name, token.token, broker=MAIL) == (True, ())
        assert self.ids(parking.sweep(prefix, BILLING)) == ["task 2:0"]

    def test_the_sweeper_of_the_first_ticket_s_broker_is_woken(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        with self.sweeper_waits(parking, prefix, MAIL):
            self.end(parking, name, holder.token, broker=BILLING)
        assert self.ids(parking.sweep(prefix, MAIL)) == ["task 1:0"]

    def test_the_sweeper_of_another_broker_waits_on(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        self.park(parking, name, 2, broker=BILLING)
        self.end(parking, name, holder.token, broker=BILLING)
        parking.sweep(prefix, BILLING)
        self.waits_for(parking, prefix, BILLING)  # it may have been woken before
        parking.sweep(prefix, BILLING)
        assert self.waits_for(parking, prefix, BILLING) >= 0.25
        assert self.waits_for(parking, prefix, MAIL) < 0.25

    def test_a_plain_release_wakes_the_sweeper_of_the_ticket_s_broker(
        self, store: Store, another: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        with self.sweeper_waits(parking, prefix, MAIL):
            assert another.release(name, holder.token)
        assert parking.sweep(prefix, BILLING) == ()
        assert self.ids(parking.sweep(prefix, MAIL)) == ["task 1:0"]

    def test_a_ticket_that_parks_dispatches_none_of_another_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.hold(store, name, ttl=self.short)
        self.park(parking, name, 1, broker=MAIL)
        self.pass_time(self.short)
        for answer in (
            parking.enter(self.claim(name), self.ticket(2, broker=BILLING)),
            parking.park(self.claim(name), self.ticket(3, broker=BILLING)),
        ):
            assert answer is None or (isinstance(answer, Parked) and answer.dispatches == ())
        answer = parking.enter(self.claim(name), self.ticket(4, broker=MAIL))
        assert isinstance(answer, Parked)
        assert self.ids(answer.dispatches) == ["task 1:0"]

    def test_a_ticket_that_is_due_hides_none_of_another_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        """Many tickets of one broker have waited too long, and it has no sweeper."""
        self.hold(store, name)
        for number in range(105):
            ticket = self.ticket(number, wait=self.short, broker=MAIL)
            assert isinstance(parking.enter(self.claim(name), ticket), Parked)
        ticket = self.ticket(200, wait=self.short, broker=BILLING)
        assert isinstance(parking.enter(self.claim(name), ticket), Parked)
        self.pass_time(self.short)
        assert self.ids(parking.sweep(prefix, BILLING)) == ["task 200:0"]
        assert parking.sweep(prefix, BILLING) == ()
        self.waits_for(parking, prefix, BILLING)
        assert self.waits_for(parking, prefix, BILLING) >= 0.25
        assert len(parking.sweep(prefix, MAIL)) + len(parking.sweep(prefix, MAIL)) == 105

    def test_an_overdue_dispatch_is_left_to_the_sweeper_of_its_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        self.park(parking, name, 2, broker=BILLING)
        assert self.ids(self.end(parking, name, holder.token, broker=MAIL)[1]) == ["task 1:0"]
        self.pass_time(self.first_dispatch)
        assert self.ids(parking.sweep(prefix, BILLING)) == ["task 2:0"], "the permits are no longer kept"
        assert parking.sweep(prefix, MAIL) == (), "it is parked again, and the second holds the permits"
        answer = self.enter(parking, name, 1, MAIL)
        assert isinstance(answer, Parked)
        assert answer.refused.position == 0

    def test_an_expired_run_is_left_to_the_sweeper_of_its_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.run(store, parking, name, 1, ttl=self.short, broker=MAIL)
        assert self.enter(parking, name, 1, MAIL) == Dropped("running")
        self.pass_time(self.short)
        assert parking.sweep(prefix, BILLING) == ()
        (dispatch,) = parking.sweep(prefix, MAIL)
        assert (dispatch.id, dispatch.count) == ("task 1:0", 2)

    def test_a_ticket_without_a_broker_is_dispatched_by_every_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, 2)
        assert self.ids(self.end(parking, name, holder.token, broker=MAIL)[1]) == ["task 1:0"]
        with self.sweeper_waits(parking, prefix, BILLING):
            store.release(name, self.enter_granted(parking, name, 1))
        assert self.ids(parking.sweep(prefix, BILLING)) == ["task 2:0"]

    def test_a_step_for_no_broker_dispatches_only_tickets_without_one(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        holder = self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        self.park(parking, name, 2)
        assert self.end(parking, name, holder.token) == (True, ())
        assert parking.sweep(prefix, "") == ()
        parking.finish(name, "task 1:0")
        assert self.ids(parking.sweep(prefix, "")) == ["task 2:0"]

    def test_a_task_of_another_broker_is_not_withdrawn(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        """Two services may use the same task ids."""
        other = f"{prefix}:{{other}}"
        for place in (name, other):
            self.hold(store, place)
        self.park(parking, name, 1, broker=MAIL)
        assert parking.withdraw(prefix, BILLING, "task 1") == ()
        assert parking.withdraw(prefix, "", "task 1") == ()
        self.park(parking, other, 1, broker=BILLING)
        (dispatch,) = parking.withdraw(prefix, MAIL, "task 1")
        assert dispatch.name == name
        (dispatch,) = parking.withdraw(prefix, BILLING, "task 1")
        assert dispatch.name == other

    def test_a_withdrawn_ticket_is_published_again_by_the_sweeper_of_its_broker(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        assert self.ids(parking.withdraw(prefix, MAIL, "task 1")) == ["task 1:0"]
        self.pass_time(self.first_dispatch)
        assert parking.sweep(prefix, BILLING) == ()
        assert self.ids(parking.sweep(prefix, MAIL)) == ["task 1:0"]

    def test_the_sweeper_is_in_time_for_a_ticket_that_parks_while_it_waits(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        """The longest wait of a ticket ends before the moment that the sweeper waits for."""
        self.hold(store, name)
        self.park(parking, name, 1, broker=MAIL)
        self.waits_for(parking, prefix, MAIL)  # what woke it before is over
        parking.sweep(prefix, MAIL)

        def park() -> None:
            ticket = self.ticket(2, wait=0.5, broker=MAIL)
            assert isinstance(parking.enter(self.claim(name), ticket), Parked)
            self.pass_time(0.5)

        timer, began = Timer(0.3, park), time.monotonic()
        timer.start()
        dispatches = parking.sweep(prefix, MAIL)
        while not dispatches and (left := began + self.patience - time.monotonic()) > 0:
            parking.await_due(prefix, MAIL, left)
            dispatches = parking.sweep(prefix, MAIL)
        took = time.monotonic() - began
        timer.join()
        assert self.ids(dispatches) == ["task 2:0"]
        assert took < 0.8 + self.late
