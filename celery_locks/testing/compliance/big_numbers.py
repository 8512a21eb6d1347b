"""Limits and permits up to 2**53 (promise 39)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_locks._validation import LARGEST_COUNT
from celery_locks.stores.base import Store
from celery_locks.stores.types import Granted
from celery_locks.testing.compliance.base import StoreTests

#: Round numbers, too: Lua may write them as 1e+15.
LIMITS = (10**9, 10**14, 10**15, 2**52, LARGEST_COUNT)


class BigNumbers(StoreTests):
    """Limits and permits up to 2**53."""

    @pytest.mark.parametrize("limit", LIMITS)
    def test_promise_39_a_large_limit(self, store: Store, another: Store, name: str, limit: int) -> None:
        claims = [self.claim(name, limit=limit) for _ in range(2)]
        for claim in claims:
            self.granted(store, claim)
        assert [holder.limit for holder in another.holders(name)] == [limit, limit]
        assert another.held(name) == 2
        self.refused(another, self.claim(name))
        assert another.info(name).holders[0].limit == limit
        assert another.renew([self.renewal(claim) for claim in claims]) == [None, None]
        assert len(another.force_release(name)) == 2

    @pytest.mark.parametrize("limit", LIMITS)
    def test_promise_39_many_permits_are_counted_exactly(
        self, store: Store, another: Store, name: str, limit: int
    ) -> None:
        one, most = self.claim(name, limit=limit), self.claim(name, limit=limit, permits=limit - 1)
        self.granted(store, one)
        self.granted(store, most)
        assert another.held(name) == limit
        assert [holder.permits for holder in another.holders(name)] == [1, limit - 1]
        self.refused(another, self.claim(name, limit=limit))
        assert another.release(name, most.token)
        assert another.held(name) == 1
        self.refused(another, self.claim(name, limit=limit, permits=limit))
        assert another.release(name, one.token)
        self.granted(another, self.claim(name, limit=limit, permits=limit))
        self.refused(store, self.claim(name, limit=limit))

    @pytest.mark.parametrize("limit", LIMITS)
    def test_promise_39_many_permits_go_to_the_next_in_line(self, store: Store, name: str, limit: int) -> None:
        first, second = [self.claim(name, limit=limit, permits=limit) for _ in range(2)]
        self.granted(store, first)
        self.in_line(store, second)
        assert store.release(name, first.token)
        self.granted(store, second)
        assert store.held(name) == limit

    @pytest.mark.parametrize("limit", LIMITS)
    def test_promise_39_many_permits_are_adopted(self, store: Store, name: str, limit: int) -> None:
        call, run = [self.claim(name, limit=limit, permits=limit - 1) for _ in range(2)]
        self.granted(store, call)
        assert isinstance(store.acquire(replace(run, adopts=call.token)), Granted)
        assert store.held(name) == limit - 1
