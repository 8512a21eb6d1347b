"""A lease of several permits releases some of them."""

from __future__ import annotations

import pytest

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store
from celery_locks.testing.compliance.base import StoreTests


class Shrinking(StoreTests):
    """A lease of several permits releases some of them."""

    def test_a_store_without_semaphores_shrinks_nothing(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        if not store.semaphores:
            with pytest.raises(LockConfigError):
                store.shrink(name, claim.token, 1)

    def test_a_shrunk_lease_has_the_permits_that_it_keeps(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name, limit=5, permits=4)
        fencing_token = self.granted(store, claim)
        assert another.shrink(name, claim.token, 1) is True
        (holder,) = store.holders(name)
        assert (holder.token, holder.owner, holder.permits) == (claim.token, claim.owner, 1)
        assert (holder.fencing_token, holder.limit) == (fencing_token, 5)
        assert store.held(name) == 1
        self.granted(store, self.claim(name, limit=5, permits=4))
        self.refused(store, self.claim(name, limit=5))
        assert store.renew([self.renewal(claim)]) == [None]
        assert store.release(name, claim.token) is True
        assert store.held(name) == 4

    def test_a_shrink_may_be_repeated(self, store: Store, name: str) -> None:
        claim = self.claim(name, limit=5, permits=4)
        self.granted(store, claim)
        for permits in (2, 2, 3, 4, 9):
            assert store.shrink(name, claim.token, permits) is True
            assert store.held(name) == 2

    def test_a_shrink_whose_reply_is_lost(self, store: Store, name: str) -> None:
        claim = self.claim(name, limit=5, permits=4)
        self.granted(store, claim)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.shrink(name, claim.token, 3) is True
        assert store.held(name) == 3

    def test_only_a_holder_shrinks_its_lease(self, store: Store, name: str) -> None:
        expired, holder = self.claim(name, ttl=self.short, limit=9, permits=4), self.claim(name, limit=9, permits=4)
        self.granted(store, expired)
        self.granted(store, holder)
        self.pass_time(self.short)
        assert store.shrink(name, expired.token, 1) is False
        assert store.shrink(name, "no one", 1) is False
        assert store.held(name) == 4

    def test_a_shrink_wakes_the_next_in_line(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name, limit=3, permits=3), self.claim(name, limit=3, permits=2)
        self.granted(store, holder)
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            assert store.shrink(name, holder.token, 1)
            ended()
        self.granted(another, waiter)
        assert store.held(name) == 3
