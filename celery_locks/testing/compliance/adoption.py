"""Leases that are taken for a task: adopted, replaced, withdrawn."""

from __future__ import annotations

from dataclasses import replace

from celery_locks.stores.base import Store
from celery_locks.stores.parking import Parking
from celery_locks.stores.types import Refused, Renewal
from celery_locks.testing.compliance.ticket_base import TicketTests


class HandedOver(TicketTests):
    """Leases that another claim takes over."""

    def test_of_two_that_adopt_a_lease_one_gets_it(self, store: Store, another: Store, name: str) -> None:
        called = self.claim(name)
        fence = self.granted(store, called)
        first, second = (replace(self.claim(name), adopts=called.token) for _ in range(2))
        later = self.granted(another, first)
        assert later > fence
        assert self.granted(store, first) == later, "a repeated request"
        self.refused(store, second)
        assert not store.release(name, called.token)

    def test_a_lease_is_adopted_before_the_line(self, store: Store, name: str) -> None:
        called = self.hold(store, name)
        self.in_line(store, self.claim(name))
        self.granted(store, replace(self.claim(name), adopts=called.token))

    def test_who_heads_the_line_may_adopt_what_has_ended(self, store: Store, name: str) -> None:
        holder = self.hold(store, name)
        claim = replace(self.claim(name), adopts="ended")
        self.refused(store, claim, self.long)
        store.release(name, holder.token)
        self.granted(store, claim)
        store.release(name, claim.token)
        self.granted(store, self.claim(name))

    def test_an_ended_lease_is_not_adopted(self, store: Store, name: str) -> None:
        called = self.hold(store, name, ttl=self.short)
        self.pass_time(self.short)
        self.hold(store, name)
        self.refused(store, replace(self.claim(name), adopts=called.token))

    def test_an_adoption_keeps_to_the_limit(self, store: Store, another: Store, name: str) -> None:
        called, others = self.hold(store, name, limit=3), [self.hold(store, name, limit=3) for _ in range(2)]
        heavy = replace(self.claim(name, limit=3, permits=3), adopts=called.token)
        self.refused(another, heavy)
        assert store.held(name) == 3
        store.release(name, others[0].token)
        self.granted(another, replace(self.claim(name, limit=3, permits=2), adopts=called.token))
        assert store.held(name) == 3

    def test_a_newcomer_replaces_the_holder(self, store: Store, another: Store, name: str) -> None:
        old = self.claim(name)
        fence = self.granted(store, old)
        new = replace(self.claim(name), replaces=True)
        assert self.granted(another, new) > fence
        assert store.renew([Renewal(name, old.token, self.long)]) == ["replaced"]
        assert self.names(store.holders(name)) == [new.owner]
        adopting = store.acquire(replace(self.claim(name), adopts=old.token))
        assert isinstance(adopting, Refused)
        assert adopting.replaced
        store.release(name, new.token)
        late = store.acquire(replace(self.claim(name), adopts=old.token))
        assert isinstance(late, Refused), "a lease that was replaced does not come back"
        assert late.replaced

    def test_as_many_are_replaced_as_needed_the_earliest_first(self, store: Store, name: str) -> None:
        first, second = (self.hold(store, name, limit=2) for _ in range(2))
        self.granted(store, replace(self.claim(name, limit=2), replaces=True))
        assert store.renew([Renewal(name, each.token, self.long) for each in (first, second)]) == ["replaced", None]

    def test_a_lease_taken_for_a_task_is_withdrawn_by_it(
        self, store: Store, parking: Parking, prefix: str, name: str
    ) -> None:
        self.granted(store, replace(self.claim(name), task_id="the task"))
        assert parking.withdraw(prefix, "", "another task") == ()
        assert len(store.holders(name)) == 1
        assert parking.withdraw(prefix, "", "the task") == ()
        assert store.holders(name) == ()

    def test_an_adopted_lease_is_not_withdrawn(self, store: Store, parking: Parking, prefix: str, name: str) -> None:
        called = replace(self.claim(name), task_id="the task")
        self.granted(store, called)
        self.granted(store, replace(self.claim(name), adopts=called.token))
        parking.withdraw(prefix, "", "the task")
        assert len(store.holders(name)) == 1
