"""Requests whose reply was lost: a repeat changes nothing twice, and a loss is never reported in error (promise 5)."""

from __future__ import annotations

from dataclasses import replace

from celery_locks.stores.base import Store
from celery_locks.stores.types import Granted
from celery_locks.testing.compliance.base import StoreTests


class Repeats(StoreTests):
    """Requests whose reply was lost: a repeat changes nothing twice, and a loss is never reported in error."""

    def test_promise_35_an_acquire_whose_reply_is_lost_is_granted_once(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        with self.losing_a_reply(store) as unlucky:
            granted = unlucky.acquire(claim)
        assert isinstance(granted, Granted)
        (holder,) = store.holders(name)
        assert (holder.token, holder.fencing_token) == (claim.token, granted.fencing_token)
        assert store.release(name, claim.token)
        self.granted(store, self.claim(name))

    def test_promise_35_a_place_in_line_whose_reply_is_lost_is_one_place(self, store: Store, name: str) -> None:
        holder, waiter, later = [self.claim(name) for _ in range(3)]
        self.granted(store, holder)
        self.skip_unless_capable(store, waiter, self.long)
        with self.losing_a_reply(store) as unlucky:
            assert self.refused(unlucky, waiter, self.long).position == 0
        assert self.refused(store, later, self.long).position == 1
        store.release(name, holder.token)
        self.granted(store, waiter)
        store.release(name, waiter.token)
        self.granted(store, later)

    def test_promise_35_a_release_whose_reply_is_lost_is_no_loss(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.release(name, claim.token) is True
        assert store.holders(name) == ()

    def test_promise_35_a_release_takes_no_permits_of_another_holder(self, store: Store, name: str) -> None:
        claim, other = [self.claim(name, limit=3) for _ in range(2)]
        self.granted(store, claim)
        self.granted(store, other)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.release(name, claim.token) is True
        assert [holder.token for holder in store.holders(name)] == [other.token]
        assert store.held(name) == 1

    def test_promise_35_a_renewal_whose_reply_is_lost(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.renew([self.renewal(claim)]) == [None]
        assert store.release(name, claim.token)

    def test_promise_35_a_replacement_whose_reply_is_lost_replaces_once(self, store: Store, name: str) -> None:
        old, new = self.claim(name), replace(self.claim(name), replaces=True)
        self.granted(store, old)
        with self.losing_a_reply(store) as unlucky:
            assert isinstance(unlucky.acquire(new), Granted)
        assert [holder.token for holder in store.holders(name)] == [new.token]
        assert store.renew([self.renewal(old), self.renewal(new)]) == ["replaced", None]

    def test_promise_35_a_release_by_force_of_a_free_lock_takes_nothing_later(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.force_release(name) == ()
        self.granted(store, claim)
        assert store.renew([self.renewal(claim)]) == [None]
