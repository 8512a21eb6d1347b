"""The holders and the refusals that a store returns, and its checks."""

from __future__ import annotations

import uuid

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Refused, Renewal
from celery_locks.testing.compliance.base import ODD_NAMES, StoreTests


class HoldersAndRefusals(StoreTests):
    """The holders and the refusals that a store returns, and its checks."""

    def test_holders(self, store: Store, another: Store, name: str) -> None:
        claims = [self.claim(name, limit=5, permits=permits) for permits in (2, 1)]
        fencing_tokens = [self.granted(store, claim) for claim in claims]
        holders = another.holders(name)
        assert [holder.owner for holder in holders] == [claim.owner for claim in claims]
        assert [holder.token for holder in holders] == [claim.token for claim in claims]
        assert [holder.permits for holder in holders] == [2, 1]
        assert [holder.fencing_token for holder in holders] == fencing_tokens
        assert all(-0.01 <= holder.held_for < self.patience for holder in holders)
        assert all(0 < holder.expires_in <= self.long for holder in holders)
        assert not any(holder.token in repr(holder) for holder in holders)

    def test_a_new_lock_is_free(self, store: Store, name: str) -> None:
        assert store.holders(name) == ()

    def test_held_for_and_expires_in_follow_the_clock(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        self.pass_time(self.short)
        (holder,) = store.holders(name)
        assert holder.held_for >= self.short - 0.01
        assert holder.expires_in <= self.long - self.short + 0.01
        assert holder.held_for + holder.expires_in == pytest.approx(self.long, abs=0.01)

    def test_a_refusal_names_the_holders_in_order(self, store: Store, name: str) -> None:
        claims = [self.claim(name, limit=3) for _ in range(3)]
        for claim in claims:
            self.granted(store, claim)
        assert self.names(self.refused(store, self.claim(name, limit=3)).holders) == [claim.owner for claim in claims]

    def test_a_limited_number_of_holders_is_named(self, store: Store, name: str) -> None:
        limit = MOST_HOLDERS + 5
        claims = [self.claim(name, limit=limit) for _ in range(limit)]
        for claim in claims:
            self.granted(store, claim)
        first = [claim.owner for claim in claims[:MOST_HOLDERS]]
        assert self.names(store.holders(name)) == first
        assert self.names(self.refused(store, self.claim(name, limit=limit)).holders) == first
        assert self.names(store.force_release(name)) == first
        self.granted(store, self.claim(name, limit=limit, permits=limit))

    def test_retry_in_is_no_later_than_the_deadline(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        assert 0 < self.refused(store, self.claim(name)).retry_in <= self.long
        assert 0 < self.refused(store, self.claim(name), self.long).retry_in <= self.long

    def test_after_retry_in_a_dead_holder_is_gone(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name, ttl=2.0))
        self._retry(store, waiter, store.acquire(waiter, self.long), 2.0)

    def test_after_retry_in_a_dead_waiter_is_gone(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name), 2.0)
        store.release(name, holder.token)
        self._retry(store, waiter, store.acquire(waiter, self.long), 2.0)

    def test_after_retry_in_a_dead_waiter_that_was_woken_is_gone(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name), 2.0)
        answer = self.refused(store, waiter, self.long)
        store.release(name, holder.token)  # wakes the dead waiter, and no one wakes the next
        if answer.position == 0:
            pytest.skip("this machine was too slow: the waiter had expired before the next one came")
        self._retry(store, waiter, answer, 2.0)

    def _retry(self, store: Store, claim: Claim, answer: Granted | Refused, within: float) -> None:
        """Try again after each ``retry_in``, and expect to be served within this many seconds."""
        left = within
        while left > 0 and isinstance(answer, Refused):
            assert 0 < answer.retry_in <= within
            self.pass_time(answer.retry_in)
            left -= answer.retry_in
            answer = store.acquire(claim, self.long)
        assert isinstance(answer, Granted)

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_names(self, store: Store, another: Store, name: str, odd: str) -> None:
        odd = name[-32:] + odd[32:] if len(odd) == 200 else f"{odd}{name}{odd}"
        holder, waiter = self.claim(odd), self.claim(odd)
        self.granted(store, holder)
        assert self.names(self.refused(another, waiter, self.long).holders) == [holder.owner]
        assert another.renew([Renewal(odd, holder.token, self.long)]) == [None]
        self.granted(store, self.claim(odd + "x"))
        with self.waiting(another, waiter) as ended:
            assert store.release(odd, holder.token)
            ended()
        self.granted(another, waiter)
        assert self.names(store.force_release(odd)) == [waiter.owner]

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_owners(self, store: Store, name: str, odd: str) -> None:
        self.granted(store, Claim(name, uuid.uuid4().hex, odd, self.long))
        assert self.names(store.holders(name)) == [odd]

    def test_ping(self, store: Store) -> None:
        store.ping()

    def test_close_keeps_the_leases(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        store.close()
        assert self.names(store.holders(name)) == [claim.owner]
        store.close()
        store.close()
        assert store.release(name, claim.token)

    def test_a_shared_store_is_seen_by_others(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert self.names(another.holders(name)) == [claim.owner]
        assert another.release(name, claim.token)
        assert store.holders(name) == ()
